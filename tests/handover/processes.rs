//! Between two processes.

use std::os::fd::AsFd as _;
use std::process::Stdio;

use hawk::restart::channel::{
    Channel, Hello, MessageSocket, ReceiveError, SealedFile, ToPredecessor, ToSuccessor, Token,
};

use super::{next, role, start};

/// Of several processes that have the same token, and this one, one takes it.
#[test]
fn one_of_many_processes_takes_the_token() {
    const NAME: &str = "processes::one_of_many_processes_takes_the_token";
    if role().is_some() {
        let channel = MessageSocket::from_stdin().unwrap();
        let mut received = next(&channel).unwrap();
        let token = Token::from_descriptor(received.descriptors.remove(0)).unwrap();
        channel.send(b"at hand", &[]).unwrap();
        assert_eq!(next(&channel).unwrap().bytes, b"now");
        let taken = match token.take().unwrap() {
            Some(_) => b"ours  ",
            None => b"theirs",
        };
        return channel.send(taken, &[]).unwrap();
    }
    let token = Token::new().unwrap();
    let mut others: Vec<_> = (0..4)
        .map(|_| {
            let (channel, theirs) = MessageSocket::pair().unwrap();
            let process = start(NAME, "other", theirs.into());
            channel.send(b"token", &[token.as_fd()]).unwrap();
            (channel, process)
        })
        .collect();
    for (channel, _) in &others {
        assert_eq!(next(channel).unwrap().bytes, b"at hand");
    }
    for (channel, _) in &others {
        channel.send(b"now", &[]).unwrap();
    }
    let ours = token.take().unwrap().is_some();
    let mut taken = usize::from(ours);
    for (channel, process) in &mut others {
        taken += usize::from(next(channel).unwrap().bytes == b"ours  ");
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(taken, 1);
}

/// A process that has taken the token and died has taken it.
#[test]
fn a_token_stays_taken_when_its_taker_dies() {
    const NAME: &str = "processes::a_token_stays_taken_when_its_taker_dies";
    if role().is_some() {
        let channel = MessageSocket::from_stdin().unwrap();
        let mut received = next(&channel).unwrap();
        let token = Token::from_descriptor(received.descriptors.remove(0)).unwrap();
        assert!(token.take().unwrap().is_some());
        return;
    }
    let token = Token::new().unwrap();
    let (channel, theirs) = MessageSocket::pair().unwrap();
    let mut process = start(NAME, "other", theirs.into());
    channel.send(b"token", &[token.as_fd()]).unwrap();
    assert!(matches!(next(&channel), Err(ReceiveError::Ended)));
    assert!(process.wait().unwrap().success());
    assert!(token.take().unwrap().is_none());
}

/// What a predecessor writes, seals and sends is what its successor reads, and when
/// either of them is gone the other one notices.
#[test]
fn a_successor_hears_its_predecessor_and_the_end() {
    const NAME: &str = "processes::a_successor_hears_its_predecessor_and_the_end";
    if role().is_some() {
        let channel = MessageSocket::from_stdin().unwrap();
        // Stdin is empty from now on, and is no second hold on the channel.
        assert_eq!(std::io::read_to_string(std::io::stdin()).unwrap(), "");
        let mut line = Channel::new(channel);
        let late = hawk_time::Moment::now().after(std::time::Duration::from_secs(20));
        assert!(line.wait(late).unwrap());
        let Some(ToSuccessor::Hello(hello)) = line.receive().unwrap() else {
            panic!("no hello");
        };
        assert_eq!(hello, Hello::ours(7));
        line.send(&ToPredecessor::Hello(Hello::ours(8))).unwrap();
        line.send(&ToPredecessor::Ready).unwrap();
        assert!(line.wait(late).unwrap());
        let Some(ToSuccessor::Shared { mut listeners, .. }) = line.receive().unwrap() else {
            panic!("nothing shared");
        };
        let sealed = SealedFile::check(listeners.remove(0), 5).unwrap();
        let mut state = Vec::new();
        sealed.read(&mut state).unwrap();
        assert_eq!(state, b"state");
        return;
    }
    let (mut line, theirs) = Channel::open().unwrap();
    let mut process = start(NAME, "successor", Stdio::from(theirs));
    let hello: ToSuccessor<SealedFile> = ToSuccessor::Hello(Hello::ours(7));
    line.send(&hello).unwrap();
    let late = hawk_time::Moment::now().after(std::time::Duration::from_secs(20));
    for said in [ToPredecessor::Hello(Hello::ours(8)), ToPredecessor::Ready] {
        assert!(line.wait(late).unwrap());
        assert_eq!(line.receive().unwrap(), Some(said));
    }
    let shared = ToSuccessor::Shared {
        lock: None,
        listeners: vec![SealedFile::write(b"state").unwrap()],
    };
    line.send(&shared).unwrap();
    assert!(line.wait(late).unwrap());
    line.receive().unwrap_err();
    assert!(process.wait().unwrap().success());
}
