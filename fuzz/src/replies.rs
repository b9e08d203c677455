//! What a server says, as the clients read it.

use std::io::{BufReader, Read};

use hawk_client::{ReplyLine, next_reply};
use hawk_load::{Batch, Expectations, Verdicts};
use hawk_time::Moment;
use hawk_wire::{MAX_REPLY_LINE, PacketKind, Reply};

use super::pieces::Bytes;

/// The first byte is the length of the pieces in which the rest comes; the second byte
/// says which replies are due.
pub fn replies(input: &[u8]) {
    let mut input = Bytes(input);
    let piece = usize::from(input.byte()) + 1;
    let due = input.byte();
    line_by_line(input.0, piece);
    expectations(input.0, piece, due);
}

/// A stream in pieces.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
        let length = self.0.len().min(self.1).min(space.len());
        let (taken, rest) = self.0.split_at(length);
        space[..length].copy_from_slice(taken);
        self.0 = rest;
        Ok(length)
    }
}

/// However the stream is cut, each line is what it is by itself.
fn line_by_line(stream: &[u8], piece: usize) {
    let mut lines = BufReader::with_capacity(64, Pieces(stream, piece));
    let (mut rest, mut line) = (stream, Vec::new());
    loop {
        let found = next_reply(&mut lines, &mut line).unwrap();
        let most = rest.len().min(MAX_REPLY_LINE);
        let end = rest[..most].iter().position(|byte| *byte == b'\n');
        let (expected, text, length) = match end {
            Some(end) => {
                let text = &rest[..end];
                let known = Reply::ALL
                    .into_iter()
                    .find(|reply| reply.line() == &rest[..=end]);
                let expected = known.map_or(ReplyLine::Foreign, ReplyLine::Reply);
                (expected, text, end + 1)
            }
            None if most < MAX_REPLY_LINE => (ReplyLine::End, rest, rest.len()),
            None => (ReplyLine::Foreign, &rest[..most], most),
        };
        assert_eq!((found, line.as_slice()), (expected, text));
        rest = &rest[length..];
        if found == ReplyLine::End {
            return assert!(rest.is_empty());
        }
    }
}

/// Verdicts on each frame, by the line that answered it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    right: u64,
    wrong: Vec<Vec<u8>>,
    extra: Vec<Vec<u8>>,
}

impl Verdicts for Found {
    fn right(&mut self, _batch: &Batch, count: u32) {
        self.right += u64::from(count);
    }
    fn wrong(&mut self, _kind: PacketKind, line: &[u8]) {
        self.wrong.push(shown(line));
    }
    fn extra(&mut self, line: &[u8]) {
        self.extra.push(shown(line));
    }
}

/// What is kept of a line that comes in pieces.
fn shown(line: &[u8]) -> Vec<u8> {
    line[..line.len().min(2 * MAX_REPLY_LINE)].to_vec()
}

/// Cut in any way, the load client counts as many right and wrong lines.
fn expectations(stream: &[u8], piece: usize, due: u8) {
    let judge = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut expectations = Expectations::default();
        let now = Moment::from_nanos(1);
        let mut sum = 0;
        for place in 0..4 {
            let kind = match due >> place & 1 {
                0 => PacketKind::Heartbeat,
                _ => PacketKind::Report,
            };
            let count = 1 + u32::from(due >> 4);
            sum += u64::from(count);
            expectations.expect(Batch {
                kind,
                count,
                intended: now,
                sent: now,
            });
        }
        let mut found = Found::default();
        let mut completed = 0;
        for piece in pieces {
            completed += u64::from(expectations.receive(piece, &mut found));
        }
        completed += u64::from(expectations.end_of_file(&mut found));
        assert_eq!(completed, found.right + found.wrong.len() as u64);
        assert_eq!(completed + expectations.drain(), sum);
        found
    };
    let whole = judge(&mut std::iter::once(stream));
    assert_eq!(judge(&mut stream.chunks(piece)), whole);
}
