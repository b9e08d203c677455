//! Messages of a hand-over, alone and as a conversation over a real channel.

use std::fs::File;
use std::os::fd::OwnedFd;

use hawk::restart::channel::{
    Channel, InvalidMessage, MAX_MESSAGE, MessageSocket, Successor, ToPredecessor, ToSuccessor,
};

use super::pieces::Bytes;

/// The first byte is the number of descriptors, the rest a message in either direction;
/// all of it is also a conversation: a byte of descriptors, two of length, a message.
pub fn messages(input: &[u8]) {
    let (count, bytes) = input.split_first().unwrap_or((&0, &[]));
    to_successor(bytes, usize::from(count % 5));
    to_predecessor(bytes);
    conversation(input);
}

/// What is understood is written and understood the same again.
fn to_successor(bytes: &[u8], count: usize) {
    let decoded = match ToSuccessor::decode(bytes, descriptors(count)) {
        Ok(decoded) => decoded,
        Err(InvalidMessage::Descriptors(told)) => return assert_eq!(told, count),
        Err(_) => return,
    };
    let (written, borrowed) = decoded.encode();
    assert_eq!(borrowed.len(), count, "a descriptor is lost");
    let again = ToSuccessor::decode(&written, descriptors(count)).unwrap();
    assert_eq!(again.encode().0, written);
    if let ToSuccessor::Hello(hello) = decoded {
        let _agreed = hello.negotiate_format();
    }
}

fn to_predecessor(bytes: &[u8]) {
    let Ok(decoded) = ToPredecessor::decode(bytes, &[]) else {
        return;
    };
    if let ToPredecessor::Refused { why } = &decoded {
        assert!(!why.contains(char::is_control), "{why:?}");
    }
    let again = ToPredecessor::decode(&decoded.encode(), &[]).unwrap();
    match (again, decoded) {
        (ToPredecessor::Refused { why: again }, ToPredecessor::Refused { why }) => {
            assert!(why.starts_with(&again), "only its end may be cut off");
        }
        (again, decoded) => assert_eq!(again, decoded),
    }
}

/// Whatever a predecessor sends, its successor reads each message, or refuses one and is
/// done with it.
fn conversation(input: &[u8]) {
    let (ours, theirs) = MessageSocket::pair().unwrap();
    let mut line: Channel<Successor> = Channel::new(MessageSocket::from_socket(theirs).unwrap());
    let mut input = Bytes(input);
    for _ in 0..8 {
        if input.0.is_empty() {
            break;
        }
        let given = descriptors(usize::from(input.byte() % 5));
        let length = input.number().min(MAX_MESSAGE);
        let (message, rest) = input.0.split_at(length.min(input.0.len()));
        input.0 = rest;
        let borrowed: Vec<_> = given.iter().map(std::os::fd::AsFd::as_fd).collect();
        if ours.send(message, &borrowed).is_err() {
            break;
        }
        match line.receive() {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
}

fn descriptors(count: usize) -> Vec<OwnedFd> {
    let open = || OwnedFd::from(File::open("/dev/null").unwrap());
    std::iter::repeat_with(open).take(count).collect()
}
