//! The decoder's rules one by one, and its three properties.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::{MAX_DATA, encode_frame};

/// Counts the decoder's work, test by test.
pub(super) static WORK: Work = Work;

pub(super) struct Work;

thread_local! {
    static SEARCHED: Cell<usize> = const { Cell::new(0) };
    static SUMMED: Cell<usize> = const { Cell::new(0) };
}

impl Work {
    pub(super) fn searched(&self, bytes: usize) {
        SEARCHED.with(|count| count.set(count.get() + bytes));
    }

    pub(super) fn summed(&self, bytes: usize) {
        SUMMED.with(|count| count.set(count.get() + bytes));
    }

    /// Bytes searched and summed since the last call.
    fn take(&self) -> (usize, usize) {
        (SEARCHED.take(), SUMMED.take())
    }
}

/// Everything that `stream` yields when it arrives in pieces of `piece` bytes.
fn decode_in_pieces(stream: &[u8], piece: usize) -> (Vec<String>, DecoderState) {
    let mut decoder = Decoder::default();
    let mut found = Vec::new();
    let (mut start, mut end) = (0, 0);
    while end < stream.len() {
        end = (end + piece).min(stream.len());
        loop {
            let decoded = decoder.decode(&stream[start..end], Input::Open);
            start += decoded.consumed;
            match decoded.step {
                Step::Frame(data) => {
                    found.push(String::from_utf8_lossy(data).into_owned());
                }
                Step::ChecksumMismatch => found.push("!sum".into()),
                Step::Incomplete => break,
                Step::JunkLimit => {
                    found.push(format!("!junk at {start}"));
                    return (found, decoder.state());
                }
            }
        }
    }
    (found, decoder.state())
}

#[track_caller]
fn expect(stream: &[u8], expected: &[&str]) -> DecoderState {
    let (whole, state) = decode_in_pieces(stream, stream.len());
    assert_eq!(whole, expected);
    assert_eq!(decode_in_pieces(stream, 1), (whole, state));
    state
}

fn frame(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_frame(data, &mut out).unwrap();
    out
}

#[test]
fn frames_back_to_back() {
    let stream = [frame(b"one"), frame(b""), frame(b"three")].concat();
    let state = expect(&stream, &["one", "", "three"]);
    assert_eq!(state, DecoderState::default());
}

#[test]
fn junk_before_a_frame_is_skipped_and_forgiven() {
    let stream = [b"junk \xFF junk".to_vec(), frame(b"one")].concat();
    let state = expect(&stream, &["one"]);
    assert_eq!(state.junk, 0);
}

#[test]
fn a_false_length_does_not_swallow_the_next_frame() {
    let stream = [b"\xFF\xFF\x40\x00short".to_vec(), frame(b"one")].concat();
    expect(&stream, &["one"]);
}

#[test]
fn a_wrong_checksum_is_reported_and_costs_only_its_frame() {
    let mut bad = frame(b"bad");
    bad[5] ^= 1;
    let stream = [bad, frame(b"one")].concat();
    expect(&stream, &["!sum", "one"]);
}

#[test]
fn a_wrong_end_marker_is_silent_junk() {
    let mut bad = frame(b"bad");
    let last = bad.len() - 1;
    bad[last] = 0xFD;
    let state = expect(&bad, &[]);
    assert_eq!(state.junk as usize, bad.len());
}

#[test]
fn a_stray_mark_before_a_frame() {
    for strays in 1..5 {
        let stream = [vec![0xFF; strays], frame(b"one"), frame(b"two")].concat();
        expect(&stream, &["one", "two"]);
    }
}

#[test]
fn the_boundary_is_known_behind_recognised_frames_only() {
    let at_boundary = |stream: &[u8]| {
        let mut decoder = Decoder::default();
        let mut start = 0;
        loop {
            let decoded = decoder.decode(&stream[start..], Input::Open);
            start += decoded.consumed;
            if decoded.step == Step::Incomplete {
                return decoder.at_boundary();
            }
        }
    };
    let mut wrong_sum = frame(b"x");
    wrong_sum[4] = b'y';
    assert!(at_boundary(b""));
    assert!(at_boundary(b"\xFF"));
    assert!(at_boundary(b"\xFF\xFF\x00"));
    assert!(at_boundary(&[frame(b"x"), b"\xFF\xFF".to_vec()].concat()));
    assert!(at_boundary(
        &[wrong_sum.clone(), b"\xFF\xFF".to_vec()].concat()
    ));
    assert!(at_boundary(&wrong_sum));
    assert!(!at_boundary(b"j"));
    assert!(!at_boundary(b"j\xFF\xFF"));
    assert!(!at_boundary(b"\xFF\xFF\x00\x09a\xFF\xFF\x10"));
}

