//! The successor's side: say who it is, adopt what is shown, take the token.
//!
//! All of it happens before the first turn of the event loop. So it may wait, for the
//! predecessor and for nothing else.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::{PidfdFlags, pidfd_open};

use super::ServerReactor;
use super::fault::{self, Point};
use crate::reactor::{AdoptError, AdoptedId, Linux, MovedId};
use crate::restart::channel::{
    Channel, Committed, Hello, Line, LineError, Mismatch, Ownership, ReceiveError, SUCCESSOR,
    SealError, Sealed, Sending, Successor, Taken, ToPredecessor, ToSuccessor, Token,
};
use crate::restart::snapshot::{Damage, Freeze, Reader, Record};
use crate::roster::StrangeSlot;
use crate::stats::TakeOverStatistics;
use hawk_time::Moment;

/// A predecessor says something within this time, or it hangs: longer than it gives
/// itself for any step.
const PATIENCE: Duration = Duration::from_secs(90);

/// A process that is about to take over.
#[derive(Debug)]
pub struct TakeOver {
    line: Line<Successor>,
    adopted: HashMap<MovedId, AdoptedId>,
    /// The last snapshot, to be read; used again and again.
    snapshot: Vec<u8>,
    /// The predecessor was told to stop when it could no longer.
    was_stopped: bool,
}

/// What there is one of, and this process has from now on as well.
#[derive(Debug)]
pub struct SharedDescriptors {
    /// The lock of the store, if the predecessor has a store.
    pub lock: Option<OwnedFd>,
    /// The sockets that listen: the agents' first.
    pub listeners: Vec<OwnedFd>,
}

/// The figures of a take-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeOverFigures {
    /// What the predecessor reported at its freeze.
    pub freeze: Freeze,
    /// From the freeze to this process's first turn.
    pub pause: Duration,
    /// Connections that have moved.
    pub connections: usize,
    /// Bytes of all snapshots.
    pub bytes: u64,
}

impl TakeOverFigures {
    /// Returns them as part of the statistics.
    #[must_use]
    pub const fn statistics(&self) -> TakeOverStatistics {
        TakeOverStatistics {
            connections: self.connections,
            state_bytes: self.bytes,
            precopy_us: self.freeze.precopy.as_micros(),
            quiesce_us: self.freeze.quiesce.as_micros(),
            pause_us: self.pause.as_micros(),
        }
    }
}

