//! What machine this is, in the form of `/v1/agent/host`, from what the kernel shows under /proc; and how much of it this
//! process takes.
//!
//! What cannot be read is left out, and named under `Errors`.

use std::fs;

use serde_json::{Map, Value, json};

/// The file system that is told of, which is the one that Consul tells of.
const ROOT: &str = "/";

/// Everything that could be read.
pub fn describe() -> Value {
    let mut errors = Vec::new();
    let mut read = |path: &str| {
        fs::read_to_string(path).map_err(|error| errors.push(format!("{path}: {error}"))).unwrap_or_default()
    };
    let memory = memory(&read("/proc/meminfo"));
    let cpus = cpus(&read("/proc/cpuinfo"));
    let uptime = read("/proc/uptime");
    let seconds = |text: &str| text.split_whitespace().next()?.parse::<f64>().ok();
    let boot =
        read("/proc/stat").lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    let host = json!({
        "hostname": read("/proc/sys/kernel/hostname").trim(),
        "uptime": seconds(&uptime).unwrap_or_default() as u64,
        "bootTime": boot,
        "os": std::env::consts::OS,
        "kernelVersion": read("/proc/sys/kernel/osrelease").trim(),
        "kernelArch": std::env::consts::ARCH,
    });
    let disk = disk(ROOT).map_err(|error| errors.push(format!("{ROOT}: {error}"))).ok();
    json!({ "Memory": memory, "CPU": cpus, "Host": host, "Disk": disk, "Errors": errors })
}

/// How full the file system is that this path is on.
fn disk(path: &str) -> rustix::io::Result<Value> {
    let seen = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(seen.f_frsize);
    let percent = |used: u64, free: u64| used as f64 * 100.0 / used.saturating_add(free).max(1) as f64;
    let used = seen.f_blocks.saturating_sub(seen.f_bfree);
    let inodes_used = seen.f_files.saturating_sub(seen.f_ffree);
    Ok(json!({
        "path": path,
        "total": bytes(seen.f_blocks),
        // What only root may still take is not free.
        "free": bytes(seen.f_bavail),
        "used": bytes(used),
        "usedPercent": percent(used, seen.f_bavail),
        "inodesTotal": seen.f_files,
        "inodesUsed": inodes_used,
        "inodesFree": seen.f_ffree,
        "inodesUsedPercent": percent(inodes_used, seen.f_ffree),
    }))
}

/// How much memory this process has, in bytes; nothing where the kernel does not say.
pub fn resident_bytes() -> Option<u64> {
    resident(&fs::read_to_string("/proc/self/status").ok()?)
}

/// The same of /proc/self/status.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// /proc/meminfo in bytes.
fn memory(text: &str) -> Value {
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let mut found = Map::new();
    for (name, key) in [
        ("MemTotal", "total"),
        ("MemAvailable", "available"),
        ("MemFree", "free"),
        ("Buffers", "buffers"),
        ("Cached", "cached"),
        ("SwapTotal", "swapTotal"),
        ("SwapFree", "swapFree"),
    ] {
        if let Some(kib) = kib(name) {
            found.insert(key.to_owned(), json!(kib * 1024));
        }
    }
    if let (Some(total), Some(available)) = (kib("MemTotal"), kib("MemAvailable")) {
        let used = total.saturating_sub(available);
        found.insert("used".to_owned(), json!(used * 1024));
        found.insert("usedPercent".to_owned(), json!(used as f64 * 100.0 / total.max(1) as f64));
    }
    Value::Object(found)
}

/// One entry for each processor of /proc/cpuinfo.
fn cpus(text: &str) -> Vec<Value> {
    let blocks = text.split("\n\n").filter(|block| block.contains("processor"));
    let field = |block: &str, name: &str| -> String {
        let line = block.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let number = |text: String| text.parse::<f64>().unwrap_or_default();
    blocks
        .map(|block| {
            json!({
                "cpu": number(field(block, "processor")) as u64,
                "vendorId": field(block, "vendor_id"),
                "modelName": field(block, "model name"),
                "mhz": number(field(block, "cpu MHz")),
                "cores": 1,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_bytes() {
        let memory = memory("MemTotal:       1000 kB\nMemFree:  100 kB\nMemAvailable: 250 kB\n");
        assert_eq!(memory["total"], 1_024_000);
        assert_eq!(memory["used"], 768_000);
        assert_eq!(memory["usedPercent"], 75.0);
        assert_eq!(super::memory("nonsense"), json!({}));
    }

    #[test]
    fn the_disk_and_the_process_are_told_of() {
        let seen = disk(ROOT).unwrap();
        assert!(seen["total"].as_u64() >= seen["used"].as_u64() && seen["total"] != 0, "{seen}");
        assert!(disk("/no such path").is_err());
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1000 kB\n"), Some(1_024_000));
        assert_eq!(resident("nonsense"), None);
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 16));
    }

    #[test]
    fn each_processor_is_told_of() {
        let text =
            "processor\t: 0\nvendor_id\t: X\ncpu MHz\t\t: 2000.5\n\nprocessor\t: 1\nmodel name\t: Y\n\n";
        let cpus = cpus(text);
        assert_eq!(cpus.len(), 2);
        assert_eq!((&cpus[0]["vendorId"], &cpus[0]["mhz"]), (&json!("X"), &json!(2000.5)));
        assert_eq!((&cpus[1]["cpu"], &cpus[1]["modelName"]), (&json!(1), &json!("Y")));
    }
}