#[test]
fn an_abandoned_candidate_gives_way_to_the_frame_it_hid() {
    // A stray mark before a frame of FFFC bytes hides its end.
    let stream = [vec![0xFF], frame(&[b'x'; 0xFFFC])].concat();
    let mut decoder = Decoder::default();
    let decoded = decoder.decode(&stream, Input::Open);
    assert_eq!((decoded.consumed, decoded.step), (0, Step::Incomplete));

    let mut at_end = decoder.clone();
    assert!(matches!(
        at_end.decode(&stream, Input::Ended).step,
        Step::Frame(data) if data.len() == 0xFFFC
    ));

    let junk = decoder.abandon(&stream);
    assert_eq!(junk, 1);
    assert!(matches!(
        decoder.decode(&stream[junk..], Input::Open).step,
        Step::Frame(_)
    ));
}

#[test]
fn the_end_of_input_settles_everything() {
    let stream = b"\xFF\xFF\x00\x05abc";
    let mut decoder = Decoder::default();
    assert_eq!(decoder.decode(stream, Input::Open).consumed, 0);
    let decoded = decoder.decode(stream, Input::Ended);
    assert_eq!(
        (decoded.consumed, decoded.step),
        (stream.len(), Step::Incomplete)
    );
    assert_eq!(decoder.junk() as usize, stream.len());
}

#[test]
fn junk_is_counted_byte_by_byte_up_to_the_limit() {
    let limit = JUNK_LIMIT as usize;
    let mut stream = vec![b'j'; limit - 1];
    assert_eq!(decode_in_pieces(&stream, 4096).0, Vec::<String>::new());
    stream.extend_from_slice(b"jjj");
    for piece in [1, 4096, stream.len()] {
        let (found, state) = decode_in_pieces(&stream, piece);
        assert_eq!(found, [format!("!junk at {limit}")]);
        assert_eq!(state.junk, JUNK_LIMIT);
    }
}

#[test]
fn a_frame_that_passes_renews_the_junk_budget() {
    let junk = vec![b'j'; JUNK_LIMIT as usize - 1];
    let stream = [junk.clone(), frame(b"one"), junk, frame(b"two")].concat();
    let (found, _) = decode_in_pieces(&stream, 65_536);
    assert_eq!(found, ["one", "two"]);
}

#[test]
fn the_longest_frame_passes() {
    let stream = frame(&[b'x'; MAX_DATA]);
    let (found, _) = decode_in_pieces(&stream, 1);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].len(), MAX_DATA);
}

/// A stream that is hard on the decoder: candidates with all kinds of claimed
/// lengths, cut short, run together and damaged, among intact frames.
fn hostile_stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => prop::collection::vec(prop::sample::select(vec![0xFF, 0xFE, 0, 1, 2, 3, b'x']), 0..12),
        2 => "[ -~]{0,40}".prop_map(|text| frame(text.as_bytes())),
        2 => ("[ -~]{0,40}", 1..=u8::MAX, any::<prop::sample::Index>()).prop_map(
            |(text, noise, at)| {
                let mut damaged = frame(text.as_bytes());
                let at = at.index(damaged.len());
                damaged[at] ^= noise;
                damaged
            }
        ),
        1 => (0..400_u16, 0..400_usize).prop_map(|(claimed, present)| {
            let mut cut = vec![0xFF, 0xFF];
            cut.extend(claimed.to_be_bytes());
            cut.extend(std::iter::repeat_n(b'y', present));
            cut
        }),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// Findings with the number of bytes that had come when each was made, and
/// what the decoder makes of the end of file.
fn findings(stream: &[u8], cuts: &[usize]) -> Vec<(usize, String)> {
    let mut decoder = Decoder::default();
    let mut found = Vec::new();
    let mut start = 0;
    let ends = cuts.iter().copied().chain([stream.len()]);
    for (end, input) in ends
        .map(|end| (end, Input::Open))
        .chain([(stream.len(), Input::Ended)])
    {
        loop {
            let decoded = decoder.decode(&stream[start..end], input);
            start += decoded.consumed;
            match decoded.step {
                Step::Frame(data) => found.push((start, format!("{data:?}"))),
                Step::ChecksumMismatch => found.push((start, "wrong sum".to_owned())),
                Step::Incomplete => break,
                Step::JunkLimit => {
                    found.push((start, "junk limit".to_owned()));
                    return found;
                }
            }
        }
    }
    assert_eq!(start, stream.len(), "the end of input settles everything");
    found
}

