//! The server, for an event loop: it never blocks.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Uid, geteuid};

use super::socket::{self, FileId, ListenError};
use super::{Answer, LONGEST_REQUEST, Request, RequestError};
use crate::peer_credentials::PeerCredentials;
use hawk_time::{Moment, Throttle, log_limited};

/// Clients at once. Each is an operator or a script on this machine; more of them wait in the
/// backlog.
const MOST_CLIENTS: usize = 8;

/// The time for a client to send its request, and then to read its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause after a failed accept(2).
const RETRY: Duration = Duration::from_secs(1);

const LISTENER: Token = Token(usize::MAX);

/// The control socket and its clients.
///
/// An event loop watches its [descriptor](AsFd) and its [deadline](Self::deadline), and then
/// calls [`turn`](Self::turn).
pub struct Server {
    /// The server's own poll. Its descriptor is readable when any of its sockets is ready
    /// (epoll(7)).
    poll: Poll,
    events: Events,
    /// `None` once [`leave`](Self::leave) has stopped accepting.
    listener: Option<UnixListener>,
    path: PathBuf,
    /// The file at `path` when this was created.
    file: Option<FileId>,
    clients: Vec<Client>,
    next_serial: usize,
    /// Whether clients may wait in the backlog, which epoll does not report again.
    more: bool,
    retry_at: Option<Moment>,
    log: Throttle,
}

/// A client that waits for its answer.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the client waits for an answer"]
pub struct Asker(usize);

struct Client {
    serial: usize,
    socket: UnixStream,
    /// The user and process that connected; `None` if the kernel does not say.
    peer: Option<PeerCredentials>,
    stage: Stage,
}

enum Stage {
    /// Sending its request, of which this much was read.
    Asking { request: Vec<u8>, until: Moment },
    /// Waiting for the answer, without a deadline.
    Waiting,
    /// Reading its answer, of which this is left.
    Answered { rest: Vec<u8>, until: Moment },
}

/// The result of a client's turn.
enum ClientTurn {
    Stays,
    Asked(Request),
    Ended,
}

impl Server {
    /// Listens at `path`. Replaces a socket that a killed server left behind.
    ///
    /// # Errors
    /// [`ListenError`] if another server or file has the path, or a system call fails.
    pub fn listen(path: &Path) -> Result<Self, ListenError> {
        let listener = socket::listen(path)?;
        Self::new(listener, path).map_err(|error| ListenError::system(path, error))
    }