/// Why this process does not take over. The predecessor goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// There is no line to a predecessor.
    #[error("stdin is no line to a predecessor; unset {SUCCESSOR}, which only hawk sets")]
    NoLine(#[source] std::io::Error),
    /// The line broke.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The predecessor cannot hand over to this build.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A signal to stop has come to this process. One that served would stop: nobody is to
    /// be served by it.
    #[error("it was told to stop")]
    ToldToStop,
    /// It ended, or gave this process up.
    #[error("the predecessor has given up")]
    GivenUp,
    /// It hangs.
    #[error("the predecessor has said nothing for {} s", PATIENCE.as_secs())]
    Silent,
    /// A snapshot is no sealed file.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A snapshot makes no sense.
    #[error("a snapshot is damaged")]
    Damage(#[from] Damage),
    /// A connection cannot be adopted.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// An agent cannot be taken in.
    #[error(transparent)]
    Agent(#[from] StrangeSlot),
    /// A snapshot and what came beside it do not belong together.
    #[error("a snapshot has {0}")]
    Inconsistent(&'static str),
    /// The kernel refused something.
    #[error("cannot go on with the hand-over")]
    System(#[from] std::io::Error),
}

impl TakeOver {
    /// Answers the predecessor's hello; `descriptors` is this process's limit of open
    /// files.
    ///
    /// # Errors
    /// [`TakeOverError`], of which the predecessor is told as far as it can be.
    pub fn begin(descriptors: u64) -> Result<Self, TakeOverError> {
        let channel = Channel::from_stdin().map_err(TakeOverError::NoLine)?;
        let mut succession = Self {
            line: Line::new(channel),
            adopted: HashMap::new(),
            snapshot: Vec::new(),
            was_stopped: false,
        };
        match succession.greet(descriptors) {
            Ok(()) => Ok(succession),
            Err(error) => {
                succession.refuse(&error.to_string());
                Err(error)
            }
        }
    }

    fn greet(&mut self, descriptors: u64) -> Result<(), TakeOverError> {
        let ToSuccessor::Hello(hello) = self.hear()? else {
            return Err(TakeOverError::Inconsistent("no hello before it"));
        };
        fault::at(Point::SuccessorGreeted, &self.line);
        self.say(&ToPredecessor::Hello(Hello::ours(descriptors)))?;
        fault::at(Point::SuccessorHello, &self.line);
        hello.agree()?;
        Ok(())
    }

    /// The predecessor's process: readable once it has ended.
    ///
    /// # Errors
    /// [`TakeOverError::System`] if the kernel does not give it.
    pub fn predecessor(&self) -> Result<OwnedFd, TakeOverError> {
        let pid = self.line.predecessor()?;
        let end = pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from)?;
        Ok(end)
    }

    /// Tells the predecessor why this process does not take over.
    pub fn refuse(&mut self, why: &str) {
        let why = why.to_owned();
        // If it cannot be told, it sees the line end.
        let _untold = self.line.send(&ToPredecessor::Refused { why });
    }

    /// Says that this process is set up; what it then shares with the predecessor.
    ///
    /// # Errors
    /// [`TakeOverError`].
    pub fn ready(&mut self) -> Result<SharedDescriptors, TakeOverError> {
        fault::at(Point::SuccessorReady, &self.line);
        self.say(&ToPredecessor::Ready)?;
        match self.hear()? {
            ToSuccessor::Shared { lock, listeners } => {
                fault::at(Point::SuccessorShared, &self.line);
                Ok(SharedDescriptors { lock, listeners })
            }
            _ => Err(TakeOverError::Inconsistent("nothing shared before it")),
        }
    }

    /// Takes in all that the predecessor shows, until it stands still, and then the
    /// token. After that `server` is this process's own, and its first turn is due.
    ///
    /// # Errors
    /// [`TakeOverError`]: the server is the predecessor's, and this process has done
    /// nothing with it.
    pub fn take_over(
        &mut self,
        server: &mut ServerReactor,
    ) -> Result<TakeOverFigures, TakeOverError> {
        loop {
            match self.hear()? {
                ToSuccessor::Batch {
                    number,
                    length,
                    records,
                    sockets,
                } => {
                    fault::at(Point::SuccessorBatch(number), &self.line);
                    self.take_in(server, &Sealed::check(records, length)?, sockets)?;
                    expect_no_stop(server)?;
                    fault::at(Point::SuccessorAck(number), &self.line);
                    self.say(&ToPredecessor::Ack { number })?;
                }
                ToSuccessor::Freeze {
                    length,
                    records,
                    token,
                    sockets,
                } => {
                    fault::at(Point::SuccessorFreeze, &self.line);
                    let token = Token::from_descriptor(token)?;
                    let freeze = self.take_in(server, &Sealed::check(records, length)?, sockets)?;
                    let freeze = freeze.ok_or(TakeOverError::Inconsistent("no end"))?;
                    return self.commit(server, &token, freeze, length);
                }
                _ => return Err(TakeOverError::Inconsistent("another message before it")),
            }
        }
    }

    fn commit(
        &mut self,
        server: &mut ServerReactor,
        token: &Token,
        freeze: Freeze,
        length: u64,
    ) -> Result<TakeOverFigures, TakeOverError> {
        server.complete_adoption()?;
        fault::at(Point::SuccessorCommit, &self.line);
        expect_no_stop(server)?;
        let Taken::Ours(ownership) = token.take()? else {
            return Err(TakeOverError::GivenUp);
        };
        let committed = Moment::now();
        fault::at(Point::SuccessorTaken, &self.line);
        serve(server, &ownership);
        let resumed = Moment::now();
        // Whether it hears that or not, the token is gone.
        let _unheard = self.line.send(&ToPredecessor::Committed(Committed {
            committed,
            resumed,
            connections: u32::try_from(self.adopted.len()).unwrap_or(u32::MAX),
        }));
        fault::at(Point::SuccessorCommitted, &self.line);
        Ok(TakeOverFigures {
            freeze,
            pause: resumed.since(freeze.begun),
            connections: self.adopted.len(),
            bytes: freeze.bytes.saturating_add(length),
        })
    }

    /// Takes in a snapshot; how the hand-over went, if it is the last.
    fn take_in(
        &mut self,
        server: &mut ServerReactor,
        records: &Sealed,
        sockets: Vec<OwnedFd>,
    ) -> Result<Option<Freeze>, TakeOverError> {
        let mut sockets = sockets.into_iter();
        let mut snapshot = std::mem::take(&mut self.snapshot);
        records.read(&mut snapshot)?;
        let mut end = None;
        for record in Reader::new(&snapshot)? {
            match record? {
                Record::Freeze(freeze) => end = Some(freeze),
                record => self.apply(server, record, &mut sockets)?,
            }
        }
        self.snapshot = snapshot;
        match sockets.next() {
            None => Ok(end),
            Some(_) => Err(TakeOverError::Inconsistent("more sockets than connections")),
        }
    }

    fn apply(
        &mut self,
        server: &mut ServerReactor,
        record: Record,
        sockets: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<(), TakeOverError> {
        match record {
            Record::Opened { id, state } => {
                let missing = TakeOverError::Inconsistent("fewer sockets than connections");
                let socket = sockets.next().ok_or(missing)?;
                let adopted = server.adopt(Linux::connection(socket), state)?;
                if self.adopted.insert(id, adopted).is_some() {
                    return Err(TakeOverError::Inconsistent("a connection twice"));
                }
            }
            Record::Changed { id, state } => {
                let adopted = self.adopted.get(&id);
                server.replace(*adopted.ok_or(AdoptError::Unknown)?, state)?;
            }
            Record::Closed { id } => {
                let adopted = self.adopted.remove(&id);
                server.discard(adopted.ok_or(AdoptError::Unknown)?);
            }
            Record::Agent { slot, state } => server.handler_mut().adopt(slot, state)?,
            Record::Forgotten { slot } => server.handler_mut().forget(slot),
            Record::Handler(state) => server.handler_mut().resume(state),
            Record::Counts { counters, tally } => server.resume_counts(counters, tally),
            Record::Freeze(_) => {}
        }
        Ok(())
    }

    /// Whether the predecessor has let go of the line, which it does once it has told
    /// whoever watches both processes that this one goes on.
    pub fn is_over(&mut self) -> bool {
        loop {
            match self.line.receive() {
                Ok(None) => return false,
                Ok(Some(ToSuccessor::Stop)) => self.was_stopped = true,
                // It has nothing else to say.
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }

    /// Whether the predecessor was told to stop when it had handed over already, which is
    /// known once the line [is over](Self::is_over).
    #[must_use]
    pub const fn was_stopped(&self) -> bool {
        self.was_stopped
    }

    fn hear(&mut self) -> Result<ToSuccessor<OwnedFd>, TakeOverError> {
        let until = Moment::now().after(fault::patience(PATIENCE));
        loop {
            match self.line.receive() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(LineError::Receive(ReceiveError::Ended)) => {
                    return Err(TakeOverError::GivenUp);
                }
                Err(error) => return Err(error.into()),
            }
            if !self.line.wait(until)? {
                return Err(TakeOverError::Silent);
            }
        }
    }

    fn say(&mut self, message: &ToPredecessor) -> Result<(), TakeOverError> {
        match self.line.send(message)? {
            Sending::Sent => Ok(()),
            // It has room for hundreds of these.
            Sending::Full | Sending::TooManyInFlight => Err(TakeOverError::Silent),
        }
    }
}

/// A process that serves would stop for that: nobody is to be served by this one.
fn expect_no_stop(server: &mut ServerReactor) -> Result<(), TakeOverError> {
    match server.take_stop_signal() {
        true => Err(TakeOverError::ToldToStop),
        false => Ok(()),
    }
}

/// The server is this process's own from now on.
fn serve(server: &mut ServerReactor, _proof: &Ownership) {
    server.handler_mut().go_on();
}

/// To be watched for the end of the predecessor.
impl AsFd for TakeOver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}
