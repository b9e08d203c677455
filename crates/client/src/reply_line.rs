//! One reply line out of a stream, in bounded memory.

use std::io::{self, BufRead, Read as _};

use hawk_wire::{MAX_REPLY_LINE, Reply};

/// The next line of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyLine {
    /// A line of the protocol.
    Reply(Reply),
    /// Another line, or more bytes without an end of line than any reply has.
    Foreign,
    /// The stream ended, perhaps within a line.
    End,
}

/// Reads the next line into `line`, without its end. Reads at most [`MAX_REPLY_LINE`]
/// bytes, whatever the server sends.
///
/// # Errors
/// Errors of the stream.
pub fn next_reply(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<ReplyLine> {
    line.clear();
    let most = MAX_REPLY_LINE as u64;
    let count = lines.take(most).read_until(b'\n', line)?;
    if line.pop_if(|last| *last == b'\n').is_some() {
        return Ok(Reply::parse(line).map_or(ReplyLine::Foreign, ReplyLine::Reply));
    }
    Ok(if count < MAX_REPLY_LINE {
        ReplyLine::End
    } else {
        ReplyLine::Foreign
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_separated_and_never_read_beyond_the_longest() {
        let long = [b'x'; MAX_REPLY_LINE];
        let stream = [b"heartBeat\nHTTP/1.1 400\n", &long[..], b"y\nbusy"].concat();
        let (mut lines, mut line) = (&stream[..], Vec::new());
        let mut next = || {
            let found = next_reply(&mut lines, &mut line).unwrap();
            (found, line.clone())
        };
        assert_eq!(
            next(),
            (ReplyLine::Reply(Reply::Heartbeat), b"heartBeat".to_vec())
        );
        assert_eq!(next(), (ReplyLine::Foreign, b"HTTP/1.1 400".to_vec()));
        assert_eq!(next(), (ReplyLine::Foreign, long.to_vec()));
        assert_eq!(next(), (ReplyLine::Foreign, b"y".to_vec()));
        assert_eq!(next(), (ReplyLine::End, b"busy".to_vec()));
    }
}