    /// Takes over the listening socket of another process at `path`.
    ///
    /// # Errors
    /// Those of epoll_create(2) and epoll_ctl(2).
    pub fn adopt(listener: OwnedFd, path: &Path) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        Self::new(listener, path)
    }

    fn new(listener: std::os::unix::net::UnixListener, path: &Path) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = UnixListener::from_std(listener);
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            // Room for the events of one turn.
            events: Events::with_capacity(MOST_CLIENTS + 1),
            listener: Some(listener),
            path: path.to_owned(),
            file: FileId::of(path).ok(),
            clients: Vec::with_capacity(MOST_CLIENTS),
            next_serial: 0,
            more: false,
            retry_at: None,
            log: Throttle::default(),
        })
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the listening socket, for a process that [adopts](Self::adopt) it.
    #[must_use]
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Returns when to call [`turn`](Self::turn) at the latest; at once if it is past.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        let at_once = self.more && self.clients.len() < MOST_CLIENTS;
        let clients = self.clients.iter().filter_map(Client::deadline);
        clients
            .chain(self.retry_at)
            .chain(at_once.then_some(Moment::from_nanos(0)))
            .min()
    }

    /// Advances every client as far as possible without blocking, and appends new requests to
    /// `asked`. Each needs an [`answer`](Self::answer), now or later.
    pub fn turn(&mut self, now: Moment, asked: &mut Vec<(Asker, Request)>) {
        self.take_events();
        self.accept(now);
        let mut index = 0;
        while let Some(client) = self.clients.get_mut(index) {
            let serial = client.serial;
            match client.advance(now) {
                ClientTurn::Ended => {
                    self.clients.swap_remove(index);
                    continue;
                }
                ClientTurn::Asked(request) => match client.refusal(&request) {
                    None => asked.push((Asker(serial), request)),
                    Some(why) => {
                        log::warn!("{} refused: {why}", request.word());
                        client.set_answer(&Answer::Failed(format!("refused: {why}")), now);
                        // Writes at once what the socket takes.
                        if matches!(client.advance(now), ClientTurn::Ended) {
                            self.clients.swap_remove(index);
                            continue;
                        }
                    }
                },
                ClientTurn::Stays => {}
            }
            index += 1;
        }
    }

    /// Answers a client, which may have closed.
    #[allow(clippy::needless_pass_by_value, reason = "each client gets one answer")]
    pub fn answer(&mut self, Asker(serial): Asker, now: Moment, answer: &Answer) {
        let place = self.clients.iter().position(|c| c.serial == serial);
        if let Some(place) = place
            && let Some(client) = self.clients.get_mut(place)
        {
            client.set_answer(answer, now);
            if matches!(client.advance(now), ClientTurn::Ended) {
                self.clients.swap_remove(place);
            }
        }
    }

    /// Stops accepting, because another process does. Requests so far are still answered. The
    /// file stays.
    pub fn leave(&mut self) {
        if let Some(mut listener) = self.listener.take() {
            // A drop does not deregister it while another process has it open (epoll(7)).
            let _gone = self.poll.registry().deregister(&mut listener);
        }
    }

    /// Removes the file, if it is still that of this socket.
    pub fn remove(self) {
        let is_ours = self.file.is_some() && FileId::of(&self.path).ok() == self.file;
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!(
                "cannot remove the control socket {}: {error}",
                self.path.display()
            );
        }
    }

    /// Takes the kernel's events. Reads and writes show by themselves what is possible; only a
    /// waiting client that closes is found by its event.
    fn take_events(&mut self) {
        if self
            .poll
            .poll(&mut self.events, Some(Duration::ZERO))
            .is_err()
        {
            // A signal; the next call returns the rest.
            self.more = true;
            return;
        }
        for event in &self.events {
            if event.token() == LISTENER {
                self.more = true;
            } else if event.is_write_closed() {
                let gone = |client: &Client| {
                    client.serial == event.token().0 && matches!(client.stage, Stage::Waiting)
                };
                self.clients.retain(|client| !gone(client));
            }
        }
    }

    fn accept(&mut self, now: Moment) {
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        self.retry_at = None;
        // One attempt for each place: some may fail.
        for _ in 0..MOST_CLIENTS {
            let Some(listener) = &self.listener else {
                self.more = false;
                return;
            };
            if !self.more || self.clients.len() == MOST_CLIENTS {
                return;
            }
            match listener.accept() {
                Ok((socket, _)) => self.add_client(socket, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.more = false,
                Err(error) if is_passing(&error) => {}
                Err(error) => return self.back_off(now, &error),
            }
        }
    }

    fn add_client(&mut self, mut socket: UnixStream, now: Moment) {
        let serial = self.next_serial;
        // No count reaches the listener's token.
        self.next_serial += 1;
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        if let Err(error) = registry.register(&mut socket, Token(serial), both) {
            return self.back_off(now, &error);
        }
        let stage = Stage::Asking {
            request: Vec::new(),
            until: now.after(PATIENCE),
        };
        self.clients.push(Client {
            serial,
            peer: PeerCredentials::of(&socket).ok(),
            socket,
            stage,
        });
    }

    fn back_off(&mut self, now: Moment, error: &io::Error) {
        self.retry_at = Some(now.after(RETRY));
        log_limited!(warn, self.log, now, left_out =>
            "cannot take a client of the control socket {}: {error}; waiting clients are \
             retried left_out={left_out}",
            self.path.display());
    }
}

/// Returns whether the next client in the backlog may be tried at once.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

impl Client {
    fn deadline(&self) -> Option<Moment> {
        match self.stage {
            Stage::Asking { until, .. } | Stage::Answered { until, .. } => Some(until),
            Stage::Waiting => None,
        }
    }

