//! The service manager, systemd or a compatible one: notifications, and the passed socket.
//!
//! Everything is configured by environment variables, and does nothing without them:
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

use anyhow::{Context as _, anyhow, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SendFlags, SocketType, send};
use sd_notify::NotifyState;

use hawk_time::Moment;

/// The variables for the main process of a service. Commands must not inherit them: a command
/// could act as the service.
pub const VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
];

/// The variables that name this process. A successor must not inherit these; it inherits the
/// others and takes its place.
pub const VARIABLES_OF_THIS_PROCESS: [&str; 4] =
    ["WATCHDOG_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

/// The limit for an urgent message to a service manager that does not read. Its queue has room
/// for hundreds of messages (`net.unix.max_dgram_qlen`), so it hangs. Agents wait meanwhile, so
/// the next urgent message waits only after the service manager has read again.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// Notifies the service manager of the state of the service, if `NOTIFY_SOCKET` is set.
///
/// A failure is logged once and does not stop the service.
#[derive(Debug)]
pub struct Notifier {
    address: Option<SocketAddr>,
    watchdog: Option<Watchdog>,
    /// Whether the last message failed.
    failing: bool,
    /// Whether an urgent message timed out, and no message has succeeded since.
    hangs: bool,
}

/// The watchdog of the service manager expects a message at intervals.
#[derive(Debug)]
struct Watchdog {
    every: Duration,
    next: Moment,
}

/// Whether sending a message may block.
#[derive(Clone, Copy)]
enum Urgency {
    /// It may: the service manager acts on the message.
    Urgent,
    /// It may not: another message follows.
    Routine,
}

impl Notifier {
    /// Reads the configuration from the environment.
    #[must_use]
    pub fn from_env(now: Moment) -> Self {
        let socket = env::var_os("NOTIFY_SOCKET");
        let address = socket.as_deref().and_then(|socket| {
            let address = address_of(socket);
            if let Err(error) = &address {
                log::warn!("cannot notify the service manager, NOTIFY_SOCKET={socket:?}: {error}");
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

    /// Returns whether there is a service manager to notify.
    #[must_use]
    pub const fn is_configured(&self) -> bool {
        self.address.is_some()
    }

    /// `READY=1`: the service runs, after a start or again after [`reloading`](Self::reloading).
    pub fn ready(&mut self, status: &str) {
        self.send(
            Urgency::Urgent,
            &[NotifyState::Ready, NotifyState::Status(status)],
        );
    }

    /// `STATUS=`: the line that `systemctl status` shows.
    pub fn status(&mut self, status: &str) {
        self.send(Urgency::Routine, &[NotifyState::Status(status)]);
    }

    /// `STOPPING=1`: the service stops.
    pub fn stopping(&mut self, status: &str) {
        self.send(
            Urgency::Urgent,
            &[NotifyState::Stopping, NotifyState::Status(status)],
        );
    }

    /// `RELOADING=1`: a hand-over begins. [`ready`](Self::ready) follows after its success or
    /// failure. The time on the monotonic clock orders it after the signal of the service manager
    /// (systemd 253).
    pub fn reloading(&mut self, now: Moment, status: &str) {
        let microseconds = i128::from(now.as_nanos() / 1_000);
        self.send(
            Urgency::Urgent,
            &[
                NotifyState::Reloading,
                NotifyState::MonotonicUsec(microseconds),
                NotifyState::Status(status),
            ],
        );
    }

    /// `MAINPID=`: the process `pid` is the service from now on. The service manager accepts this
    /// message from the main process alone.
    pub fn main_pid(&mut self, pid: u32) {
        self.send(Urgency::Urgent, &[NotifyState::MainPid(pid)]);
    }

    /// The next deadline of [`beat`](Self::beat).
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    /// `WATCHDOG=1` at its deadline. The main loop calls this, so that a hang is noticed.
    pub fn beat(&mut self, now: Moment) {
        let Some(watchdog) = &mut self.watchdog else {
            return;
        };
        if watchdog.next <= now {
            watchdog.next = now.after(watchdog.every);
            self.send(Urgency::Routine, &[NotifyState::Watchdog]);
        }
    }

    fn send(&mut self, urgency: Urgency, states: &[NotifyState<'_>]) {
        let Some(address) = &self.address else {
            return;
        };
        let limit = match urgency {
            Urgency::Urgent if !self.hangs => Some(SEND_LIMIT),
            Urgency::Urgent | Urgency::Routine => None,
        };
        match send_datagram(address, limit, states) {
            Ok(()) => (self.failing, self.hangs) = (false, false),
            Err(error) => {
                self.hangs |= limit.is_some() && error.kind() == io::ErrorKind::WouldBlock;
                if !std::mem::replace(&mut self.failing, true) {
                    log::warn!("cannot notify the service manager: {error}");
                }
            }
        }
    }
}

impl Watchdog {
    fn new(timeout: Duration, now: Moment) -> Self {
        Self {
            // Half of it, as sd_watchdog_enabled(3) recommends.
            every: (timeout / 2).max(Duration::from_millis(1)),
            next: now,
        }
    }
}

/// Parses a path, or an abstract name with a leading `@`.
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

/// Sends `states` in the format of `sd_notify`. Not over its socket, which blocks without a limit
/// if the service manager does not read.
fn send_datagram(
    address: &SocketAddr,
    limit: Option<Duration>,
    states: &[NotifyState<'_>],
) -> io::Result<()> {
    let message: Vec<_> = states.iter().map(ToString::to_string).collect();
    let message = message.join("\n");
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(address)?;
    let flags = match limit {
        Some(_) => SendFlags::NOSIGNAL,
        None => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    };
    socket.set_write_timeout(limit)?;
    // The kernel sends a datagram whole or not at all.
    send(&socket, message.as_bytes(), flags)?;
    Ok(())
}

/// Returns the listening TCP socket that the service manager passes to this process, if there is
/// one. Call it once, before this process opens a file: without a passed socket its descriptor, 3,
/// would be that of another file.
///
/// # Errors
/// The reason why the passed socket cannot be used.
pub fn listener() -> anyhow::Result<Option<TcpListener>> {
    let unusable = "cannot use the socket that the service manager passes";
    let passed = sd_listen_fds::get().map_err(|_| {
        anyhow!("LISTEN_FDS or LISTEN_PID is no number; only the service manager sets them")
    })?;
    let mut sockets = Vec::with_capacity(passed.len());
    for (_name, socket) in passed {
        let socket: OwnedFd = socket.into_std();
        // Commands must not inherit it.
        fcntl_setfd(&socket, FdFlags::CLOEXEC).context(unusable)?;
        sockets.push(socket);
    }
    let number = sockets.len();
    match (sockets.pop(), number) {
        (None, _) => Ok(None),
        (Some(socket), 1) if is_listener(&socket) => {
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true).context(unusable)?;
            Ok(Some(listener))
        }
        (Some(_), 1) => bail!(
            "the service manager passes no listening TCP socket; its .socket unit needs \
             ListenStream= with a port, and Accept=no"
        ),
        (Some(_), number) => bail!(
            "the service manager passes {number} sockets, and hawk listens on one; leave one \
             ListenStream= in its .socket unit"
        ),
    }
}

/// Returns whether it is a listening TCP socket. Other types of file lack these options.
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

    fn receive(socket: &UnixDatagram) -> String {
        let mut space = [0; 256];
        let count = socket.recv(&mut space).unwrap();
        String::from_utf8_lossy(&space[..count]).into_owned()
    }

    /// The socket of a service manager at an abstract name.
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
        assert_eq!(receive(&socket), "READY=1\nSTATUS=Listening");
        notifier.status("5 connections");
        assert_eq!(receive(&socket), "STATUS=5 connections");
        notifier.reloading(Moment::from_nanos(7_654_321), "Handing over");
        let reloading = "RELOADING=1\nMONOTONIC_USEC=7654\nSTATUS=Handing over";
        assert_eq!(receive(&socket), reloading);
        notifier.main_pid(4711);
        assert_eq!(receive(&socket), "MAINPID=4711");
        notifier.stopping("Stopping");
        assert_eq!(receive(&socket), "STOPPING=1\nSTATUS=Stopping");
    }

    #[test]
    fn it_beats_at_once_and_then_at_half_of_the_time() {
        let (socket, address) = manager();
        let now = Moment::from_nanos(1);
        let watchdog = Watchdog::new(Duration::from_secs(10), now);
        let mut notifier = notifier(address, Some(watchdog));
        assert_eq!(notifier.deadline(), Some(now));
        notifier.beat(now);
        assert_eq!(receive(&socket), "WATCHDOG=1");
        let next = now.after(Duration::from_secs(5));
        assert_eq!(notifier.deadline(), Some(next));
        notifier.beat(Moment::from_nanos(next.as_nanos() - 1));
        assert!(socket.recv(&mut [0; 16]).is_err(), "it is too early");
        notifier.beat(next);
        assert_eq!(receive(&socket), "WATCHDOG=1");
    }

    #[test]
    fn a_service_manager_that_does_not_read_or_is_missing_does_not_block() {
        let (socket, address) = manager();
        let now = Moment::from_nanos(1);
        let watchdog = Watchdog::new(Duration::from_nanos(0), now);
        let mut notifier = notifier(address, Some(watchdog));
        // Many more than the queue holds.
        let mut time = now;
        for _ in 0..10_000 {
            notifier.beat(time);
            time = time.after(Duration::from_millis(1));
        }
        assert!(notifier.failing);
        notifier.ready("after a second at the most");
        assert!(notifier.failing);
        // No message waits again before the service manager reads.
        let begun = Moment::now();
        for _ in 0..30 {
            notifier.ready("at once");
        }
        assert!(Moment::now().since(begun) < 10 * SEND_LIMIT);
        while socket.recv(&mut [0; 16]).is_ok() {}
        notifier.ready("it reads");
        assert!(!notifier.failing && receive(&socket).starts_with("READY=1"));
        drop(socket);
        notifier.ready("the socket is closed");
        assert!(notifier.failing);
    }

    #[test]
    fn without_a_service_manager_nothing_is_sent() {
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
    fn commands_inherit_no_variable_that_names_this_process() {
        let all = VARIABLES_OF_THIS_PROCESS;
        assert!(all.iter().all(|name| VARIABLES.contains(name)));
    }
}
