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
///
/// Two lanes of one multiplication for each eight bytes: a prompt of a megabyte is hashed whole, and Wasm has no
/// wider arithmetic. The finaliser spreads what the lanes hold over all bits.
pub fn bytes(bytes: &[u8]) -> u64 {
    const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
    const SECOND: u64 = 0xd1b5_4a32_d192_ed03;
    let (mut first, mut second) = (SEED ^ (bytes.len() as u64), SEED);
    let (pairs, rest) = bytes.as_chunks::<16>();
    for pair in pairs {
        let [low, high] = halves(pair);
        first = (first.rotate_left(23) ^ low).wrapping_mul(FIRST);
        second = (second.rotate_left(23) ^ high).wrapping_mul(SECOND);
    }
    let mut last = [0u8; 16];
    for (slot, byte) in last.iter_mut().zip(rest) {
        *slot = *byte;
    }
    let [low, high] = halves(&last);
    combine(first.rotate_left(23) ^ low, second.rotate_left(23) ^ high)
}

fn halves(pair: &[u8; 16]) -> [u64; 2] {
    let wide = u128::from_le_bytes(*pair);
    [wide as u64, (wide >> 64) as u64]
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
