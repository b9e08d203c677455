use std::fs::File;
use std::os::fd::AsRawFd as _;

use proptest::prelude::*;

use super::*;

fn files(count: usize) -> Vec<OwnedFd> {
    let file = || File::open("/dev/null").unwrap().into();
    (0..count).map(|_| file()).collect()
}

/// One of each kind, and the number of its descriptors.
fn to_successor() -> Vec<(ToSuccessor<OwnedFd>, usize)> {
    let one = || files(1).remove(0);
    let shared = |lock, listeners| ToSuccessor::Shared { lock, listeners };
    vec![
        (ToSuccessor::Hello(Hello::ours(20_000)), 0),
        (shared(None, files(1)), 1),
        (shared(Some(one()), files(2)), 3),
        (
            ToSuccessor::Batch {
                number: 7,
                length: 1 << 40,
                records: one(),
                sockets: files(MAX_SOCKETS),
            },
            252,
        ),
        (
            ToSuccessor::Freeze {
                length: 28,
                records: one(),
                token: one(),
                sockets: files(MAX_SOCKETS),
            },
            MAX_DESCRIPTORS,
        ),
        (ToSuccessor::Stop, 0),
    ]
}

fn to_predecessor() -> Vec<ToPredecessor> {
    vec![
        ToPredecessor::Hello(Hello::ours(20_000)),
        ToPredecessor::Ready,
        ToPredecessor::Ack { number: 7 },
        ToPredecessor::Committed(Committed {
            committed: Moment::from_nanos(5),
            resumed: Moment::from_nanos(6),
            connections: 15_000,
        }),
        ToPredecessor::Refused {
            why: "the store is locked".to_owned(),
        },
    ]
}

/// What a message says, its descriptors by their numbers.
fn told(message: &ToSuccessor<OwnedFd>) -> String {
    format!("{message:?}")
}

#[test]
fn messages_of_the_predecessor_are_read_as_written() {
    for (message, count) in to_successor() {
        let (bytes, descriptors) = message.encode();
        assert!(bytes.len() <= super::super::MAX_MESSAGE);
        assert_eq!(descriptors.len(), count);
        let numbers: Vec<i32> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
        let same = told(&message);
        drop(descriptors);
        // The very same descriptors, so that their numbers show their order.
        let owned = owned(message);
        let moved: Vec<i32> = owned.iter().map(|fd| fd.as_raw_fd()).collect();
        assert_eq!(numbers, moved);
        assert_eq!(told(&ToSuccessor::decode(&bytes, owned).unwrap()), same);
    }
}

/// The descriptors of a message, in the order in which they travel.
fn owned(message: ToSuccessor<OwnedFd>) -> Vec<OwnedFd> {
    match message {
        ToSuccessor::Hello(_) | ToSuccessor::Stop => Vec::new(),
        ToSuccessor::Shared { lock, listeners } => lock.into_iter().chain(listeners).collect(),
        ToSuccessor::Batch {
            records, sockets, ..
        } => [records].into_iter().chain(sockets).collect(),
        ToSuccessor::Freeze {
            records,
            token,
            sockets,
            ..
        } => [records, token].into_iter().chain(sockets).collect(),
    }
}

#[test]
fn messages_of_the_successor_are_read_as_written() {
    for message in to_predecessor() {
        let bytes = message.encode();
        assert_eq!(ToPredecessor::decode(&bytes, &[]), Ok(message));
    }
}

#[test]
fn descriptors_that_are_missing_or_not_due_are_noticed() {
    let descriptors = |message: &ToSuccessor<OwnedFd>, count| {
        let (bytes, _) = message.encode();
        ToSuccessor::decode(&bytes, files(count)).unwrap_err()
    };
    for (message, _) in to_successor() {
        let count = match message {
            ToSuccessor::Hello(_) | ToSuccessor::Stop | ToSuccessor::Freeze { .. } => 1,
            ToSuccessor::Shared { lock: None, .. } => continue,
            ToSuccessor::Shared { .. } | ToSuccessor::Batch { .. } => 0,
        };
        assert_eq!(
            descriptors(&message, count),
            InvalidMessage::Descriptors(count),
            "{message:?}"
        );
    }
    for message in to_predecessor() {
        let refused = ToPredecessor::decode(&message.encode(), &files(1));
        assert_eq!(refused, Err(InvalidMessage::Descriptors(1)));
    }
}

