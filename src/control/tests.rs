use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use super::*;
use hawk_time::Moment;

/// The time for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A control socket that is served here, step by step.
struct Rig {
    _folder: TempDir,
    path: PathBuf,
    server: Server,
    asked: Vec<(Asker, Request)>,
    /// The time, which stands still.
    now: Moment,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        Self {
            server: Server::listen(&path).unwrap(),
            path,
            _folder: folder,
            asked: Vec::new(),
            now: Moment::now(),
        }
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(&self.path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn say(&self, text: &[u8]) -> UnixStream {
        let mut client = self.connect();
        client.write_all(text).unwrap();
        client
    }

    /// Turns, as an event loop would, until `enough`.
    #[track_caller]
    fn turn_until(&mut self, enough: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !enough(self) {
            assert!(Instant::now() < end, "it never came to that: {self:?}");
            self.wait();
            self.server.turn(self.now, &mut self.asked);
        }
    }

    /// Waits for the server's descriptor, unless its deadline is past.
    fn wait(&self) {
        let at_once = self.server.deadline().is_some_and(|at| at <= self.now);
        let timeout = if at_once { Duration::ZERO } else { PATIENCE };
        let timeout = Timespec::try_from(timeout).unwrap();
        let mut source = [PollFd::from_borrowed_fd(self.server.as_fd(), PollFlags::IN)];
        poll(&mut source, Some(&timeout)).unwrap();
    }

    #[track_caller]
    fn wait_for_requests(&mut self, number: usize) -> Vec<(Asker, Request)> {
        self.turn_until(|rig| rig.asked.len() >= number);
        assert_eq!(self.asked.len(), number);
        std::mem::take(&mut self.asked)
    }

    fn answer(&mut self, asker: Asker, answer: &Answer) {
        self.server.answer(asker, self.now, answer);
    }
}

impl std::fmt::Debug for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} asked={:?}", self.server, self.asked)
    }
}

