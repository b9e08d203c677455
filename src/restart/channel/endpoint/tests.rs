use std::fs::File;

use super::super::message::{Committed, Hello};
use super::*;

fn line() -> (Channel<Predecessor>, Channel<Successor>) {
    let (predecessor, theirs) = Channel::open().unwrap();
    let successor = Channel::new(MessageSocket::from_socket(theirs).unwrap());
    (predecessor, successor)
}

fn file() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn batch(number: u32) -> ToSuccessor<OwnedFd> {
    ToSuccessor::Batch {
        number,
        length: 28,
        records: file(),
        sockets: vec![file()],
    }
}

fn freeze() -> ToSuccessor<OwnedFd> {
    ToSuccessor::Freeze {
        length: 28,
        records: file(),
        token: file(),
        sockets: Vec::new(),
    }
}

fn shared() -> ToSuccessor<OwnedFd> {
    ToSuccessor::Shared {
        lock: None,
        listeners: vec![file()],
    }
}

fn committed() -> ToPredecessor {
    ToPredecessor::Committed(Committed {
        committed: Moment::from_nanos(1),
        resumed: Moment::from_nanos(2),
        connections: 1,
    })
}

/// Sends the message from one end and receives it at the other.
fn forth(line: &mut (Channel<Predecessor>, Channel<Successor>), message: &ToSuccessor<OwnedFd>) {
    line.0.send(message).unwrap();
    let heard = line.1.receive().unwrap().unwrap();
    assert_eq!(
        std::mem::discriminant(&heard),
        std::mem::discriminant(message)
    );
    assert_eq!(line.0.phase(), line.1.phase());
}

fn back(line: &mut (Channel<Predecessor>, Channel<Successor>), message: &ToPredecessor) {
    line.1.send(message).unwrap();
    assert_eq!(line.0.receive().unwrap().as_ref(), Some(message));
    assert_eq!(line.0.phase(), line.1.phase());
}

/// Up to the first batch.
fn copying() -> (Channel<Predecessor>, Channel<Successor>) {
    let mut line = line();
    forth(&mut line, &ToSuccessor::Hello(Hello::ours(1)));
    back(&mut line, &ToPredecessor::Hello(Hello::ours(1)));
    back(&mut line, &ToPredecessor::Ready);
    forth(&mut line, &shared());
    assert_eq!(line.0.phase(), ProtocolPhase::Copying);
    line
}

#[test]
fn a_hand_over_from_hello_to_commit() {
    let mut line = copying();
    for number in 1..=10 {
        assert_eq!(line.0.next_batch(), Some(number));
        forth(&mut line, &batch(number));
        back(&mut line, &ToPredecessor::Ack { number });
    }
    forth(&mut line, &freeze());
    back(&mut line, &committed());
    assert_eq!(line.0.phase(), ProtocolPhase::Done);
    assert!(line.0.receive().unwrap().is_none());
    forth(&mut line, &ToSuccessor::Stop);
    drop(line.0);
    assert!(line.1.wait(Moment::now()).unwrap());
    let end = line.1.receive().unwrap_err();
    assert!(matches!(end, ChannelError::Receive(ReceiveError::Ended)));
}

#[test]
fn one_batch_is_under_way_at_a_time() {
    let mut line = copying();
    forth(&mut line, &batch(1));
    assert_eq!(line.0.next_batch(), None);
    for early in [batch(2), freeze()] {
        let refused = line.0.send(&early).unwrap_err();
        assert!(matches!(refused, ChannelError::UnexpectedMessage(_)));
    }
    back(&mut line, &ToPredecessor::Ack { number: 1 });
    assert_eq!(line.0.next_batch(), Some(2));
    forth(&mut line, &batch(2));
}

#[test]
fn a_message_that_is_not_due_is_not_sent() {
    type Said = fn(&mut (Channel<Predecessor>, Channel<Successor>)) -> ChannelError;
    let refused: &[(&str, Said)] = &[
        ("Shared Preparing", |line| {
            *line = self::line();
            forth(line, &ToSuccessor::Hello(Hello::ours(1)));
            back(line, &ToPredecessor::Hello(Hello::ours(1)));
            line.0.send(&shared()).unwrap_err()
        }),
        ("Hello Copying", |line| {
            line.0
                .send::<OwnedFd>(&ToSuccessor::Hello(Hello::ours(1)))
                .unwrap_err()
        }),
        ("Batch Copying", |line| line.0.send(&batch(2)).unwrap_err()),
        ("Shared Copying", |line| line.0.send(&shared()).unwrap_err()),
        ("Ready Copying", |line| {
            line.1.send(&ToPredecessor::Ready).unwrap_err()
        }),
        ("Ack Copying", |line| {
            line.1.send(&ToPredecessor::Ack { number: 1 }).unwrap_err()
        }),
        ("Committed Copying", |line| {
            line.1.send(&committed()).unwrap_err()
        }),
        ("Ack Copied", |line| {
            forth(line, &batch(1));
            line.1.send(&ToPredecessor::Ack { number: 2 }).unwrap_err()
        }),
        ("Freeze Copied", |line| {
            forth(line, &batch(1));
            line.0.send(&freeze()).unwrap_err()
        }),
        ("Ack Frozen", |line| {
            forth(line, &freeze());
            line.1.send(&ToPredecessor::Ack { number: 1 }).unwrap_err()
        }),
        ("Batch Frozen", |line| {
            forth(line, &freeze());
            line.0.send(&batch(1)).unwrap_err()
        }),
        ("Stop Copying", |line| {
            line.0.send::<OwnedFd>(&ToSuccessor::Stop).unwrap_err()
        }),
        ("Refused Done", |line| {
            let refused = ToPredecessor::Refused { why: "no".into() };
            back(line, &refused);
            line.1.send(&refused).unwrap_err()
        }),
    ];
    for (what, say) in refused {
        let error = say(&mut copying());
        let ChannelError::UnexpectedMessage(UnexpectedMessage { message, phase }) = error else {
            panic!("{what}: {error}");
        };
        assert_eq!(format!("{message} {phase:?}"), *what);
    }
}

/// The other process may be any program.
#[test]
fn the_receiver_refuses_a_message_that_is_not_due() {
    let mut line = copying();
    line.1.socket.send(&committed().encode(), &[]).unwrap();
    let refused = line.0.receive().unwrap_err();
    assert!(matches!(refused, ChannelError::UnexpectedMessage(_)));

    let mut line = copying();
    let early = batch(2);
    let (bytes, descriptors) = early.encode();
    line.0.socket.send(&bytes, &descriptors).unwrap();
    let refused = line.1.receive().unwrap_err();
    assert!(matches!(refused, ChannelError::UnexpectedMessage(_)));

    let mut line = copying();
    line.1.socket.send(b"usage: something else", &[]).unwrap();
    let refused = line.0.receive().unwrap_err();
    assert!(
        matches!(refused, ChannelError::InvalidMessage(_)),
        "{refused}"
    );
}

#[test]
fn a_message_that_failed_counts_as_not_sent() {
    let mut line = copying();
    while line.0.socket.send(&[0; 64], &[]).is_ok() {}
    let refused = line.0.send(&batch(1)).unwrap_err();
    assert!(matches!(refused, ChannelError::Send(SendError::Full)));
    assert_eq!(line.0.next_batch(), Some(1));
    while line.1.socket.receive().is_ok() {}
    forth(&mut line, &batch(1));
}