#[test]
fn a_reason_is_cut_between_characters_and_has_one_line() {
    let said = |why: &str| {
        let message = ToPredecessor::Refused {
            why: why.to_owned(),
        };
        match ToPredecessor::decode(&message.encode(), &[]) {
            Ok(ToPredecessor::Refused { why }) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(said("two\nlines\u{1b}[31m"), "two lines [31m");
    assert_eq!(said(&"x".repeat(5000)).len(), 1024);
    assert_eq!(said(&"\u{fffd}".repeat(5000)).len(), 1023);
}

#[test]
fn the_other_direction_s_messages_are_unknown() {
    let ack = ToPredecessor::Ack { number: 1 }.encode();
    let refused = ToSuccessor::decode(&ack, Vec::new()).unwrap_err();
    assert_eq!(refused, InvalidMessage::Kind(ACK));
    let (shared, _) = to_successor().remove(1);
    let refused = ToPredecessor::decode(&shared.encode().0, &[]);
    assert_eq!(refused, Err(InvalidMessage::Kind(SHARED)));
}

#[test]
fn builds_without_a_common_version_name_their_versions() {
    let mut other = Hello {
        build: "9.0".to_owned(),
        ..Hello::ours(1024)
    };
    assert_eq!(other.negotiate_format(), Ok(FORMATS.newest()));
    let newest = FORMATS.newest();
    other.formats = Versions::new(newest + 1, newest + 2);
    assert_eq!(
        other.negotiate_format().unwrap_err().to_string(),
        format!(
            "build 9.0 reads snapshots of formats {} to {}, and build {BUILD} {FORMATS}; \
             upgrade through a build between them, or restart",
            newest + 1,
            newest + 2
        )
    );
    other.formats = Versions::new(FORMATS.oldest(), newest + 2);
    assert_eq!(other.negotiate_format(), Ok(newest));
    other.protocols = Versions::new(2, 3);
    assert_eq!(
        other.negotiate_format().unwrap_err().to_string(),
        format!(
            "build 9.0 speaks protocols 2 to 3, and build {BUILD} 1 to 1; upgrade through a build \
             between them, or restart"
        )
    );
}

/// Builds exchange `Hello` and `Refused` before they have agreed on a version of the protocol:
/// these bytes stay.
#[test]
fn the_first_words_are_the_same_for_ever() {
    let hello = ToPredecessor::Hello(Hello {
        build: "0.1.0".to_owned(),
        protocols: Versions::new(1, 2),
        formats: Versions::new(3, 4),
        descriptors: 20_000,
    });
    let golden = b"\x81\x3d\0\0\0\
        \x81\x05\0\0\x000.1.0\
        \x82\x0e\0\0\0\x81\x02\0\0\0\x01\0\x82\x02\0\0\0\x02\0\
        \x83\x0e\0\0\0\x81\x02\0\0\0\x03\0\x82\x02\0\0\0\x04\0\
        \x84\x08\0\0\0\x20\x4e\0\0\0\0\0\0";
    assert_eq!(hello.encode(), golden);
    let refused = ToPredecessor::Refused {
        why: "no".to_owned(),
    };
    assert_eq!(refused.encode(), b"\x88\x07\0\0\0\x81\x02\0\0\0no");
}

proptest! {
    /// Rubbish, and messages with bytes changed or cut off, are refused or understood as
    /// something, and never more than that.
    #[test]
    fn no_bytes_do_harm(
        which in 0..5_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        keep in any::<prop::sample::Index>(),
        rubbish in prop::collection::vec(any::<u8>(), 0..64),
        count in 0..3_usize,
    ) {
        let damaged = |mut bytes: Vec<u8>| {
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes.truncate(keep.index(bytes.len()) + 1);
            bytes
        };
        let (said, _) = &to_successor()[which];
        for bytes in [damaged(said.encode().0), rubbish.clone()] {
            drop(ToSuccessor::decode(&bytes, files(count)));
        }
        for bytes in [damaged(to_predecessor()[which].encode()), rubbish] {
            drop(ToPredecessor::decode(&bytes, &[]));
        }
    }
}
