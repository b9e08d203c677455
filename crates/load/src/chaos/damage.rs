//! What becomes of bytes on a bad line, and bytes that were never a frame.

use rand::Rng;
use rand::RngExt as _;

use hawk_wire::START_MARKER;

/// Most bytes, or bits, that one fault touches.
const MOST: usize = 16;

/// Bytes of one piece of junk: mostly little, sometimes beyond the server's
/// budget of 256 KiB.
const JUNK: usize = 64 * 1024;
const MUCH_JUNK: usize = 300 * 1024;

/// Damages a frame by flips, an insertion or a deletion.
pub(super) fn corrupt(frame: &mut Vec<u8>, random: &mut impl Rng) {
    let count = random.random_range(1..=MOST);
    let at = random.random_range(0..frame.len());
    match random.random_range(0..3) {
        0 => {
            for _ in 0..count {
                let at = random.random_range(0..frame.len());
                frame[at] ^= 1 << random.random_range(0..8);
            }
        }
        1 => {
            let added: Vec<u8> = (0..count).map(|_| random.random()).collect();
            frame.splice(at..at, added);
        }
        _ => drop(frame.drain(at..frame.len().min(at + count))),
    }
}

/// Cuts off the end of a frame: a byte at least is left, and a byte is missing.
pub(super) fn cut(frame: &mut Vec<u8>, random: &mut impl Rng) {
    frame.truncate(random.random_range(1..frame.len()));
}

/// What scanners, other protocols and ill will send to an open port.
pub(super) fn junk(random: &mut impl Rng) -> Vec<u8> {
    match random.random_range(0..5) {
        0 => noise(random),
        1 => b"GET / HTTP/1.1\r\nHost: hawk\r\nUser-Agent: probe\r\n\r\n".to_vec(),
        2 => client_hello(random),
        3 => forged_lengths(random),
        _ => vec![START_MARKER[0]; size(random)],
    }
}

fn noise(random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = vec![0; size(random)];
    random.fill(&mut bytes[..]);
    bytes
}

/// Evenly over the orders of magnitude; one in eight is too much.
fn size(random: &mut impl Rng) -> usize {
    if random.random_ratio(1, 8) {
        return MUCH_JUNK;
    }
    let most = JUNK >> random.random_range(0..16);
    random.random_range(1..=most)
}

/// Returns the beginning of a TLS handshake (RFC 8446, section 4.1.2) with random content.
fn client_hello(random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03".to_vec();
    bytes.extend((0..506).map(|_| random.random::<u8>()));
    bytes
}

/// Headers that claim data which does not come, one inside the other.
fn forged_lengths(random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(1..=1000) {
        bytes.extend_from_slice(&START_MARKER);
        bytes.extend(random.random::<u16>().to_be_bytes());
        bytes.resize(bytes.len() + random.random_range(0..16), b'x');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn damage_changes_a_frame_and_a_cut_shortens_it() {
        let mut random = StdRng::seed_from_u64(1);
        let frame: Vec<u8> = (0..100).collect();
        let mut changed = 0;
        for _ in 0..1000 {
            let mut damaged = frame.clone();
            corrupt(&mut damaged, &mut random);
            // An even number of flips may undo themselves.
            changed += u32::from(damaged != frame);
            let mut short = frame.clone();
            cut(&mut short, &mut random);
            assert!(!short.is_empty() && frame.starts_with(&short) && short != frame);
        }
        assert!(changed > 990);
    }

    #[test]
    fn junk_comes_in_every_size() {
        let mut random = StdRng::seed_from_u64(1);
        let sizes: Vec<_> = (0..500).map(|_| junk(&mut random).len()).collect();
        assert!(sizes.iter().any(|size| *size < 20));
        assert!(sizes.iter().any(|size| (1000..JUNK).contains(size)));
        assert!(sizes.contains(&MUCH_JUNK));
    }
}
