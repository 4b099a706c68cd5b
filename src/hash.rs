//! The hashes that VMs and gateway replicas must agree on.
//!
//! Their values are part of the shared formats: a change needs a new format version, and the golden
//! vectors in `tests/spec` hold them. Quality matters more than secrecy, since nobody gains by colliding
//! with himself; speed matters on prompts, so eight bytes are taken at a time.

/// The seed of every hash: an arbitrary odd constant, fixed for ever.
const SEED: u64 = 0x2545_f491_4f6c_dd1d;

/// SplitMix64's finaliser: a bijection on 64 bits in which every input bit flips about half of the output.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A 64-bit hash of `bytes`.
pub fn bytes(bytes: &[u8]) -> u64 {
    let mut hash = SEED ^ (bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash ^ u64::from_le_bytes(*word));
    }
    let mut last = [0u8; 8];
    for (slot, byte) in last.iter_mut().zip(rest) {
        *slot = *byte;
    }
    mix(hash ^ u64::from_le_bytes(last))
}

/// One hash of two, in this order.
pub fn combine(first: u64, second: u64) -> u64 {
    mix(mix(first ^ SEED) ^ second)
}

/// The key of an endpoint in the tables that all workers share: its pool's name and its address.
pub fn endpoint(pool: &str, address: &str) -> u64 {
    combine(bytes(pool.as_bytes()), bytes(address.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn order_length_and_every_byte_count() {
        assert_ne!(bytes(b""), bytes(b"\0"));
        assert_ne!(bytes(b"abcdefgh"), bytes(b"abcdefgh\0"));
        assert_ne!(bytes(b"abcdefghi"), bytes(b"abcdefghj"));
        assert_ne!(combine(1, 2), combine(2, 1));
        assert_ne!(endpoint("ab", "c"), endpoint("a", "bc"));
    }
}
