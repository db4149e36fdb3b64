//! Ids in the form of UUIDs.

use rand::RngExt;

use crate::env::Rng;

/// A random UUID (version 4): nobody has it, and nobody guesses it who does not know the generator's seed.
pub fn random(rng: &mut Rng) -> String {
    let (a, b): (u64, u64) = (rng.random(), rng.random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        0x8000 | (b >> 48 & 0x3fff),
        b & 0xffff_ffff_ffff
    )
}

/// Whether a text has the form of one.
pub fn is_uuid(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn it_looks_as_one() {
        let mut rng = Rng::seed_from_u64(1);
        let id = random(&mut rng);
        assert!(is_uuid(&id) && &id[14..15] == "4", "{id}");
        assert_ne!(id, random(&mut rng));
        for no in ["", "1-2", "0000000000-0000-0000-0000-0000000000", "é0000000-0000-0000-0000-00000000000"]
        {
            assert!(!is_uuid(no), "{no}");
        }
    }
}
