//! systemd, or whatever else manages services as it does: what it is told, and the
//! socket that it passes.
//!
//! All of it is asked for in the environment, and is nothing where that is not set:
//! sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SendFlags, SocketType, send};
use sd_notify::NotifyState;

use hawk_time::Moment;

/// What stands in the environment between the service manager and this process alone.
/// A command that is run must not have it: it could say that it is the service.
pub const VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
];

/// Those of them that name this very process. One that is to take its place must not
/// have these, but the others: it is watched as this one was.
pub const VARIABLES_OF_THIS_PROCESS: [&str; 4] =
    ["WATCHDOG_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

/// How long to wait for a service manager that does not read, with what it must not
/// miss. It has room for hundreds of messages (`net.unix.max_dgram_qlen`), so this is
/// one that hangs. Agents wait meanwhile, and so that is done once, until it reads again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells the service manager how the service is, if there is one that wants to know.
///
/// What it cannot be told is logged once, and never a reason to stop serving.
#[derive(Debug)]
pub struct Notifier {
    address: Option<SocketAddr>,
    watchdog: Option<Watchdog>,
    /// The last message did not reach it.
    failing: bool,
    /// It was waited for in vain, and has read nothing since.
    hangs: bool,
}

/// It has to hear of us now and then.
#[derive(Debug)]
struct Watchdog {
    every: Duration,
    next: Moment,
}

/// Whether a message may be waited for.
#[derive(Clone, Copy)]
enum Urgency {
    /// The service manager acts on it.
    Must,
    /// There will be another.
    May,
}

impl Notifier {
    /// As the environment has it.
    #[must_use]
    pub fn from_env(now: Moment) -> Self {
        let socket = env::var_os("NOTIFY_SOCKET");
        let address = socket.as_deref().and_then(|socket| {
            let address = address_of(socket);
            if let Err(error) = &address {
                log::warn!("cannot tell the service manager, NOTIFY_SOCKET={socket:?}: {error}");
            }
            address.ok()
        });
        let timeout = sd_notify::watchdog_enabled().filter(|_| address.is_some());
        Self {
            address,
            watchdog: timeout.map(|timeout| Watchdog::new(timeout, now)),
            failing: false,
            hangs: false,
        }
    }

    /// Whether there is anybody to tell.
    #[must_use]
    pub const fn is_heard(&self) -> bool {
        self.address.is_some()
    }

    /// `READY=1`: it serves, after a start or again after [`reloading`](Self::reloading).
    pub fn ready(&mut self, status: &str) {
        self.tell(
            Urgency::Must,
            &[NotifyState::Ready, NotifyState::Status(status)],
        );
    }

    /// `STATUS=`: what `systemctl status` shows, one line.
    pub fn status(&mut self, status: &str) {
        self.tell(Urgency::May, &[NotifyState::Status(status)]);
    }

    /// `STOPPING=1`: it was told to stop, and is about to.
    pub fn stopping(&mut self, status: &str) {
        self.tell(
            Urgency::Must,
            &[NotifyState::Stopping, NotifyState::Status(status)],
        );
    }

    /// `RELOADING=1`: it is about to be replaced by a new process, and does not end if
    /// that is not [ready](Self::ready) soon. With the time on the monotonic clock, by which
    /// the service manager knows that this is later than its own signal (systemd 253).
    pub fn reloading(&mut self, now: Moment, status: &str) {
        let microseconds = i128::from(now.as_nanos() / 1_000);
        self.tell(
            Urgency::Must,
            &[
                NotifyState::Reloading,
                NotifyState::MonotonicUsec(microseconds),
                NotifyState::Status(status),
            ],
        );
    }

    /// `MAINPID=`: from now on that process is the service. It is believed from whoever
    /// was it before.
    pub fn main_pid(&mut self, pid: u32) {
        self.tell(Urgency::Must, &[NotifyState::MainPid(pid)]);
    }

    /// When [`beat`](Self::beat) is to be called at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    /// `WATCHDOG=1`, if it is time: from where a loop that hangs does not come.
    pub fn beat(&mut self, now: Moment) {
        let Some(watchdog) = &mut self.watchdog else {
            return;
        };
        if watchdog.next <= now {
            watchdog.next = now.after(watchdog.every);
            self.tell(Urgency::May, &[NotifyState::Watchdog]);
        }
    }

    fn tell(&mut self, urgency: Urgency, states: &[NotifyState<'_>]) {
        let Some(address) = &self.address else {
            return;
        };
        let patience = match urgency {
            Urgency::Must if !self.hangs => Some(PATIENCE),
            Urgency::Must | Urgency::May => None,
        };
        match tell(address, patience, states) {
            Ok(()) => (self.failing, self.hangs) = (false, false),
            Err(error) => {
                self.hangs |= patience.is_some() && error.kind() == io::ErrorKind::WouldBlock;
                if !std::mem::replace(&mut self.failing, true) {
                    log::warn!("cannot tell the service manager how the service is: {error}");
                }
            }
        }
    }
}

impl Watchdog {
    fn new(timeout: Duration, now: Moment) -> Self {
        Self {
            // Half of it, as sd_watchdog_enabled(3) asks for.
            every: (timeout / 2).max(Duration::from_millis(1)),
            next: now,
        }
    }
}

/// A path, or with a leading `@` a name without a file.
fn address_of(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(socket),
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it is neither a path nor begins with @",
        )),
    }
}

