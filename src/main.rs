//! The `driftline` program.
fn main() {}
