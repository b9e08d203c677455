//! The decoder, within a session, against a plain form of the protocol's rule, and
//! against itself with the stream cut otherwise.

use hawk::session::{Expiry, Timeout};
use hawk_wire::{PacketDecoder, Refusal, Reply};

use super::conversation::{Conversation, START, Said, owned, taken};
use super::pieces::{Bytes, LONG, SHORT, stream};
use hawk_testkit::reference::{Found, Reference};

/// Longest stream that is also shown byte by byte.
const MAX_BYTE_BY_BYTE: usize = 4096;

/// How the frames are found in the input itself; its first byte says how it is cut.
pub fn decoder(input: &[u8]) {
    let mut input = Bytes(input);
    let how = input.byte();
    judge(input.0, how);
}

/// The same with a stream that the input describes.
pub fn streams(input: &[u8]) {
    let mut input = Bytes(input);
    let how = input.byte();
    let most = if how >= 0xF0 { LONG } else { SHORT };
    judge(&stream(input, most), how);
}

fn judge(stream: &[u8], how: u8) {
    let budget = 1 + u32::from(how % 7);
    let at_once = compare(stream, &mut Chunks::whole(stream.len()), budget, false);
    if stream.len() <= MAX_BYTE_BY_BYTE {
        let trickled = compare(stream, &mut Chunks::bytes(), budget + 1, false);
        assert_eq!(at_once, trickled, "cut into bytes");
    }
    let cut = compare(stream, &mut Chunks::drawn(how, stream.len()), budget, false);
    assert_eq!(at_once, cut, "cut into chunks");
    compare(stream, &mut Chunks::drawn(!how, stream.len()), budget, true);
}

/// The result of a stream: all replies, and the byte at which the connection was closed.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    said: Said,
    closing_byte: Option<u64>,
}

/// Shows a stream to a session and to the reference, chunk by chunk. With
/// `timeouts`, the frame timeout strikes now and then.
fn compare(stream: &[u8], chunks: &mut Chunks, budget: u32, timeouts: bool) -> Outcome {
    let mut conversation = Conversation::new(budget);
    let mut reference = Reference::default();
    let mut outcome = Outcome {
        said: Said::default(),
        closing_byte: None,
    };
    let mut passed = 0;
    let mut rest = stream;
    while !rest.is_empty() && !conversation.given_up {
        let (chunk, later) = rest.split_at(chunks.next().min(rest.len()));
        rest = later;
        reference.feed(chunk);
        let mut said = conversation.receive(chunk, START);
        check(&conversation, &mut reference, &said, &mut passed);

        let waits = !conversation.given_up && !conversation.window().is_empty();
        let expiry = conversation.at_frame_timeout(START);
        match (waits, reference.at_boundary()) {
            (false, _) => assert_eq!(expiry, Expiry::NotYet),
            (true, true) => assert_eq!(expiry, Expiry::Close(Timeout::Frame)),
            (true, false) => assert_eq!(expiry, Expiry::DropCandidate),
        }
        if timeouts && expiry == Expiry::DropCandidate && chunks.next().is_multiple_of(4) {
            reference.abandon();
            let more = conversation.drop_candidate(START);
            check(&conversation, &mut reference, &more, &mut passed);
            said.append(more);
        }
        outcome.said.append(said);
    }
    reference.end();
    let said = conversation.end(START);
    check(&conversation, &mut reference, &said, &mut passed);
    outcome.said.append(said);
    outcome.closing_byte = conversation.given_up.then_some(conversation.consumed);
    assert!(
        conversation.given_up || conversation.window().is_empty(),
        "something is undecided at the end"
    );
    outcome
}

/// Both must have found the same and stand at the same byte. `passed` is the
/// bytes of frames that passed so far.
fn check(conversation: &Conversation, reference: &mut Reference, said: &Said, passed: &mut u64) {
    let mut expected = Said::default();
    while let Some(found) = reference.next() {
        let reply = match found {
            Found::ChecksumMismatch => Reply::Error(Refusal::ChecksumMismatch),
            Found::Frame(range) => {
                let data = reference.data(range);
                *passed += data.len() as u64 + 8;
                match PacketDecoder::default().decode(data) {
                    Ok(packet) => {
                        expected.packets.push(owned(&packet));
                        taken(&packet)
                    }
                    Err(refusal) => Reply::Error(refusal),
                }
            }
        };
        expected.lines.extend_from_slice(reply.line());
    }
    assert_eq!(*said, expected);
    assert_eq!(conversation.given_up, reference.has_given_up());
    assert_eq!(conversation.consumed, reference.consumed());
    assert_eq!(
        conversation.context.counters.junk_bytes,
        reference.consumed() - *passed
    );
}

/// Lengths of chunks.
struct Chunks {
    /// Chunks have at most this many bytes, and at least one.
    longest: u64,
    /// Where the draw stands (xorshift); zero draws the longest for ever.
    state: u64,
}

impl Chunks {
    fn whole(length: usize) -> Self {
        Self {
            longest: length as u64,
            state: 0,
        }
    }

    fn bytes() -> Self {
        Self {
            longest: 1,
            state: 0,
        }
    }

    /// What `how` says; never so short that a long stream takes for ever.
    fn drawn(how: u8, length: usize) -> Self {
        let longest = (1_u64 << (how % 16)).max(length as u64 / 256);
        Self {
            longest: longest + 1,
            state: u64::from(how) + 1,
        }
    }

    fn next(&mut self) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let length = match self.state {
            0 => self.longest,
            drawn => 1 + drawn % self.longest,
        };
        usize::try_from(length).unwrap().max(1)
    }
}