/// Whether `target` is decoded as soon as its last byte is in, after `before`.
fn decoded_in_time(before: &[u8], target: &[u8]) -> bool {
    let stream = [before, target].concat();
    let mut decoder = Decoder::default();
    let mut start = 0;
    // All but the last byte first: nothing of the target may be out yet.
    for end in [stream.len() - 1, stream.len()] {
        loop {
            let decoded = decoder.decode(&stream[start..end], Input::Open);
            start += decoded.consumed;
            match decoded.step {
                Step::Frame(data) if end == stream.len() => {
                    assert_eq!(start, stream.len());
                    return data == &target[HEADER..target.len() - TRAILER];
                }
                Step::Frame(_) | Step::ChecksumMismatch => {}
                Step::Incomplete | Step::JunkLimit => break,
            }
        }
    }
    false
}

proptest! {
    /// Property 1: a damaged frame costs only itself.
    #[test]
    fn an_intact_frame_behind_any_damage_is_decoded_in_time(
        damage in hostile_stream(),
        text in "[ -~]{0,300}",
    ) {
        prop_assert!(decoded_in_time(&damage, &frame(text.as_bytes())));
    }

    /// Property 2: linear time, one byte a read or all at once.
    #[test]
    fn no_byte_is_searched_more_than_thrice_or_summed_more_than_twice(
        stream in hostile_stream(),
        piece in prop::sample::select(vec![1, 7, usize::MAX]),
    ) {
        WORK.take();
        let cuts: Vec<usize> = (1..stream.len()).step_by(piece.min(1 << 20)).collect();
        findings(&stream, &cuts);
        let (searched, summed) = WORK.take();
        prop_assert!(searched <= 3 * stream.len(), "{searched} of {}", stream.len());
        prop_assert!(summed <= 2 * stream.len(), "{summed} of {}", stream.len());
    }

    /// Property 3: chunking does not matter, end of file included.
    #[test]
    fn any_split_gives_the_same_findings(
        stream in hostile_stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|at| at.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = findings(&stream, &[]);
        prop_assert_eq!(&findings(&stream, &cuts), &whole);
        let bytewise: Vec<usize> = (1..stream.len()).collect();
        prop_assert_eq!(&findings(&stream, &bytewise), &whole);
    }

    /// A decoder rebuilt from its state continues like the original.
    #[test]
    fn a_rebuilt_decoder_continues_like_the_original(stream in hostile_stream(), at in any::<prop::sample::Index>()) {
        let at = at.index(stream.len() + 1);
        let mut decoder = Decoder::default();
        let mut start = 0;
        for end in [at, stream.len()] {
            let mut other = Decoder::rebuild(decoder.state());
            loop {
                let decoded = decoder.decode(&stream[start..end], Input::Open);
                prop_assert_eq!(decoded, other.decode(&stream[start..end], Input::Open));
                start += decoded.consumed;
                if matches!(decoded.step, Step::Incomplete | Step::JunkLimit) {
                    break;
                }
            }
        }
    }
}

/// The worst that overlapping candidates can do: long ones, one byte apart,
/// each claiming nearly all that follows, one byte a read.
#[test]
fn overlapping_long_candidates_stay_linear() {
    let mut stream = vec![0xFF, 0xFF, 0xFF, 0xFF, 0xFE];
    stream.extend(std::iter::repeat_n(b'x', 0x1_0005 - 5));
    stream.extend([0xFF, 0xFE]);
    stream.extend(std::iter::repeat_n(b'x', 100));
    WORK.take();
    let cuts: Vec<usize> = (1..stream.len()).collect();
    let found = findings(&stream, &cuts);
    let (searched, summed) = WORK.take();
    assert_eq!(found.len(), 2, "both end at the same marker: {found:?}");
    assert!(searched <= 3 * stream.len(), "{searched}");
    assert!(summed <= 2 * stream.len(), "{summed}");
}

/// In a stream of many marks the decoder refuses most candidates by their first bytes. This
/// must change no result: for any repeated sequence the result is the same in one piece and a
/// byte at a time, with the following bytes cut off at any place.
#[test]
fn short_sequences_repeated_are_the_same_however_they_are_cut() {
    const ALPHABET: [u8; 6] = [0xFF, 0xFE, 0, 1, 9, b'x'];
    let end = frame(b"end");
    for length in 1..=5_u32 {
        for number in 0..ALPHABET.len().pow(length) {
            let digits = (0..length).map(|place| number / ALPHABET.len().pow(place));
            let sequence: Vec<u8> = digits.map(|it| ALPHABET[it % ALPHABET.len()]).collect();
            let repeated = sequence.iter().copied().cycle().take(24 + number % 7);
            let mut stream: Vec<u8> = repeated.collect();
            stream.extend(&end);
            WORK.take();
            let whole = decode_in_pieces(&stream, stream.len());
            let (searched, summed) = WORK.take();
            assert!(searched <= 3 * stream.len(), "{searched} {sequence:X?}");
            assert!(summed <= 2 * stream.len(), "{summed} {sequence:X?}");
            for piece in [1, 3] {
                assert_eq!(decode_in_pieces(&stream, piece), whole, "{sequence:X?}");
            }
            assert_eq!(
                whole.0.last().map(String::as_str),
                Some("end"),
                "{sequence:X?}"
            );
        }
    }
}

