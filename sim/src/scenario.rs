//! placeholder
use rand::SeedableRng;
use rand::rngs::StdRng;
/// A stream.
pub fn stream(seed: u64, name: &str) -> StdRng {
    let mut bytes = [0u8; 32];
    for (i, chunk) in bytes.chunks_mut(8).enumerate() {
        let salt = seed.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        chunk.copy_from_slice(&xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), salt).to_le_bytes());
    }
    StdRng::from_seed(bytes)
}
