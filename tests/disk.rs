//! The disks of production: a directory, and memory. The simulated one is held to the same in `sim/tests/seams.rs`.

#[path = "common/disk.rs"]
mod body;

use driftline::env::{MemoryDisk, real};

#[test]
fn a_directory_does_what_a_disk_has_to() {
    let directory = tempfile::tempdir().unwrap();
    body::conforms(&*real::env(directory.path()).unwrap().disk());
}

#[test]
fn memory_does_what_a_disk_has_to() {
    body::conforms(&MemoryDisk::default());
}
