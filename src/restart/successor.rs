//! The successor's side: announce itself, adopt the state, take the token.
//!
//! All of it happens before the first turn of the event loop, so every method may block until
//! the predecessor's next message.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{PidfdFlags, pidfd_open};

use super::channel::{
    Channel, ChannelError, Committed, Hello, MessageSocket, Ownership, ReceiveError, SealedFile,
    Successor, ToPredecessor, ToSuccessor, Token,
};
use super::snapshot::{
    Agent, ClosedConnection, Connection, Counts, Freeze, Reader, Record, RemovedAgent,
};
use super::{SUCCESSOR, ServerReactor};
use crate::reactor::{Change, Linux};
use crate::stats::TakeOverStatistics;
use crate::transfer::Transfer as _;
use hawk_time::Moment;

/// The limit for the predecessor's next message: longer than its limit of any step.
const PATIENCE: Duration = Duration::from_secs(90);

const DAMAGED: &str = "a snapshot is damaged";
const ROLLED_BACK: &str = "the predecessor has rolled the hand-over back or ended";

/// A take-over from a predecessor.
#[derive(Debug)]
pub struct TakeOver {
    channel: Channel<Successor>,
    /// The memory for a snapshot, reused.
    snapshot: Vec<u8>,
    /// Whether the predecessor passed on a signal to stop.
    was_stopped: bool,
}

/// The descriptors that both processes have.
#[derive(Debug)]
pub struct SharedDescriptors {
    /// The lock of the store; `None` without a store.
    pub lock: Option<OwnedFd>,
    /// The listening sockets: that for agents, then the control socket.
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

impl TakeOver {
    /// Answers the predecessor's `Hello`; `descriptors` is this process's limit of open files.
    ///
    /// # Errors
    /// The reason not to take over, which is sent to the predecessor if possible.
    pub fn begin(descriptors: u64) -> anyhow::Result<Self> {
        let socket = MessageSocket::from_stdin().with_context(|| {
            format!("stdin is no channel to a predecessor; unset {SUCCESSOR}, which only hawk sets")
        })?;
        let mut take_over = Self {
            channel: Channel::new(socket),
            snapshot: Vec::new(),
            was_stopped: false,
        };
        match take_over.greet(descriptors) {
            Ok(()) => Ok(take_over),
            Err(error) => {
                take_over.refuse(&error.to_string());
                Err(error)
            }
        }
    }

    fn greet(&mut self, descriptors: u64) -> anyhow::Result<()> {
        let ToSuccessor::Hello(hello) = self.receive()? else {
            bail!("a snapshot has no hello before it");
        };
        fault!(self.channel, "successor:greeted");
        self.channel
            .send(&ToPredecessor::Hello(Hello::ours(descriptors)))?;
        fault!(self.channel, "successor:hello");
        hello.negotiate_format()?;
        Ok(())
    }

