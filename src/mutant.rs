//! Real bugs put back on purpose, one at a time, so that the testbed can prove it catches them.
//!
//! Compiled in only with the `mutants` feature, which only the testbed turns on; everywhere else
//! [`is`] is a constant `false` and the bug is not in the binary. Each id is described in
//! `sim/src/mutants`, with where it comes from and the check that must catch it.

#[cfg(feature = "mutants")]
static ACTIVE: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Turns one bug on for the rest of this process. The first call wins.
#[cfg(feature = "mutants")]
pub fn activate(id: &str) {
    let _ = ACTIVE.set(id.to_owned());
}

/// Whether the bug `id` is on.
#[inline]
pub fn is(id: &str) -> bool {
    #[cfg(feature = "mutants")]
    return ACTIVE.get().is_some_and(|active| active == id);
    #[cfg(not(feature = "mutants"))]
    {
        let _ = id;
        false
    }
}

/// Up to a tenth of a second from the operating system: what mutant T02 lets into a timer. It reads the
/// device, because the simulator also answers for the system call.
pub fn system_jitter() -> std::time::Duration {
    #[cfg(feature = "mutants")]
    {
        let mut byte = [0u8];
        let device = std::fs::File::open("/dev/urandom");
        // Without entropy there is no jitter, and the mutant survives.
        let _ = device.and_then(|mut device| std::io::Read::read_exact(&mut device, &mut byte));
        std::time::Duration::from_micros(u64::from(byte[0]) * 390)
    }
    #[cfg(not(feature = "mutants"))]
    std::time::Duration::ZERO
}
