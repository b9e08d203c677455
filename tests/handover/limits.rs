//! At the limit of open files.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};

use hawk::restart::channel::{MAX_DESCRIPTORS, ReceiveError, SendError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::{alone, many, pair};

/// Descriptors beyond this number cannot be opened by this process any more.
fn limit_open_files(limit: u64) {
    let before = getrlimit(Resource::Nofile);
    let limited = Rlimit {
        current: Some(limit),
        ..before
    };
    setrlimit(Resource::Nofile, limited).unwrap();
}

fn file() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn descriptors_that_find_no_place_make_a_message_void() {
    alone(
        "limits::descriptors_that_find_no_place_make_a_message_void",
        || {
            let (sender, receiver) = pair();
            let file = file();
            let room = u64::try_from(file.as_raw_fd()).unwrap() + 5;
            let before = open_files();
            sender.send(b"too many", &many(&file, 20)).unwrap();
            sender.send(b"none", &[]).unwrap();
            sender.send(b"few", &many(&file, 2)).unwrap();
            limit_open_files(room);
            let lost = receiver.receive().unwrap_err();
            assert!(matches!(lost, ReceiveError::DescriptorsLost), "{lost}");
            // The received descriptors are closed, and the channel still works.
            assert_eq!(open_files(), before);
            assert_eq!(receiver.receive().unwrap().bytes, b"none");
            assert_eq!(receiver.receive().unwrap().descriptors.len(), 2);
            limit_open_files(100);
            sender.send(b"again", &many(&file, 20)).unwrap();
            assert_eq!(receiver.receive().unwrap().descriptors.len(), 20);
        },
    );
}

#[test]
fn more_in_flight_than_may_be_open_is_for_later() {
    alone(
        "limits::more_in_flight_than_may_be_open_is_for_later",
        || {
            // The superuser is exempt from this limit.
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            set_capabilities(None, none).unwrap();
            let (sender, receiver) = pair();
            let file = file();
            limit_open_files(300);
            let mut sent = 0;
            let later = loop {
                match sender.send(b"descriptors", &many(&file, MAX_DESCRIPTORS)) {
                    Ok(()) => sent += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(later, SendError::TooManyInFlight), "{later}");
            assert!(sent > 0);
            for _ in 0..sent {
                drop(receiver.receive().unwrap());
            }
            sender.send(b"descriptors", &many(&file, 1)).unwrap();
            assert_eq!(receiver.receive().unwrap().descriptors.len(), 1);
        },
    );
}
