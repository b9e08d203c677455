//! The lower layers of the hand-over where they need a process of their own: at limits
//! that count for a whole process, without rights, or between two processes.

#![allow(clippy::unwrap_used, clippy::panic)] // The helpers below are tests too.

mod limits;
mod processes;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use hawk::restart::channel::{MessageSocket, ReceiveError, Received};
use hawk_time::Moment;

/// In the environment of a process that is there for one test: what it is to do.
const ROLE: &str = "HAWK_TEST_ROLE";

/// To run the test `name` of this program as `role`, with `stdin`.
fn command(name: &str, role: &str, stdin: Stdio) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .stdin(stdin);
    command
}

/// A process that does so. Its stdout is not looked at.
fn start(name: &str, role: &str, stdin: Stdio) -> Child {
    let mut command = command(name, role, stdin);
    command.stdout(Stdio::null()).spawn().unwrap()
}

/// What this process is to do, if it is one for a single test.
fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs `test`, which is the whole of the test `name`, in a process of its own.
fn alone(name: &str, test: impl FnOnce()) {
    if role().is_some() {
        test();
    } else {
        let ended = command(name, "alone", Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        let wrong = String::from_utf8_lossy(&ended.stderr);
        // One that ran no test would be successful too.
        let ran = said.contains("1 passed");
        assert!(ended.status.success() && ran, "{said}{wrong}");
    }
}

/// The next message, which has some seconds to come.
fn next(channel: &MessageSocket) -> Result<Received, ReceiveError> {
    let late = Moment::now().after(std::time::Duration::from_secs(20));
    assert!(channel.wait(late).unwrap(), "nothing came");
    channel.receive()
}

fn pair() -> (MessageSocket, MessageSocket) {
    let (ours, theirs) = MessageSocket::pair().unwrap();
    (ours, MessageSocket::from_socket(theirs).unwrap())
}

/// So many descriptors, all of the same file.
fn many(file: &OwnedFd, count: usize) -> Vec<BorrowedFd<'_>> {
    vec![file.as_fd(); count]
}