fn all_of(mut client: UnixStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

fn lines(lines: &[&str]) -> Answer {
    Answer::Done(lines.iter().map(|line| (*line).to_owned()).collect())
}

#[test]
fn it_answers_at_once_or_later_and_each_its_own() {
    let mut rig = Rig::new();
    let upgrade = rig.say(b"upgrade /x\n");
    let asked = rig.wait_for_requests(1);
    let [(later, request)] = <[_; 1]>::try_from(asked).unwrap();
    let binary = Some(PathBuf::from("/x"));
    assert_eq!(request, Request::Upgrade { binary });
    assert_eq!(
        rig.server.deadline(),
        None,
        "a waiting client has no deadline"
    );

    let stats = rig.say(b"stats\n");
    let asked = rig.wait_for_requests(1);
    let [(at_once, request)] = <[_; 1]>::try_from(asked).unwrap();
    assert_eq!(request, Request::Statistics);
    rig.answer(at_once, &lines(&["a b=1", "c d=2"]));
    assert_eq!(all_of(stats), "a b=1\nc d=2\ndone\n");
    rig.answer(later, &Answer::Failed("no".into()));
    assert_eq!(all_of(upgrade), "failed: no\n");
}

#[test]
fn client_and_server_understand_each_other() {
    let mut rig = Rig::new();
    let mut ask_for = |request: Request, answer: Answer| {
        let path = rig.path.clone();
        let client = std::thread::spawn(move || ask(&path, &request, PATIENCE));
        for (asker, _) in rig.wait_for_requests(1) {
            rig.answer(asker, &answer);
        }
        client.join().unwrap()
    };
    let told = ask_for(Request::Statistics, lines(&["x y=1"])).unwrap();
    assert_eq!(told, ["x y=1"]);
    let upgrade = Request::Upgrade { binary: None };
    let failed = ask_for(upgrade, Answer::Failed("at step 3".into()));
    assert_eq!(failed.unwrap_err().to_string(), "at step 3");
}

#[test]
fn a_request_may_come_in_pieces_and_must_be_one() {
    let mut rig = Rig::new();
    let mut slow = rig.connect();
    for byte in b"stats\n" {
        slow.write_all(&[*byte]).unwrap();
        rig.server.turn(rig.now, &mut rig.asked);
    }
    for (asker, request) in rig.wait_for_requests(1) {
        assert_eq!(request, Request::Statistics);
        rig.answer(asker, &lines(&[]));
    }
    assert_eq!(all_of(slow), "done\n");

    let strange = rig.say(b"fly\n");
    rig.server.turn(rig.now, &mut rig.asked);
    let told = all_of(strange);
    assert!(told.starts_with("failed: unknown request; "), "{told}");
    assert_eq!(rig.asked.len(), 0);
}

#[test]
fn a_request_is_bounded() {
    let mut rig = Rig::new();
    let longest = b"upgrade ".iter().chain([b'x'; 4087].iter());
    let mut longest: Vec<_> = longest.copied().collect();
    longest.push(b'\n');
    assert_eq!(longest.len(), 4096);
    let fits = rig.say(&longest);
    for (asker, _) in rig.wait_for_requests(1) {
        rig.answer(asker, &lines(&[]));
    }
    assert_eq!(all_of(fits), "done\n");

    let mut endless = rig.say(&[b'x'; 4096]);
    let mut text = [0; 64];
    rig.server.turn(rig.now, &mut rig.asked);
    let count = endless.read(&mut text).unwrap();
    let told = String::from_utf8_lossy(&text[..count]);
    assert_eq!(told, "failed: a request may have 4096 bytes at most\n");
}

#[test]
fn a_client_that_neither_sends_nor_reads_is_dropped() {
    let mut rig = Rig::new();
    let silent = rig.say(b"sta");
    rig.turn_until(|rig| rig.server.deadline().is_some());
    let deadline = rig.server.deadline().unwrap();
    let just_before = Moment::from_nanos(deadline.as_nanos() - 1);
    rig.server.turn(just_before, &mut rig.asked);
    assert_eq!(rig.server.deadline(), Some(deadline));
    rig.server.turn(deadline, &mut rig.asked);
    assert_eq!(rig.server.deadline(), None);
    assert_eq!(all_of(silent), "");

    // More than the sockets hold, so that it has to be read.
    let long = lines(&["x".repeat(4 << 20).as_str()]);
    let deaf = rig.say(b"stats\n");
    for (asker, _) in rig.wait_for_requests(1) {
        rig.answer(asker, &long);
    }
    let deadline = rig.server.deadline().expect("it has not all of it");
    rig.server.turn(deadline, &mut rig.asked);
    assert_eq!(rig.server.deadline(), None);
    assert!(!all_of(deaf).ends_with("done\n"));
}

#[test]
fn a_long_answer_goes_out_as_it_is_read() {
    let mut rig = Rig::new();
    let long = "x".repeat(4 << 20);
    let client = rig.say(b"stats\n");
    for (asker, _) in rig.wait_for_requests(1) {
        rig.answer(asker, &lines(&[&long]));
    }
    let reader = std::thread::spawn(move || all_of(client));
    rig.turn_until(|rig| rig.server.deadline().is_none());
    assert_eq!(reader.join().unwrap(), long + "\ndone\n");
}

#[test]
fn more_clients_than_places_wait_and_have_their_turn() {
    let mut rig = Rig::new();
    let mut silent: Vec<_> = (0..8).map(|_| rig.connect()).collect();
    let late = rig.say(b"stats\n");
    rig.turn_until(|rig| rig.server.deadline().is_some());
    rig.server.turn(rig.now, &mut rig.asked);
    assert_eq!(rig.asked.len(), 0, "all places are taken");
    drop(silent.pop());
    for (asker, _) in rig.wait_for_requests(1) {
        rig.answer(asker, &lines(&[]));
    }
    assert_eq!(all_of(late), "done\n");
}

#[test]
fn a_client_that_closes_while_waiting_frees_its_place() {
    let mut rig = Rig::new();
    let waiting: Vec<_> = (0..8).map(|_| rig.say(b"upgrade\n")).collect();
    let askers = rig.wait_for_requests(8);
    drop(waiting);
    let next = rig.say(b"stats\n");
    for (asker, request) in rig.wait_for_requests(1) {
        assert_eq!(request, Request::Statistics);
        rig.answer(asker, &lines(&[]));
    }
    assert_eq!(all_of(next), "done\n");
    for (asker, _) in askers {
        rig.answer(asker, &lines(&["the client has closed"]));
    }
}

#[test]
fn the_file_is_for_its_owner_only_whatever_the_umask() {
    let rig = Rig::new();
    let mode = fs::metadata(&rig.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_live_socket_is_refused_and_a_stale_one_is_replaced() {
    let rig = Rig::new();
    let refused = Server::listen(&rig.path).unwrap_err();
    assert!(matches!(refused, ListenError::Taken(_)), "{refused}");
    assert!(refused.to_string().contains("--control"), "{refused}");
    let Rig {
        path,
        server,
        _folder,
        ..
    } = rig;
    // As a process that was killed would leave it.
    drop(server);
    assert!(path.exists());
    Server::listen(&path).unwrap().remove();
    assert!(!path.exists());
}

#[test]
fn a_full_backlog_is_not_taken_for_a_stale_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let _hanging = UnixListener::bind(&path).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = socket2::Socket::new(
            socket2::Domain::UNIX,
            socket2::Type::STREAM.nonblocking(),
            None,
        )
        .unwrap();
        match socket.connect(&socket2::SockAddr::unix(&path).unwrap()) {
            Ok(()) => waiting.push(socket),
            Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    let refused = Server::listen(&path).unwrap_err();
    assert!(matches!(refused, ListenError::Taken(_)), "{refused}");
    let asked = ask(&path, &Request::Statistics, Duration::from_millis(50));
    assert!(matches!(asked, Err(AskError::TimedOut(_))), "{asked:?}");
}

#[test]
fn another_kind_of_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    fs::write(&path, "dear data").unwrap();
    let refused = Server::listen(&path).unwrap_err();
    assert!(matches!(refused, ListenError::NoSocket(_)), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), b"dear data");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let refused = Server::listen(&link).unwrap_err();
    assert!(matches!(refused, ListenError::NoSocket(_)), "{refused}");
}

#[test]
fn paths_that_cannot_be_are_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |path: &Path| Server::listen(path).unwrap_err().to_string();
    let told = refuse(&folder.path().join("none/control"));
    assert!(told.ends_with("make its folder first"), "{told}");
    let told = refuse(&folder.path().join("x".repeat(108)));
    assert!(told.contains("107 bytes"), "{told}");
}

