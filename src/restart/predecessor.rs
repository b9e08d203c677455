//! The predecessor's side: one hand-over to a successor.
//!
//! [`HandOver::advance`] runs between the turns of the event loop and does a bounded amount of
//! work, so that agents are served meanwhile. Only the [freeze](UpgradeStep::Freeze) delays
//! them. It ends within its time limit, with the successor or this process as the server.

mod precopy;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rustix::process::Signal;

use self::precopy::{Amount, FEW_CHANGES, Next, PreCopy};
use super::channel::{
    Channel, ChannelError, Committed, Hello, MAX_SOCKETS, Predecessor, ReceiveError, SealedFile,
    SendError, ToPredecessor, ToSuccessor, Token,
};
use super::snapshot::{
    Agent, ClosedConnection, Connection, Counts, Freeze, Record, RemovedAgent, Writer,
};
use super::{
    Binary, HandOverFailure, HandOverFigures, Process, Progress, ServerReactor, UpgradeStep,
};
use crate::reactor::kernel::ListenerTag;
use crate::reactor::{Change, MovedId, RESERVED_DESCRIPTORS};
use crate::roster::AgentState;
use crate::store::Lock;
use crate::transfer::Transfer as _;
use hawk_time::Moment;

/// The limit from the start of the successor until it is set up: it may read a large roster's
/// store for seconds.
const SET_UP: Duration = Duration::from_secs(30);

/// The limit of the copy while agents are served. A connection takes 3 to 5 µs on an idle core,
/// and many times that on a busy one.
const PRE_COPY: Duration = Duration::from_secs(60);

/// The limit of the store's last commit. A disk that takes longer hangs.
const QUIESCE: Duration = Duration::from_secs(10);

/// The limit of the freeze: agents do not notice such a pause.
const FREEZE: Duration = Duration::from_millis(250);

/// The limit for the successor's confirmation after it has taken the token. This process then
/// has no other work: it waits so that its answer to the client is true. A successor sends the
/// confirmation at once, unless it hangs.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// Connections in a batch: some 100 µs of work between two turns, and somewhat more for the
/// successor. If all cores are busy, agents, the store's thread and the kernel's threads for its
/// disk wait this long for a core, and not until the scheduler preempts a longer batch.
const CONNECTIONS: usize = 64;

/// Agents in a batch.
const AGENTS: usize = 128;

/// The part of the [reserved](RESERVED_DESCRIPTORS) descriptors that no process uses: a server
/// has some twenty files open, and up to 32 connections that it turns away.
const SPARE_DESCRIPTORS: usize = 8;

/// How long commands for events may run on before the store quiesces. The successor delivers
/// the events of a command again that ends later.
const COMMANDS: Duration = Duration::from_secs(2);

/// The interval of checks for the end of commands.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// The successor has the same stderr.
const SEE_LOG: &str = "; its output, if any, is in the log";

/// A hand-over that is under way. A drop kills the successor, unless it has taken over.
#[derive(Debug)]
pub struct HandOver {
    channel: Channel<Predecessor>,
    binary: Binary,
    /// The successor's build; empty until its `Hello`.
    build: String,
    /// `None` once it is killed or released.
    successor: Option<Process>,
    successor_id: u32,
    generation: u32,
    stage: Stage,
    /// The deadline of this stage.
    until: Moment,
    /// When the pre-copy continues if it waits for commands.
    check_at: Moment,
    /// The format of snapshots; 0 until the successor's `Hello`.
    format: u16,
    /// The greatest number of sockets in a message.
    max_sockets: usize,
    /// The successor's limit of open files; unlimited until its `Hello`.
    successor_descriptors: u64,
    /// The message under construction.
    batch: Batch,
    /// The duration of the pre-copy.
    precopy: Duration,
    /// Bytes of all snapshots so far.
    bytes: u64,
}

