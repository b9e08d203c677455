//! Requests and answers of the control socket, and requests in pieces over a real one.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hawk::control::{Answer, LONGEST_REQUEST, Request, RequestError, Server};
use hawk_time::Moment;

/// Any time will do: nothing here waits.
const NOW: Moment = Moment::from_nanos(1_000_000_000);

/// The first byte is the length of the pieces in which the rest is sent.
pub fn control(input: &[u8]) {
    let (piece, bytes) = input.split_first().unwrap_or((&0, &[]));
    request(bytes);
    answer(bytes);
    conversation(bytes, usize::from(*piece) + 1);
}

/// What reads as a request is written and read the same again.
fn request(line: &[u8]) {
    let Ok(request) = Request::parse(line) else {
        return;
    };
    match request.to_line() {
        Ok(written) => {
            let again = Request::parse(written.strip_suffix(b"\n").unwrap());
            assert_eq!(again, Ok(request));
        }
        Err(RequestError::Path) => assert!(line.contains(&b'\n')),
        Err(error) => {
            assert_eq!(error, RequestError::TooLong);
            assert!(line.len() >= LONGEST_REQUEST);
        }
    }
}

/// What reads as an answer is written and read the same again; one that is cut is none,
/// or a shorter one that ends in a last line itself.
fn answer(bytes: &[u8]) {
    let Some(answer) = Answer::parse(bytes) else {
        return;
    };
    assert_eq!(bytes.last(), Some(&b'\n'));
    assert_eq!(Answer::parse(&answer.to_bytes()), Some(answer));
}

/// However a request is cut, the server reads it as the first line says, answers once, and
/// ends the stream.
fn conversation(bytes: &[u8], piece: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let mut server = Server::listen(&path).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut asked = Vec::new();
    for piece in bytes.chunks(piece) {
        // The server may have hung up: what is too long is refused before its end.
        let _refused = client.write_all(piece);
        server.turn(NOW, &mut asked);
    }
    let first = bytes.split_inclusive(|byte| *byte == b'\n').next();
    let line = first.unwrap_or_default();
    let expected = match line.strip_suffix(b"\n") {
        _ if line.len() > LONGEST_REQUEST => Some(Err(RequestError::TooLong)),
        Some(line) => Some(Request::parse(line)),
        None if line.len() >= LONGEST_REQUEST => Some(Err(RequestError::TooLong)),
        None => None,
    };
    let failed = match expected {
        Some(Ok(request)) => {
            let (asker, found) = asked.pop().expect("the request is whole");
            assert_eq!(found, request);
            server.answer(asker, NOW, &Answer::Done(vec!["x".to_owned()]));
            "x\ndone\n".to_owned()
        }
        Some(Err(error)) => format!("failed: {error}\n"),
        None => {
            let _shut = client.shutdown(std::net::Shutdown::Write);
            server.turn(NOW, &mut asked);
            String::new()
        }
    };
    assert!(asked.is_empty(), "a client asks once");
    let mut said = Vec::new();
    client.set_nonblocking(false).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    // Input that the server left unread resets the stream, behind the answer.
    match client.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_eq!(String::from_utf8_lossy(&said), failed);
}
