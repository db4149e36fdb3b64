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

/// What is written into files that nobody finds any more must not count as durable.
#[test]
fn files_that_somebody_else_took_away_are_not_synced() {
    let above = tempfile::tempdir().unwrap();
    let place = above.path().join("data");
    let disk = real::env(&place).unwrap().disk();
    let [one, two, three] = ["one", "two", "three"].map(|name| disk.open(name).unwrap());
    // What the node itself renames and removes is another matter.
    disk.rename("two", "new").unwrap();
    disk.remove("three").unwrap();
    for file in [&one, &two, &three] {
        file.write_at(0, b"x").unwrap();
        file.sync().unwrap();
    }
    disk.rename("one", "new").unwrap();
    two.sync().unwrap();

    std::fs::remove_file(place.join("new")).unwrap();
    let said = one.sync().unwrap_err().to_string();
    assert!(said.contains("files in it were removed or replaced"), "{said}");
    let new = disk.open("new").unwrap();
    new.sync().unwrap();
    std::fs::rename(&place, above.path().join("elsewhere")).unwrap();
    assert!(new.sync().is_err());
    std::fs::create_dir(&place).unwrap();
    assert!(new.sync().is_err(), "another directory of the same name");
}