/// An [`UpgradeStep`] after the start of the successor, with its state.
#[derive(Debug)]
enum Stage {
    Hello,
    Prepare,
    PreCopy(PreCopy),
    Quiesce {
        begun: Moment,
        /// Whether the store has committed its last batch.
        is_quiet: bool,
        /// Connections that may still be copied again meanwhile.
        recopies: usize,
    },
    Freeze,
}

/// The successor's answer to the freeze.
enum FreezeAnswer {
    Committed(Committed),
    /// None until the deadline.
    Missing,
    /// The channel ended or failed.
    Broken(ChannelError),
    Refused(String),
}

impl HandOver {
    /// Starts `binary` as the successor, which is the process of this `generation` and does not
    /// inherit the `hidden` variables of this process's environment.
    ///
    /// # Errors
    /// [`HandOverFailure`]: nothing has changed.
    pub fn begin(
        binary: &Binary,
        generation: u32,
        descriptors: u64,
        hidden: &[&str],
    ) -> Result<Self, HandOverFailure> {
        let failed = |step| move |error: &dyn fmt::Display| HandOverFailure::new(step, error);
        let preflight = failed(UpgradeStep::Preflight);
        binary.check().map_err(|error| preflight(&error))?;
        let (channel, theirs) = Channel::open().map_err(|error| preflight(&error))?;
        let arguments = std::env::args_os().skip(1);
        fault!(channel, "predecessor:spawn");
        let successor = Process::spawn(binary, arguments, hidden, theirs).map_err(|error| {
            let path = binary.path().display();
            // The file exists: `check` has found it (execve(2)).
            let what = match error.kind() {
                io::ErrorKind::NotFound => "; its interpreter or its loader is missing",
                _ => "",
            };
            failed(UpgradeStep::Spawn)(&format_args!("cannot start {path}: {error}{what}"))
        })?;
        let limit = fault!(limit "prepare", SET_UP);
        let mut hand_over = Self {
            channel,
            binary: binary.clone(),
            build: String::new(),
            successor_id: successor.id(),
            successor: Some(successor),
            generation,
            stage: Stage::Hello,
            until: Moment::now().after(limit),
            check_at: Moment::from_nanos(0),
            format: 0,
            // Half of what may be in flight (`SendError::TooManyInFlight`).
            max_sockets: usize::try_from(descriptors / 2)
                .unwrap_or(MAX_SOCKETS)
                .clamp(1, MAX_SOCKETS),
            successor_descriptors: u64::MAX,
            batch: Batch::new(0),
            precopy: Duration::ZERO,
            bytes: 0,
        };
        fault!(hand_over.channel, "predecessor:spawned");
        let hello = Hello::ours(descriptors);
        hand_over.send(&ToSuccessor::<BorrowedFd<'_>>::Hello(hello))?;
        fault!(hand_over.channel, "predecessor:greeted");
        Ok(hand_over)
    }

    /// Does the work that is possible now, between two turns of `server`. The successor also
    /// listens on `control`.
    ///
    /// The caller watches the [channel](AsFd), and calls this when it is readable and at the
    /// [deadline](Self::deadline).
    pub fn advance(
        &mut self,
        server: &mut ServerReactor,
        control: Option<BorrowedFd<'_>>,
    ) -> Progress {
        match self.try_advance(server, control) {
            Ok(None) => Progress::Going,
            Ok(Some(progress)) => progress,
            Err(failure) => {
                self.roll_back(server);
                Progress::RolledBack(failure)
            }
        }
    }

    /// When [`advance`](Self::advance) has work, at the latest.
    #[must_use]
    pub fn deadline(&self) -> Moment {
        match self.stage {
            // At once, unless a batch is under way. Turning on while it is would keep a
            // successor on the same core from acknowledging it.
            Stage::PreCopy(_) if self.channel.next_batch().is_some() => self.check_at,
            _ => self.until,
        }
    }

    /// The successor's process id.
    #[must_use]
    pub const fn successor(&self) -> u32 {
        self.successor_id
    }

    /// Passes a signal to stop on to the successor, which has taken over.
    pub fn pass_stop_on(&mut self) {
        // Fails if the successor has ended.
        let _unsent = self.channel.send(&ToSuccessor::<BorrowedFd<'_>>::Stop);
    }

    /// Kills the successor, and lets `server` continue.
    fn roll_back(&mut self, server: &mut ServerReactor) {
        // First: its duplicates of the sockets must be closed before this process closes one
        // without a shutdown.
        self.successor = None;
        server.end_copy();
        server.handler_mut().end_copy();
        server.handler_mut().resume();
    }

    fn try_advance(
        &mut self,
        server: &mut ServerReactor,
        control: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Progress>, HandOverFailure> {
        while let Some(message) = self.receive()? {
            self.handle(message, server, control)?;
        }
        if server.is_stopping() {
            return Err(self.failure(&"the server was told to stop"));
        }
        let is_late = Moment::now() >= self.until;
        // The number of connections changes all the time.
        self.check_successor_descriptors(server)?;
        if let Stage::PreCopy(_) = self.stage
            && !is_late
        {
            self.copy(server)?;
        }
        if let Stage::Quiesce {
            begun, is_quiet, ..
        } = self.stage
        {
            let is_quiet = is_quiet || self.becomes_quiet(server)?;
            let is_acknowledged = self.channel.next_batch().is_some();
            // Also at the deadline: a rollback would take as long.
            if is_quiet && is_acknowledged && server.never_copied() <= self.room_for_sockets(server)
            {
                return self.freeze(server, begun).map(Some);
            }
        }
        if is_late {
            return Err(self.too_late());
        }
        self.copy_while_quiescing(server)?;
        Ok(None)
    }

    fn handle(
        &mut self,
        message: ToPredecessor,
        server: &mut ServerReactor,
        control: Option<BorrowedFd<'_>>,
    ) -> Result<(), HandOverFailure> {
        match message {
            ToPredecessor::Hello(hello) => {
                let format = hello.negotiate_format();
                self.format = format.map_err(|error| self.failure(&error))?;
                self.batch = Batch::new(self.format);
                self.successor_descriptors = hello.descriptors;
                self.build = hello.build;
                self.check_successor_descriptors(server)?;
                self.stage = Stage::Prepare;
            }
            ToPredecessor::Ready => {
                fault!(self.channel, "predecessor:ready");
                server.begin_copy();
                server.handler_mut().begin_copy();
                let begun = Moment::now();
                self.until = begun.after(fault!(limit "pre-copy", PRE_COPY));
                self.stage = Stage::PreCopy(PreCopy::new(begun));
                let listener = server.listener(ListenerTag::AGENTS).map(AsFd::as_fd);
                let lock = server.handler().store_lock().map(Lock::share);
                self.send(&ToSuccessor::Shared {
                    lock: lock.as_ref().map(AsFd::as_fd),
                    listeners: listener.into_iter().chain(control).collect(),
                })?;
                fault!(self.channel, "predecessor:shared");
            }
            ToPredecessor::Refused { why } => return Err(self.refused(&why)),
            // The channel's phase has changed.
            ToPredecessor::Ack { .. } | ToPredecessor::Committed(_) => {}
        }
        Ok(())
    }

    /// Copies a batch, and begins the last commit once few changes are left. The two processes
    /// alternate: while the successor adopts a batch, this one serves.
    fn copy(&mut self, server: &mut ServerReactor) -> Result<(), HandOverFailure> {
        let Some(number) = self.next_batch() else {
            return Ok(());
        };
        let room = self.room_for_sockets(server);
        self.batch.clear();
        while let Stage::PreCopy(precopy) = &mut self.stage {
            let now = Moment::now();
            let amount = amount(server);
            let batch = &mut self.batch;
            match precopy.next(amount, self.max_sockets, now) {
                Next::Copy => {
                    let most = match precopy.is_first_pass_complete() {
                        true => self.max_sockets,
                        false => CONNECTIONS,
                    };
                    precopy.copied(copy_some(server, AGENTS, most.min(room), batch));
                }
                // New connections go with the changes.
                Next::CopyAgain if amount.unseen <= room => {
                    take_changes(server, FEW_CHANGES, batch);
                }
                Next::CopyAgain => {}
                Next::Quiesce
                    if !server.handler().has_no_commands()
                        && now.since(precopy.begun) < fault!(limit "pre-copy", COMMANDS) =>
                {
                    self.check_at = now.after(CHECK_INTERVAL);
                    return Ok(());
                }
                Next::Quiesce => {
                    self.precopy = now.since(precopy.begun);
                    self.stage = Stage::Quiesce {
                        begun: now,
                        is_quiet: false,
                        recopies: amount.connections,
                    };
                    self.until = now.after(fault!(limit "quiesce", QUIESCE));
                    fault!(self.channel, "predecessor:quiesce");
                    server.handler_mut().quiesce();
                    return Ok(());
                }
            }
            // Without room the batch has closed connections only, which make room.
            if !self.batch.writer.is_empty() || amount.unseen > room {
                return self.send_batch(server, number);
            }
        }
        Ok(())
    }

    /// Copies while the store commits, which may take long: new connections beyond the last
    /// message's room, and changes. Every connection changes once more, as its reads stop and
    /// its pending replies are sent.
    fn copy_while_quiescing(&mut self, server: &mut ServerReactor) -> Result<(), HandOverFailure> {
        let Stage::Quiesce { recopies, .. } = self.stage else {
            return Ok(());
        };
        let room = self.room_for_sockets(server);
        let amount = amount(server);
        let has_many_new = amount.unseen > room;
        let has_many_changes = recopies > 0 && amount.changes > FEW_CHANGES;
        if !has_many_new && !has_many_changes {
            return Ok(());
        }
        let Some(number) = self.next_batch() else {
            return Ok(());
        };
        if let Stage::Quiesce { recopies, .. } = &mut self.stage {
            *recopies = recopies.saturating_sub(FEW_CHANGES);
        }
        self.batch.clear();
        if has_many_new {
            copy_some(server, 0, room, &mut self.batch);
        } else {
            take_changes(server, FEW_CHANGES, &mut self.batch);
        }
        self.send_batch(server, number)
    }

    /// Returns whether the store has become quiet. From then on agents wait for the freeze
    /// alone, and the deadline is that of a freeze.
    fn becomes_quiet(&mut self, server: &ServerReactor) -> Result<bool, HandOverFailure> {
        let now_quiet = server.handler().is_quiet();
        let now_quiet = now_quiet.map_err(|down| self.failure(&down))? && server.is_quiet();
        if now_quiet
            && let Stage::Quiesce {
                is_quiet, recopies, ..
            } = &mut self.stage
        {
            *is_quiet = true;
            *recopies = 0;
            let soon = Moment::now().after(fault!(limit "freeze", FREEZE));
            self.until = self.until.min(soon);
        }
        Ok(now_quiet)
    }

    /// Stops the event loop until the successor has taken the token, or cannot take it any
    /// more.
    fn freeze(
        &mut self,
        server: &mut ServerReactor,
        quiesced: Moment,
    ) -> Result<Progress, HandOverFailure> {
        let begun = Moment::now();
        self.stage = Stage::Freeze;
        self.until = begun.after(fault!(limit "freeze", FREEZE));
        fault!(self.channel, "predecessor:freeze");
        let token = Token::new().map_err(|error| self.failure(&error))?;
        self.batch.clear();
        take_changes(server, usize::MAX, &mut self.batch);
        let (counters, tally) = server.counts();
        let counts = Counts { counters, tally };
        let writer = &mut self.batch.writer;
        writer.push(&Record::Counts(counts));
        writer.push(&Record::Handler(server.handler().state()));
        let freeze = Freeze {
            begun,
            generation: self.generation,
            precopy: self.precopy,
            quiesce: begun.since(quiesced),
            bytes: self.bytes,
        };
        self.batch.writer.push(&Record::Freeze(freeze));
        let records = self.seal()?;
        self.send(&ToSuccessor::Freeze {
            length: records.length(),
            records: records.as_fd(),
            token: token.as_fd(),
            sockets: sockets_of(server, &self.batch.opened),
        })?;
        fault!(self.channel, "predecessor:frozen");
        let answer = self.wait_for_answer(self.until);
        fault!(self.channel, "predecessor:token");
        // Whatever the answer is, the token decides. The successor is not killed before that:
        // it may be the server.
        match token.take() {
            Ok(Some(_)) => Err(self.not_taken(answer)),
            Ok(None) => Ok(self.taken(&freeze, answer)),
            // The owner is unknown: two servers would be worse than none.
            Err(error) => {
                if let Some(successor) = self.successor.take() {
                    successor.release();
                }
                Ok(Progress::Lost(self.failure(&error)))
            }
        }
    }

    fn wait_for_answer(&mut self, until: Moment) -> FreezeAnswer {
        loop {
            match self.channel.receive() {
                Ok(Some(ToPredecessor::Committed(committed))) => {
                    return FreezeAnswer::Committed(committed);
                }
                Ok(Some(ToPredecessor::Refused { why })) => return FreezeAnswer::Refused(why),
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(error) => return FreezeAnswer::Broken(error),
            }
            // An error of poll(2) ends the wait.
            if !self.channel.wait(until).unwrap_or(false) {
                return FreezeAnswer::Missing;
            }
        }
    }

    /// Why the successor has not taken the token. This process has it.
    fn not_taken(&mut self, answer: FreezeAnswer) -> HandOverFailure {
        match answer {
            FreezeAnswer::Missing => self.too_late(),
            FreezeAnswer::Refused(why) => self.refused(&why),
            FreezeAnswer::Broken(ChannelError::Receive(ReceiveError::Ended)) => self.gone(),
            FreezeAnswer::Broken(error) => self.failure(&error),
            FreezeAnswer::Committed(_) => {
                self.failure(&"the successor says that it has taken what it has not")
            }
        }
    }

    /// Returns whether the successor, which has taken the token, serves.
    fn taken(&mut self, freeze: &Freeze, mut answer: FreezeAnswer) -> Progress {
        if matches!(answer, FreezeAnswer::Missing) {
            answer = self.wait_for_answer(Moment::now().after(CONFIRMATION));
        }
        let id = self.successor_id;
        let Some(successor) = self.successor.take() else {
            return Progress::Lost(self.failure(&"the successor has ended"));
        };
        let what = match answer {
            FreezeAnswer::Committed(committed) => {
                successor.release();
                fault!(self.channel, "predecessor:handed-over");
                return Progress::HandedOver(self.figures(freeze, committed));
            }
            // The kernel closes its descriptors a moment before it reports its end.
            FreezeAnswer::Broken(ChannelError::Receive(ReceiveError::Ended)) => {
                match successor.wait(Moment::now().after(CONFIRMATION)) {
                    Ok(Some(status)) => format!("ended ({status}); no process serves"),
                    _ => "closed the channel; check whether it serves".to_owned(),
                }
            }
            // The successor owns the connections and may serve later: it is not killed.
            FreezeAnswer::Missing => {
                successor.release();
                let limit = CONFIRMATION.as_secs();
                format!("did not confirm within {limit} s; check whether it serves")
            }
            FreezeAnswer::Broken(_) | FreezeAnswer::Refused(_) => {
                successor.release();
                "sent an invalid answer; check whether it serves".to_owned()
            }
        };
        Progress::Lost(self.failure(&format_args!("process {id} took over, and then {what}")))
    }

    fn figures(&mut self, freeze: &Freeze, committed: Committed) -> HandOverFigures {
        HandOverFigures {
            successor: self.successor_id,
            build: std::mem::take(&mut self.build),
            binary: self.binary.path().to_owned(),
            generation: self.generation,
            format: self.format,
            connections: committed.connections,
            bytes: self.bytes,
            precopy: self.precopy,
            quiesce: freeze.quiesce,
            freeze: committed.resumed.since(freeze.begun),
        }
    }

    /// How many sockets the next message may have: the successor has every earlier socket open
    /// until it learns that the connection is closed.
    fn room_for_sockets(&self, server: &ServerReactor) -> usize {
        let open = server.population() + server.closed_since_copy();
        let open = open.saturating_sub(server.never_copied());
        let room = usize::try_from(self.successor_descriptors).unwrap_or(usize::MAX);
        let room = room.saturating_sub(RESERVED_DESCRIPTORS - SPARE_DESCRIPTORS);
        room.saturating_sub(open).min(self.max_sockets)
    }

    /// Checks that the successor may open a file for each connection, and the reserved ones.
    fn check_successor_descriptors(&self, server: &ServerReactor) -> Result<(), HandOverFailure> {
        let connections = server.population();
        let needed = connections + RESERVED_DESCRIPTORS;
        if needed as u64 <= self.successor_descriptors {
            return Ok(());
        }
        Err(self.failure(&format_args!(
            "the successor may have {} files open and needs {needed}, one for each of \
             {connections} connections and {RESERVED_DESCRIPTORS} more; raise its limit \
             (ulimit -n)",
            self.successor_descriptors
        )))
    }

    fn next_batch(&self) -> Option<u32> {
        let number = self.channel.next_batch()?;
        fault!(self.channel, "predecessor:batch-{number}");
        Some(number)
    }

    /// Sends the batch, and the connections that were closed.
    fn send_batch(
        &mut self,
        server: &mut ServerReactor,
        number: u32,
    ) -> Result<(), HandOverFailure> {
        server.take_closed(&mut |id| self.batch.connection::<()>(id, Change::Closed));
        let records = self.seal()?;
        self.send(&ToSuccessor::Batch {
            number,
            length: records.length(),
            records: records.as_fd(),
            sockets: sockets_of(server, &self.batch.opened),
        })
    }

    /// The written records as a file.
    fn seal(&mut self) -> Result<SealedFile, HandOverFailure> {
        let bytes = self.batch.writer.finish();
        self.bytes += bytes.len() as u64;
        SealedFile::write(bytes)
            .map_err(|error| self.failure(&format_args!("cannot write down the state: {error}")))
    }

    fn receive(&mut self) -> Result<Option<ToPredecessor>, HandOverFailure> {
        match self.channel.receive() {
            Ok(message) => Ok(message),
            Err(ChannelError::Receive(ReceiveError::Ended)) => Err(self.gone()),
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn send<F: AsFd>(&mut self, message: &ToSuccessor<F>) -> Result<(), HandOverFailure> {
        match self.channel.send(message) {
            Ok(()) => Ok(()),
            Err(ChannelError::Send(SendError::Full)) => {
                Err(self.failure(&"the successor takes no more messages"))
            }
            Err(ChannelError::Send(SendError::TooManyInFlight)) => Err(self.failure(
                &"too many descriptors of this user are on their way between processes; try again, \
                  or raise the limit of open files",
            )),
            Err(ChannelError::Send(SendError::Gone)) => Err(self.gone()),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Why the successor has closed the channel: its refusal if it sent one, or else its end.
    fn gone(&mut self) -> HandOverFailure {
        while let Ok(Some(message)) = self.channel.receive() {
            if let ToPredecessor::Refused { why } = message {
                return self.refused(&why);
            }
        }
        let ended = self.successor.take().map(Process::kill);
        self.failure(&match ended {
            // Possibly by `kill` just now.
            Some(Ok(status)) if status.signal() == Some(Signal::KILL.as_raw()) => {
                format!("the successor was killed (SIGKILL), or said no more{SEE_LOG}")
            }
            Some(Ok(status)) => format!("the successor ended ({status}){SEE_LOG}"),
            _ => format!("the successor ended{SEE_LOG}"),
        })
    }

    fn failure(&self, why: &dyn fmt::Display) -> HandOverFailure {
        let step = match self.stage {
            Stage::Hello => UpgradeStep::Hello,
            Stage::Prepare => UpgradeStep::Prepare,
            Stage::PreCopy(_) => UpgradeStep::PreCopy,
            Stage::Quiesce { .. } => UpgradeStep::Quiesce,
            Stage::Freeze => UpgradeStep::Freeze,
        };
        HandOverFailure::new(step, why)
    }

    fn refused(&self, why: &str) -> HandOverFailure {
        self.failure(&format_args!("the successor says: {why}"))
    }

    fn too_late(&self) -> HandOverFailure {
        let (what, allowed) = match self.stage {
            Stage::Hello | Stage::Prepare => ("the successor was not ready", SET_UP),
            Stage::PreCopy(_) => ("the state was not copied", PRE_COPY),
            Stage::Quiesce {
                is_quiet: false, ..
            } => ("the store did not commit what it had", QUIESCE),
            Stage::Quiesce { .. } if self.channel.next_batch().is_none() => {
                ("the successor did not acknowledge what was copied", FREEZE)
            }
            Stage::Quiesce { .. } => {
                return self.failure(&"agents connected faster than they could be copied");
            }
            Stage::Freeze => ("the successor did not take over", FREEZE),
        };
        let allowed = humantime::format_duration(allowed);
        self.failure(&format_args!("{what} in time ({allowed})"))
    }
}

/// Readable when the successor has sent a message or ended.
impl AsFd for HandOver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// The state that is left to copy.
fn amount(server: &ServerReactor) -> Amount {
    Amount {
        connections: server.population(),
        unseen: server.never_copied(),
        changes: server.changes() + server.handler().changes(),
    }
}

/// Copies agents and connections that were never copied, up to these numbers. Returns whether none
/// is left.
fn copy_some(
    server: &mut ServerReactor,
    agents: usize,
    connections: usize,
    batch: &mut Batch,
) -> bool {
    let handler = server.handler_mut();
    let all = handler.copy_some(agents, &mut |slot, state| batch.agent(slot, state));
    server.copy_some(connections, &mut |id, change| batch.connection(id, change)) && all
}

/// Copies changes of up to `most` connections and as many agents, and everything that is new.
fn take_changes(server: &mut ServerReactor, most: usize, batch: &mut Batch) {
    let handler = server.handler_mut();
    handler.take_changes(most, &mut |slot, state| batch.agent(slot, state));
    server.take_changes(most, &mut |id, change| batch.connection(id, change));
}

/// The records of a message, and the connections that its sockets belong to.
#[derive(Debug)]
struct Batch {
    writer: Writer,
    opened: Vec<MovedId>,
}

impl Batch {
    fn new(format: u16) -> Self {
        Self {
            writer: Writer::new(format),
            opened: Vec::new(),
        }
    }

    fn clear(&mut self) {
        self.writer.clear();
        self.opened.clear();
    }

    fn agent(&mut self, slot: u32, state: Option<AgentState>) {
        self.writer.push(&match state {
            Some(state) => Record::Agent(Agent { slot, state }),
            None => Record::AgentRemoved(RemovedAgent { slot }),
        });
    }

    fn connection<S>(&mut self, id: MovedId, change: Change<S>) {
        self.writer.push(&match change {
            Change::Opened(_, state) => {
                self.opened.push(id);
                Record::Opened(Connection { id, state })
            }
            Change::Changed(state) => Record::Changed(Connection { id, state }),
            Change::Closed => Record::Closed(ClosedConnection { id }),
        });
    }
}

/// The sockets of connections that were just copied; none is closed since.
fn sockets_of<'a>(server: &'a ServerReactor, opened: &[MovedId]) -> Vec<BorrowedFd<'a>> {
    let sockets = opened.iter().filter_map(|id| server.socket(*id));
    sockets.map(AsFd::as_fd).collect()
}
