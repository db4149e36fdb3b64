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

/// A byte of the operating system's randomness. It reads the device, because the simulator also answers for
/// the system call. Without entropy it is 0, and the mutant survives.
#[cfg(feature = "mutants")]
fn system_byte() -> u8 {
    let mut byte = [0u8];
    let device = std::fs::File::open("/dev/urandom");
    let _ = device.and_then(|mut device| std::io::Read::read_exact(&mut device, &mut byte));
    byte[0]
}

/// Up to a tenth of a second from the operating system: what mutant T02 lets into a timer.
pub fn system_jitter() -> std::time::Duration {
    #[cfg(feature = "mutants")]
    return std::time::Duration::from_micros(u64::from(system_byte()) * 390);
    #[cfg(not(feature = "mutants"))]
    std::time::Duration::ZERO
}

/// Brings things into an order that the operating system decides, as a hash map with its random seed
/// does: mutant T01.
pub fn system_order<T>(things: &mut [T]) {
    #[cfg(feature = "mutants")]
    if !things.is_empty() {
        things.rotate_left(usize::from(system_byte()) % things.len());
    }
    #[cfg(not(feature = "mutants"))]
    let _ = things;
}

/// What a buffer holds that is used again and not cut to what was written last, so that a longer content before shows
/// through behind it: mutant H13. Without it, just what was written.
pub fn buffered(bytes: std::sync::Arc<[u8]>) -> std::sync::Arc<[u8]> {
    #[cfg(feature = "mutants")]
    if is("H13") {
        static BUFFER: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());
        let mut buffer = BUFFER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let rest = buffer.get(bytes.len()..).unwrap_or_default().to_vec();
        *buffer = [&bytes[..], &rest].concat();
        return buffer.clone().into();
    }
    bytes
}

/// The number of the process, which is another one at every run: mutant T03.
pub fn process_number() -> u64 {
    #[cfg(feature = "mutants")]
    return u64::from(std::process::id());
    #[cfg(not(feature = "mutants"))]
    0
}