    /// Returns the reason to refuse `request` from this client, if there is one. An operator may
    /// open the socket's file to other users for statistics, which change nothing.
    fn refusal(&self, request: &Request) -> Option<String> {
        let own = geteuid();
        let user = self.peer.map(|peer| peer.user);
        if !request.changes_the_server() || user.is_some_and(|user| is_trusted(user, own)) {
            return None;
        }
        let own = own.as_raw();
        let client = match self.peer {
            Some(PeerCredentials {
                user,
                process: Some(process),
            }) => format!("user {} (process {process})", user.as_raw()),
            Some(PeerCredentials {
                user,
                process: None,
            }) => format!(
                "user {} (a process of another PID namespace)",
                user.as_raw()
            ),
            None => "a client of unknown user".to_owned(),
        };
        Some(format!(
            "{client} may not ask for that; only the server's own user, {own}, and the superuser may"
        ))
    }

    fn set_answer(&mut self, answer: &Answer, now: Moment) {
        self.stage = Stage::Answered {
            rest: answer.to_bytes(),
            until: now.after(PATIENCE),
        };
    }

    fn advance(&mut self, now: Moment) -> ClientTurn {
        let outcome = match &mut self.stage {
            Stage::Waiting => return ClientTurn::Stays,
            Stage::Asking { request, .. } => match read_line(&mut self.socket, request) {
                Ok(None) => Ok(ClientTurn::Stays),
                // The client has closed: it cannot read the outcome, or cancelled the request.
                Ok(Some(Ok(_))) if is_gone(&self.socket) => Err(io::ErrorKind::BrokenPipe.into()),
                Ok(Some(Ok(request))) => {
                    self.stage = Stage::Waiting;
                    return ClientTurn::Asked(request);
                }
                Ok(Some(Err(error))) => {
                    self.set_answer(&Answer::Failed(error.to_string()), now);
                    return self.advance(now);
                }
                Err(error) => Err(error),
            },
            Stage::Answered { rest, .. } => write_some(&mut self.socket, rest),
        };
        let late = self.deadline().is_some_and(|deadline| deadline <= now);
        match outcome {
            Ok(ClientTurn::Stays) if late => self.drop_for("it takes too long"),
            Ok(outcome) => outcome,
            Err(error) => self.drop_for(&error.to_string()),
        }
    }

    /// At level debug: clients may close at any time.
    fn drop_for(&self, why: &str) -> ClientTurn {
        log::debug!("a client of the control socket is dropped: {why}");
        ClientTurn::Ended
    }
}

/// Returns whether a user may make the server run a program.
fn is_trusted(user: Uid, own: Uid) -> bool {
    user == own || user.is_root()
}

/// Returns whether the other end is closed, not only its direction of sending (poll(2)).
fn is_gone(socket: &UnixStream) -> bool {
    let mut end = [PollFd::new(socket, PollFlags::empty())];
    let found = poll(&mut end, Some(&Timespec::default()));
    found.is_ok() && end[0].revents().contains(PollFlags::HUP)
}

/// Reads more of a request; returns it once it is complete. Ignores input behind it.
fn read_line(
    socket: &mut UnixStream,
    request: &mut Vec<u8>,
) -> io::Result<Option<Result<Request, RequestError>>> {
    let mut space = [0; 512];
    loop {
        match socket.read(&mut space) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => request.extend_from_slice(&space[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let end = request.iter().position(|byte| *byte == b'\n');
        match end {
            Some(end) if end < LONGEST_REQUEST => {
                return Ok(Some(Request::parse(&request[..end])));
            }
            None if request.len() < LONGEST_REQUEST => {}
            _ => return Ok(Some(Err(RequestError::TooLong))),
        }
    }
}

/// Writes more of an answer; the client has ended once all of it is written.
fn write_some(socket: &mut UnixStream, rest: &mut Vec<u8>) -> io::Result<ClientTurn> {
    while !rest.is_empty() {
        match socket.write(rest) {
            Ok(count) => drop(rest.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(ClientTurn::Stays);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ClientTurn::Ended)
}

/// Readable when [`turn`](Server::turn) has something to do.
impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("path", &self.path)
            .field("clients", &self.clients.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_user_and_the_superuser_are_trusted() {
        let [root, own, other] = [0, 1000, 1001].map(Uid::from_raw);
        assert!(is_trusted(root, own) && is_trusted(own, own));
        assert!(!is_trusted(other, own) && !is_trusted(own, root));
    }
}
