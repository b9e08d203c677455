use std::fs::File;
use std::os::fd::AsRawFd as _;

use rustix::fs::fstat;
use rustix::io::{FdFlags, fcntl_getfd};

use super::*;

fn pair() -> (MessageSocket, MessageSocket) {
    let (ours, theirs) = MessageSocket::pair().unwrap();
    (ours, MessageSocket::from_socket(theirs).unwrap())
}

#[test]
fn a_message_has_as_many_descriptors_as_the_kernel_takes_and_none_is_inherited() {
    let (sender, receiver) = pair();
    let files: Vec<File> = (0..MAX_DESCRIPTORS)
        .map(|_| tempfile::tempfile().unwrap())
        .collect();
    let descriptors: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    sender.send(b"all of them", &descriptors).unwrap();
    let received = receiver.receive().unwrap();
    assert_eq!(received.bytes, b"all of them");
    assert_eq!(received.descriptors.len(), MAX_DESCRIPTORS);
    for (sent, received) in files.iter().zip(&received.descriptors) {
        assert_eq!(fstat(sent).unwrap().st_ino, fstat(received).unwrap().st_ino);
        assert_ne!(sent.as_raw_fd(), received.as_raw_fd());
        assert!(fcntl_getfd(received).unwrap().contains(FdFlags::CLOEXEC));
    }
}

#[test]
fn one_descriptor_more_is_refused() {
    let (sender, receiver) = pair();
    let file = tempfile::tempfile().unwrap();
    let descriptors = vec![file.as_fd(); MAX_DESCRIPTORS + 1];
    let refused = sender.send(b"too many", &descriptors).unwrap_err();
    assert!(matches!(refused, SendError::TooManyDescriptors(254)));
    // It is the kernel's bound, and not only ours.
    let mut space = vec![MaybeUninit::uninit(); CONTROL + 64];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let data = [IoSlice::new(b"too many")];
    let refused = sendmsg(&sender, &data, &mut control, SendFlags::empty());
    assert_eq!(refused.unwrap_err(), Errno::INVAL);
    assert!(matches!(receiver.receive(), Err(ReceiveError::Empty)));
}

#[test]
fn the_last_message_of_a_peer_that_closed_with_unread_messages_is_received() {
    let (ours, theirs) = pair();
    ours.send(b"unread", &[]).unwrap();
    theirs.send(b"last words", &[]).unwrap();
    drop(theirs);
    assert_eq!(ours.receive().unwrap().bytes, b"last words");
    assert!(matches!(ours.receive(), Err(ReceiveError::Ended)));
}

#[test]
fn messages_keep_their_borders() {
    let (sender, receiver) = pair();
    for message in [&b"a"[..], b"bcd", &[7; MAX_MESSAGE]] {
        sender.send(message, &[]).unwrap();
    }
    for message in [&b"a"[..], b"bcd", &[7; MAX_MESSAGE]] {
        assert_eq!(receiver.receive().unwrap().bytes, message);
    }
    assert!(matches!(receiver.receive(), Err(ReceiveError::Empty)));
    for length in [0, MAX_MESSAGE + 1] {
        let refused = sender.send(&vec![0; length], &[]).unwrap_err();
        assert!(matches!(refused, SendError::Length(_)));
    }
}

#[test]
fn a_message_that_is_too_long_is_void_and_the_next_is_not() {
    let (sender, receiver) = pair();
    let long = vec![7; MAX_MESSAGE + 1];
    rustix::net::send(&sender, &long, SendFlags::empty()).unwrap();
    sender.send(b"next", &[]).unwrap();
    assert!(matches!(receiver.receive(), Err(ReceiveError::TooLong)));
    assert_eq!(receiver.receive().unwrap().bytes, b"next");
}

#[test]
fn a_full_channel_says_so_and_takes_more_once_it_is_read() {
    let (sender, receiver) = pair();
    let mut sent = 0_u32;
    let full = loop {
        match sender.send(&sent.to_le_bytes(), &[]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SendError::Full), "{full}");
    assert!(sent > 0);
    for number in 0..sent {
        assert_eq!(receiver.receive().unwrap().bytes, number.to_le_bytes());
    }
    sender.send(b"more", &[]).unwrap();
    assert_eq!(receiver.receive().unwrap().bytes, b"more");
}

#[test]
fn the_end_comes_behind_the_last_message() {
    let (sender, receiver) = pair();
    sender.send(b"last words", &[]).unwrap();
    drop(sender);
    assert_eq!(receiver.receive().unwrap().bytes, b"last words");
    assert!(matches!(receiver.receive(), Err(ReceiveError::Ended)));
    assert!(matches!(
        receiver.send(b"?", &[]).unwrap_err(),
        SendError::Gone
    ));
}

#[test]
fn an_end_that_left_without_having_read_is_an_end_too() {
    let (sender, receiver) = pair();
    sender.send(b"unread", &[]).unwrap();
    drop(receiver);
    assert!(matches!(sender.receive(), Err(ReceiveError::Ended)));
    assert!(matches!(sender.receive(), Err(ReceiveError::Ended)));
}

#[test]
fn descriptors_of_a_message_that_is_never_received_are_closed() {
    let (sender, receiver) = pair();
    let (reader, writer) = io::pipe().unwrap();
    sender.send(b"take it", &[writer.as_fd()]).unwrap();
    drop((writer, sender, receiver));
    assert_eq!(io::read_to_string(reader).unwrap(), "");
}

#[test]
fn waiting_ends_with_a_message_with_the_end_or_in_time() {
    let (sender, receiver) = pair();
    assert!(!receiver.wait(Moment::now()).unwrap());
    let soon = Moment::now().after(std::time::Duration::from_millis(5));
    assert!(!receiver.wait(soon).unwrap());
    assert!(Moment::now() >= soon);
    let far = Moment::now().after(std::time::Duration::from_secs(20));
    sender.send(b"message", &[]).unwrap();
    assert!(receiver.wait(far).unwrap());
    receiver.receive().unwrap();
    drop(sender);
    assert!(receiver.wait(far).unwrap());
}

#[test]
fn a_descriptor_of_another_kind_is_no_channel() {
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let refused = MessageSocket::from_socket(stream.into()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    let file = tempfile::tempfile().unwrap();
    assert!(MessageSocket::from_socket(file.into()).is_err());
}