#[test]
fn only_the_owner_of_the_file_removes_it() {
    let rig = Rig::new();
    let other = rig.path.with_extension("other");
    let successor = Server::listen(&other).unwrap();
    fs::rename(&other, &rig.path).unwrap();
    rig.server.remove();
    assert!(rig.path.exists(), "it is another's by now");
    drop(successor);
}

/// A client that was interrupted while it waited for a busy server has cancelled its request.
#[test]
fn a_client_that_closes_before_its_request_is_read_cancels_it() {
    let mut rig = Rig::new();
    drop(rig.say(b"upgrade\n"));
    let half_closed = rig.say(b"stats\n");
    half_closed.shutdown(Shutdown::Write).unwrap();
    let asked = rig.wait_for_requests(1);
    assert!(rig.asked.is_empty());
    for (asker, request) in asked {
        assert_eq!(
            request,
            Request::Statistics,
            "a client that closed only its sending side is there"
        );
        rig.answer(asker, &lines(&["here"]));
    }
    assert_eq!(all_of(half_closed), "here\ndone\n");
}

#[test]
fn another_process_continues_with_the_socket() {
    let mut rig = Rig::new();
    let asked_before = rig.say(b"upgrade\n");
    let asker = rig.wait_for_requests(1);
    let listener = rig.server.listener().unwrap().try_clone_to_owned().unwrap();
    let successor = Server::adopt(listener, &rig.path).unwrap();
    // Both processes accept from this listener; here the successor accepts the next client.
    rig.server.leave();
    let predecessor = std::mem::replace(&mut rig.server, successor);
    let asked_after = rig.say(b"stats\n");
    for (asker, request) in rig.wait_for_requests(1) {
        assert_eq!(request, Request::Statistics);
        rig.answer(asker, &lines(&["new"]));
    }
    assert_eq!(all_of(asked_after), "new\ndone\n");
    let mut predecessor = predecessor;
    predecessor.turn(rig.now, &mut rig.asked);
    assert_eq!((rig.asked.len(), predecessor.deadline()), (0, None));
    for (asker, _) in asker {
        predecessor.answer(asker, rig.now, &lines(&["old"]));
    }
    assert_eq!(all_of(asked_before), "old\ndone\n");
    rig.server.remove();
    assert!(!rig.path.exists());
}

#[test]
fn a_client_reports_its_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let ask = |patience| ask(&path, &Request::Statistics, patience);
    let unreachable = ask(PATIENCE).unwrap_err();
    assert!(
        matches!(unreachable, AskError::Unreachable { .. }),
        "{unreachable}"
    );
    fs::write(&path, "").unwrap();
    let no_socket = ask(PATIENCE).unwrap_err();
    assert!(
        no_socket.to_string().ends_with("; it is no socket"),
        "{no_socket}"
    );
    fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let silent = ask(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(silent, AskError::TimedOut(_)), "{silent}");
    let server = std::thread::spawn(move || {
        // The first client is the one above, which has closed.
        for part in [&b""[..], b"stats connections=", b"stats connections=1\n"] {
            let (mut client, _) = listener.accept().unwrap();
            let _gone = client.write_all(part);
            let _unread = client.read(&mut [0; 64]);
        }
    });
    for _ in 0..2 {
        let cut = ask(PATIENCE).unwrap_err();
        assert!(matches!(cut, AskError::CutOff(_)), "{cut}");
    }
    server.join().unwrap();
}