/// The words are `sd_notify`'s. Its socket is not, for that waits without an end for a
/// service manager that does not read, and agents would wait with it.
fn tell(
    address: &SocketAddr,
    patience: Option<Duration>,
    states: &[NotifyState<'_>],
) -> io::Result<()> {
    let message: Vec<_> = states.iter().map(ToString::to_string).collect();
    let message = message.join("\n");
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(address)?;
    let flags = match patience {
        Some(_) => SendFlags::NOSIGNAL,
        None => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    };
    socket.set_write_timeout(patience)?;
    // A datagram goes whole or not at all.
    send(&socket, message.as_bytes(), flags)?;
    Ok(())
}

/// Why the sockets that were passed are not what is needed.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// `LISTEN_FDS` and `LISTEN_PID` are numbers.
    #[error("LISTEN_FDS or LISTEN_PID is no number; the service manager is to set them")]
    Environment,
    /// There is room for one.
    #[error(
        "the service manager passes {0} sockets, and hawk listens on one; leave one ListenStream= \
         in its .socket unit"
    )]
    Number(usize),
    /// It is something else.
    #[error(
        "what the service manager passes is no listening TCP socket; its .socket unit needs \
         ListenStream= with a port, and Accept=no"
    )]
    Kind,
    /// The system refused.
    #[error("cannot use the socket that the service manager passes: {0}")]
    System(#[from] io::Error),
}

/// The listening TCP socket that the service manager passes, if it passes one to this
/// process. To be asked for once, and before this process opens anything: the
/// descriptor has a number, 3, which somebody else would have otherwise.
///
/// # Errors
/// [`ActivationError`] if it passes something else.
pub fn listener() -> Result<Option<TcpListener>, ActivationError> {
    let passed = sd_listen_fds::get().map_err(|_| ActivationError::Environment)?;
    let mut sockets = Vec::with_capacity(passed.len());
    for (_name, socket) in passed {
        let socket: OwnedFd = socket.into_std();
        // As all others: commands must not have it.
        fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(io::Error::from)?;
        sockets.push(socket);
    }
    let number = sockets.len();
    match (sockets.pop(), number) {
        (None, _) => Ok(None),
        (Some(socket), 1) if is_listener(&socket) => {
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            Ok(Some(listener))
        }
        (Some(_), 1) => Err(ActivationError::Kind),
        (Some(_), number) => Err(ActivationError::Number(number)),
    }
}

