//! The messages to the service manager.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;
use tempfile::TempDir;

use hawk_testkit::*;

/// Stands in for systemd: has the socket to which services send their state.
pub(crate) struct Manager {
    _folder: TempDir,
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // As in systemd, which accepts messages of the main process only.
        set_socket_passcred(&socket, true).unwrap();
        Self {
            _folder: folder,
            path,
            socket,
        }
    }

    /// Returns a launch of a server that notifies this manager, with a watchdog of this many
    /// microseconds.
    fn launch(&self, args: &[&str], watchdog: &str) -> Launch {
        self.watch(Launch::serve(args), watchdog)
    }

    /// The same for what is launched otherwise.
    pub(crate) fn watch(&self, launch: Launch, watchdog: &str) -> Launch {
        let launch = launch.env("NOTIFY_SOCKET", self.path.to_str().unwrap());
        launch.env("WATCHDOG_USEC", watchdog)
    }

    /// The next message, line by line.
    #[track_caller]
    fn hear(&self) -> Vec<String> {
        self.hear_with_sender().1
    }

    /// The same, and which process has sent it.
    #[track_caller]
    pub(crate) fn hear_with_sender(&self) -> (i32, Vec<String>) {
        let mut space = [0; 1024];
        let mut control = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut control);
        let mut data = [IoSliceMut::new(&mut space)];
        let heard = recvmsg(&self.socket, &mut data, &mut control, RecvFlags::empty());
        let count = heard.expect("a message").bytes;
        let sender = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        let text = std::str::from_utf8(&space[..count]).unwrap();
        let lines = text.lines().map(str::to_owned).collect();
        (sender.unwrap().as_raw_nonzero().get(), lines)
    }

    /// The next message that is none of the watchdog's.
    #[track_caller]
    fn hear_news(&self) -> Vec<String> {
        let heard = std::iter::repeat_with(|| self.hear());
        let mut news = heard.filter(|message| message != &["WATCHDOG=1"]);
        news.next().unwrap()
    }
}

#[test]
fn it_hears_of_readiness_of_beats_of_news_and_of_the_stop_in_this_order() {
    let manager = Manager::new();
    let server = manager.launch(&[], "100000").start();
    let address = server.address;
    let status = |connections| format!("STATUS=Serving on {address}: connections={connections}");
    assert_eq!(manager.hear(), ["READY=1", &status(0)]);
    for _ in 0..3 {
        assert_eq!(manager.hear(), ["WATCHDOG=1"]);
    }
    let mut agent = server.connect();
    agent.expect_alive();
    assert_eq!(manager.hear_news(), [status(1)]);
    server.signal(Signal::TERM);
    let stopping = ["STOPPING=1", "STATUS=Stopping: connections=1"];
    assert_eq!(manager.hear_news(), stopping);
    agent.expect_eof();
    drop(agent);
    assert_eq!(server.wait_exit().code, Some(0));
}

#[test]
fn a_server_that_cannot_listen_sends_no_ready() {
    let manager = Manager::new();
    let taken = Server::start(&[]);
    let listen = taken.address.to_string();
    let exit = manager.launch(&["--listen", &listen], "100000").run();
    assert_eq!(exit.code, Some(1));
    manager.socket.set_nonblocking(true).unwrap();
    let nothing = manager.socket.recv(&mut [0; 64]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn one_that_never_reads_holds_no_agent_up() {
    let manager = Manager::new();
    // A beat each millisecond: its socket is full at once.
    let server = manager.launch(&[], "2000").start();
    let told = |line: &str| line.contains("cannot notify the service manager");
    server.log().wait_for(0, told);
    let mut agent = server.connect();
    (0..1000).for_each(|_| agent.expect_alive());
    assert_eq!(server.count_logged("cannot notify the service manager"), 1);
    drop(agent);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let manager = Manager::new();
    let launch = manager.launch(&["--stats-interval", "10ms"], "2000");
    let server = launch.env("WATCHDOG_PID", "1").start();
    assert_eq!(manager.hear()[0], "READY=1");
    let clock = Clock::of("200ms");
    clock.wait();
    server.connect().expect_alive();
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    assert_eq!(manager.hear()[0], "STOPPING=1");
}

#[test]
fn a_notify_socket_that_is_no_socket_causes_one_warning() {
    for socket in ["nonsense", "/nowhere/at/all"] {
        let server = Launch::serve(&[]).env("NOTIFY_SOCKET", socket).start();
        server.connect().expect_alive();
        let told = |line: &str| line.contains("cannot notify the service manager");
        server.log().wait_for(0, told);
    }
}