/// Every way in which a candidate before a frame can overlap the frame's
/// head, for the lengths at the edges of the exceptions: damage that ends in a
/// candidate's beginning, in its sum, or in stray marks.
fn overlapping_damage() -> Vec<Vec<u8>> {
    let mut damage: Vec<Vec<u8>> = (1..6).map(|strays| vec![0xFF; strays]).collect();
    // The frame's head completes the trailer of a candidate, cut at each byte of it. The
    // candidate's checksum is right where the frame's first bytes complete it rightly.
    for data in [&b""[..], b"a", b"ab", b"\x03\x3B"] {
        let mut candidate = vec![0xFF, 0xFF, 0, u8::try_from(data.len()).unwrap()];
        candidate.extend(data);
        damage.push(candidate.clone());
        for sum_high in [0, 0xDB, 0xFE] {
            damage.push([candidate.as_slice(), &[sum_high]].concat());
            damage.push([candidate.as_slice(), &[sum_high, 0xDB]].concat());
            damage.push([candidate.as_slice(), &[sum_high, 0xDB, 0xFF]].concat());
        }
    }
    damage
}

#[test]
fn below_fe00_no_overlap_delays_a_frame() {
    for length in [0, 1, 0xFD, 0xFE, 0xFF, 0x100, 0xFDFE, 0xFDFF] {
        let target = frame(&vec![b'x'; length]);
        for damage in overlapping_damage() {
            assert!(decoded_in_time(&damage, &target), "{damage:x?} {length:#x}");
        }
    }
}

#[test]
fn above_fe00_only_the_documented_lengths_are_exceptions() {
    for length in [0xFF00, 0xFFFA, 0xFFFB, 0xFFFD, 0xFFFF] {
        let target = frame(&vec![b'x'; length]);
        for damage in overlapping_damage() {
            assert!(decoded_in_time(&damage, &target), "{damage:x?} {length:#x}");
        }
    }
}

#[test]
fn from_fe00_to_feff_a_candidate_can_take_a_frames_head_for_its_trailer() {
    // Its data 03 3B sums to DBFF, and the frame begins FF | FF FE.
    let damage = [0xFF, 0xFF, 0x00, 0x02, 0x03, 0x3B, 0xDB];
    for length in [0xFE00, 0xFE7F, 0xFEFF] {
        let target = frame(&vec![b'x'; length]);
        assert!(!decoded_in_time(&damage, &target), "{length:#x}");
        // With a wrong checksum the candidate gets a line, and the frame is decoded.
        let near = [0xFF, 0xFF, 0x00, 0x02, 0x03, 0x3C, 0xDB];
        assert!(decoded_in_time(&near, &target), "{length:#x}");
    }
}

#[test]
fn at_fffe_a_candidate_can_take_a_frames_head_for_its_trailer() {
    // The candidate's data has the checksum FFFF; the frame's head serves as its checksum
    // and trailer.
    let data = (0..=u32::MAX)
        .map(|number| format!("{number}").into_bytes())
        .find(|data| checksum(data) == 0xFFFF)
        .unwrap();
    let mut damage = vec![0xFF, 0xFF, 0, u8::try_from(data.len()).unwrap()];
    damage.extend(data);
    let target = frame(&[b'x'; 0xFFFE]);
    assert!(!decoded_in_time(&damage, &target));
}

#[test]
fn behind_a_stray_mark_a_frame_of_fffc_is_two_bytes_late() {
    let target = frame(&[b'x'; 0xFFFC]);
    assert!(!decoded_in_time(&[0xFF], &target));
    let next = frame(b"next");
    let stream = [&[0xFF], target.as_slice(), &next].concat();
    let cuts: Vec<usize> = (1..stream.len()).collect();
    let found = findings(&stream, &cuts);
    assert_eq!(found.len(), 2);
    let mut decoder = Decoder::default();
    let late = stream.len() - next.len() + 2;
    assert_eq!(decoder.decode(&stream[..late - 1], Input::Open).consumed, 0);
    assert!(matches!(
        decoder.decode(&stream[..late], Input::Open).step,
        Step::Frame(_)
    ));
}
