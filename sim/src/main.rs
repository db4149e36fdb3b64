//! The `sim` program; [`sim::cli`] says what it does.

fn main() -> std::process::ExitCode {
    sim::cli::main()
}