    /// Returns a pidfd of the predecessor, which is readable once it has ended.
    ///
    /// # Errors
    /// The error of `getsockopt(2)` or `pidfd_open(2)`.
    pub fn predecessor(&self) -> io::Result<OwnedFd> {
        let pid = self.channel.predecessor()?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// Sends the predecessor the reason why this process does not take over.
    pub fn refuse(&mut self, why: &str) {
        let why = why.to_owned();
        // If this fails, the predecessor notices the end of the channel.
        let _unsent = self.channel.send(&ToPredecessor::Refused { why });
    }

    /// Reports that this process is set up. Returns what the predecessor shares with it.
    ///
    /// # Errors
    /// The reason not to take over.
    pub fn ready(&mut self) -> anyhow::Result<SharedDescriptors> {
        fault!(self.channel, "successor:ready");
        self.channel.send(&ToPredecessor::Ready)?;
        match self.receive()? {
            ToSuccessor::Shared { lock, listeners } => {
                fault!(self.channel, "successor:shared");
                Ok(SharedDescriptors { lock, listeners })
            }
            _ => bail!("a snapshot has nothing shared before it"),
        }
    }

    /// Adopts the state that the predecessor copies until its freeze, and takes the token. Then
    /// this process owns the connections, and the caller runs the first turn of `server`.
    ///
    /// # Errors
    /// The reason not to take over: the predecessor owns the connections, and this process has neither
    /// read nor written.
    pub fn take_over(&mut self, server: &mut ServerReactor) -> anyhow::Result<TakeOverFigures> {
        loop {
            match self.receive()? {
                ToSuccessor::Batch {
                    number,
                    length,
                    records,
                    sockets,
                } => {
                    fault!(self.channel, "successor:batch-{number}");
                    self.adopt_snapshot(server, &SealedFile::check(records, length)?, sockets)?;
                    check_not_stopped(server)?;
                    fault!(self.channel, "successor:ack-{number}");
                    self.channel.send(&ToPredecessor::Ack { number })?;
                }
                ToSuccessor::Freeze {
                    length,
                    records,
                    token,
                    sockets,
                } => {
                    fault!(self.channel, "successor:freeze");
                    let token = Token::from_descriptor(token)?;
                    let freeze =
                        self.adopt_snapshot(server, &SealedFile::check(records, length)?, sockets)?;
                    let freeze = freeze.context("a snapshot has no end")?;
                    return self.commit(server, &token, freeze, length);
                }
                _ => bail!("a snapshot has another message before it"),
            }
        }
    }

    fn commit(
        &mut self,
        server: &mut ServerReactor,
        token: &Token,
        freeze: Freeze,
        length: u64,
    ) -> anyhow::Result<TakeOverFigures> {
        let connections = server.complete_adoption()?;
        fault!(self.channel, "successor:commit");
        check_not_stopped(server)?;
        let Some(ownership) = token.take()? else {
            bail!(ROLLED_BACK);
        };
        let committed = Moment::now();
        fault!(self.channel, "successor:taken");
        resume(server, &ownership);
        let resumed = Moment::now();
        // Even if this fails: the token is taken.
        let _unsent = self.channel.send(&ToPredecessor::Committed(Committed {
            committed,
            resumed,
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
        }));
        fault!(self.channel, "successor:committed");
        Ok(TakeOverFigures {
            freeze,
            pause: resumed.since(freeze.begun),
            connections,
            bytes: freeze.bytes.saturating_add(length),
        })
    }

    /// Adopts a snapshot. Returns the figures of the hand-over if it is the last.
    fn adopt_snapshot(
        &mut self,
        server: &mut ServerReactor,
        records: &SealedFile,
        sockets: Vec<OwnedFd>,
    ) -> anyhow::Result<Option<Freeze>> {
        let mut sockets = sockets.into_iter();
        let mut snapshot = std::mem::take(&mut self.snapshot);
        records.read(&mut snapshot)?;
        let mut end = None;
        for record in Reader::new(&snapshot).context(DAMAGED)? {
            match record.context(DAMAGED)? {
                Record::Freeze(freeze) => end = Some(freeze),
                record => self.apply(server, record, &mut sockets)?,
            }
        }
        self.snapshot = snapshot;
        match sockets.next() {
            None => Ok(end),
            Some(_) => bail!("a snapshot has more sockets than connections"),
        }
    }

    fn apply(
        &mut self,
        server: &mut ServerReactor,
        record: Record,
        sockets: &mut impl Iterator<Item = OwnedFd>,
    ) -> anyhow::Result<()> {
        match record {
            Record::Opened(Connection { id, state }) => {
                let socket = sockets.next();
                let socket = socket.context("a snapshot has fewer sockets than connections")?;
                server.import(id, Change::Opened(Linux::connection(socket), state))?;
            }
            Record::Changed(Connection { id, state }) => {
                server.import(id, Change::Changed(state))?;
            }
            Record::Closed(ClosedConnection { id }) => server.import(id, Change::Closed)?,
            Record::Agent(Agent { slot, state }) => {
                server.handler_mut().import(slot, Some(state))?;
            }
            Record::AgentRemoved(RemovedAgent { slot }) => {
                server.handler_mut().import(slot, None)?;
            }
            Record::Handler(state) => server.handler_mut().import_state(state),
            Record::Counts(Counts { counters, tally }) => server.resume_counts(counters, tally),
            Record::Freeze(_) => {}
        }
        Ok(())
    }

    /// Returns whether the predecessor has closed the channel, which it does after it has named
    /// this process to the service manager.
    pub fn is_over(&mut self) -> bool {
        loop {
            match self.channel.receive() {
                Ok(None) => return false,
                Ok(Some(ToSuccessor::Stop)) => self.was_stopped = true,
                // No other message is allowed in this phase.
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }

    /// Returns whether the predecessor received a signal to stop after the hand-over; final once
    /// the channel [is closed](Self::is_over).
    #[must_use]
    pub const fn was_stopped(&self) -> bool {
        self.was_stopped
    }

    fn receive(&mut self) -> anyhow::Result<ToSuccessor<OwnedFd>> {
        let until = Moment::now().after(fault!(limit "patience", PATIENCE));
        loop {
            match self.channel.receive() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(ChannelError::Receive(ReceiveError::Ended)) => {
                    bail!(ROLLED_BACK);
                }
                Err(error) => return Err(error.into()),
            }
            if !self.channel.wait(until)? {
                bail!(
                    "the predecessor has sent nothing for {} s",
                    PATIENCE.as_secs()
                );
            }
        }
    }
}

/// Fails after a signal to stop, for which a serving process would stop.
fn check_not_stopped(server: &mut ServerReactor) -> anyhow::Result<()> {
    match server.take_stop_signal() {
        true => Err(anyhow::anyhow!("it was told to stop")),
        false => Ok(()),
    }
}

/// Lets the handler continue. Requires the proof that this process owns the connections.
fn resume(server: &mut ServerReactor, _proof: &Ownership) {
    server.handler_mut().resume();
}

/// Readable once the predecessor has closed the channel.
impl AsFd for TakeOver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
