//! What every implementation of the Disk seam has to do, whatever world it is of: one body, run on a directory of
//! the file system, in memory, and in simulation.

use std::io;

use driftline::env::Disk;

/// Runs on an empty directory and leaves some files there.
pub fn conforms(disk: &dyn Disk) {
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    bytes(disk);
    names(disk);
    folders(disk);
    the_lock(disk);
}

fn contents(disk: &dyn Disk, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![1; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn bytes(disk: &dyn Disk) {
    assert!(!disk.exists("a").unwrap());
    let file = disk.open("a").unwrap();
    assert!(disk.exists("a").unwrap() && file.is_empty().unwrap());

    file.write_at(3, b"xyz").unwrap();
    assert_eq!(contents(disk, "a"), b"\0\0\0xyz", "what was skipped is zeros");
    file.write_at(1, b"abc").unwrap();
    assert_eq!(contents(disk, "a"), b"\0abcyz");

    let mut buffer = [0; 3];
    file.read_at(3, &mut buffer).unwrap();
    assert_eq!(&buffer, b"cyz");
    assert_eq!(file.read_at(4, &mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(file.read_at(u64::MAX, &mut buffer).is_err() && file.write_at(u64::MAX, b"x").is_err());

    file.set_len(2).unwrap();
    file.set_len(5).unwrap();
    assert_eq!(contents(disk, "a"), b"\0a\0\0\0", "what was cut off does not come back");
    file.preallocate(3).unwrap();
    assert_eq!(file.len().unwrap(), 5, "it never gets shorter by that");
    file.preallocate(200_000).unwrap();
    let all = contents(disk, "a");
    assert!(all.len() == 200_000 && all[..2] == *b"\0a" && all[2..].iter().all(|byte| *byte == 0));
    file.sync().unwrap();
}

fn names(disk: &dyn Disk) {
    disk.open("b").unwrap().write_at(0, b"b").unwrap();
    disk.open("c").unwrap().write_at(0, b"c").unwrap();
    assert_eq!(disk.list().unwrap(), ["a", "b", "c"]);
    let held = disk.open("c").unwrap();
    disk.rename("b", "c").unwrap();
    assert_eq!(contents(disk, "c"), b"b", "the file that had the name is replaced");
    let mut byte = [0];
    held.read_at(0, &mut byte).unwrap();
    assert_eq!(&byte, b"c", "whoever has it open keeps it");
    assert_eq!(disk.list().unwrap(), ["a", "c"]);
    disk.remove("c").unwrap();
    assert!(!disk.exists("c").unwrap());
    assert_eq!(disk.open("c").unwrap().len().unwrap(), 0, "a new file is a new file");
    for error in [disk.rename("nobody", "d").unwrap_err(), disk.remove("nobody").unwrap_err()] {
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
    disk.sync_dir().unwrap();
    assert!(!disk.describe().is_empty());
}

fn folders(disk: &dyn Disk) {
    assert_eq!(disk.list_in("f").unwrap(), Vec::<String>::new(), "there is no such folder yet");
    for name in ["f/b", "f/a", "fa/c"] {
        disk.open(name).unwrap().write_at(0, name.as_bytes()).unwrap();
    }
    assert_eq!(disk.list_in("f").unwrap(), ["f/a", "f/b"]);
    assert_eq!(disk.list().unwrap(), ["a", "c"], "what is in a folder is listed there alone");
    disk.rename("f/a", "f/b").unwrap();
    assert_eq!(
        (disk.list_in("f").unwrap(), contents(disk, "f/b")),
        (vec!["f/b".to_owned()], b"f/a".to_vec())
    );
    disk.sync_dir().unwrap();
    disk.remove("f/b").unwrap();
    assert!(!disk.exists("f/b").unwrap());
    assert_eq!(disk.remove("f/b").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.list_in("f").unwrap(), Vec::<String>::new());
    disk.remove("fa/c").unwrap();
    disk.sync_dir().unwrap();
}

fn the_lock(disk: &dyn Disk) {
    let held = disk.lock().unwrap();
    assert_eq!(disk.lock().err().unwrap().kind(), io::ErrorKind::WouldBlock);
    drop(held);
    drop(disk.lock().unwrap());
    assert_eq!(disk.list().unwrap(), ["a", "c"], "the lock is no file of the node's");
}