/// Whether it is a TCP socket that listens; another kind of file does not even have
/// these options.
fn is_listener(socket: impl AsFd) -> bool {
    let is_inet = |family| family == AddressFamily::INET || family == AddressFamily::INET6;
    socket_domain(&socket).is_ok_and(is_inet)
        && socket_type(&socket) == Ok(SocketType::STREAM)
        && socket_acceptconn(&socket) == Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn notifier(address: SocketAddr, watchdog: Option<Watchdog>) -> Notifier {
        Notifier {
            address: Some(address),
            watchdog,
            failing: false,
            hangs: false,
        }
    }

    fn hear(socket: &UnixDatagram) -> String {
        let mut space = [0; 256];
        let count = socket.recv(&mut space).unwrap();
        String::from_utf8_lossy(&space[..count]).into_owned()
    }

    /// A service manager with a name that is no file, and who tells it.
    fn manager() -> (UnixDatagram, SocketAddr) {
        let name = format!("hawk-test-{}-{:?}", std::process::id(), Moment::now());
        let address = address_of(OsStr::new(&format!("@{name}"))).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, address)
    }

    #[test]
    fn each_message_has_the_words_of_sd_notify() {
        let (socket, address) = manager();
        let mut notifier = notifier(address, None);
        notifier.ready("Listening");
        assert_eq!(hear(&socket), "READY=1\nSTATUS=Listening");
        notifier.status("5 connections");
        assert_eq!(hear(&socket), "STATUS=5 connections");
        notifier.reloading(Moment::from_nanos(7_654_321), "Handing over");
        let reloading = "RELOADING=1\nMONOTONIC_USEC=7654\nSTATUS=Handing over";
        assert_eq!(hear(&socket), reloading);
        notifier.main_pid(4711);
        assert_eq!(hear(&socket), "MAINPID=4711");
        notifier.stopping("Stopping");
        assert_eq!(hear(&socket), "STOPPING=1\nSTATUS=Stopping");
    }

    #[test]
    fn it_beats_at_once_and_then_at_half_of_the_time() {
        let (socket, address) = manager();
        let now = Moment::from_nanos(1);
        let watchdog = Watchdog::new(Duration::from_secs(10), now);
        let mut notifier = notifier(address, Some(watchdog));
        assert_eq!(notifier.deadline(), Some(now));
        notifier.beat(now);
        assert_eq!(hear(&socket), "WATCHDOG=1");
        let next = now.after(Duration::from_secs(5));
        assert_eq!(notifier.deadline(), Some(next));
        notifier.beat(Moment::from_nanos(next.as_nanos() - 1));
        assert!(socket.recv(&mut [0; 16]).is_err(), "it is too early");
        notifier.beat(next);
        assert_eq!(hear(&socket), "WATCHDOG=1");
    }

    #[test]
    fn one_that_does_not_read_or_is_not_there_holds_nobody_up() {
        let (socket, address) = manager();
        let now = Moment::from_nanos(1);
        let watchdog = Watchdog::new(Duration::from_nanos(0), now);
        let mut notifier = notifier(address, Some(watchdog));
        // Many more than there is room for.
        let mut time = now;
        for _ in 0..10_000 {
            notifier.beat(time);
            time = time.after(Duration::from_millis(1));
        }
        assert!(notifier.failing);
        notifier.ready("after a second at the most");
        assert!(notifier.failing);
        // Nobody waits for it again before it reads.
        let begun = Moment::now();
        for _ in 0..30 {
            notifier.ready("at once");
        }
        assert!(Moment::now().since(begun) < 10 * PATIENCE);
        while socket.recv(&mut [0; 16]).is_ok() {}
        notifier.ready("it reads");
        assert!(!notifier.failing && hear(&socket).starts_with("READY=1"));
        drop(socket);
        notifier.ready("nobody is there");
        assert!(notifier.failing);
    }

    #[test]
    fn without_one_nothing_is_told() {
        let mut notifier = Notifier {
            address: None,
            watchdog: None,
            failing: false,
            hangs: false,
        };
        notifier.ready("");
        notifier.beat(Moment::from_nanos(1));
        assert_eq!(notifier.deadline(), None);
        assert!(!notifier.failing);
    }

    #[test]
    fn only_paths_and_names_are_addresses() {
        assert!(address_of(OsStr::new("/run/systemd/notify")).is_ok());
        for bad in ["", "run/notify", "vsock:2:1234"] {
            assert!(address_of(OsStr::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_tcp_socket_that_listens_is_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_listener(&listener));
        let address = listener.local_addr().unwrap();
        let stream = std::net::TcpStream::connect(address).unwrap();
        assert!(!is_listener(&stream));
        assert!(!is_listener(std::net::UdpSocket::bind("[::1]:0").unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(folder.path().join("x")).unwrap();
        assert!(!is_listener(&unix));
        assert!(!is_listener(std::fs::File::open("/dev/null").unwrap()));
    }

    #[test]
    fn what_names_this_process_is_kept_from_commands_as_well() {
        let all = VARIABLES_OF_THIS_PROCESS;
        assert!(all.iter().all(|name| VARIABLES.contains(name)));
    }
}
