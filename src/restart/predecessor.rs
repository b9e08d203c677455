//! The predecessor's side: one attempt to hand everything over.
//!
//! It is driven between the turns of the event loop, and does a little each time, so that
//! agents are served meanwhile. Only the [freeze](Step::Freeze) holds them up, and it ends
//! within its budget one way or the other.

mod batch;
mod copying;
mod freeze;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rustix::process::Signal;

use self::copying::Copying;
use self::freeze::FREEZE;
use super::fault::{self, Point};
use super::{HandOverFailure, Progress, ServerReactor};
use crate::reactor::RESERVED_DESCRIPTORS;
use crate::reactor::kernel::ListenerTag;
use crate::restart::channel::{
    Binary, Hello, Line, LineError, MAX_SOCKETS, Predecessor, Process, ReceiveError, Sealed,
    SendError, Sending, Step, ToPredecessor, ToSuccessor,
};
use crate::restart::snapshot::Writer;
use crate::store::Lock;
use hawk_time::Moment;

/// From the start of the successor until it is set up: reading a large roster's store may
/// take it seconds.
const SET_UP: Duration = Duration::from_secs(30);

/// For the copy while agents are served. It takes 3 to 5 µs for each connection on a core
/// with nothing else to do, and many times that on a busy one.
const PRE_COPY: Duration = Duration::from_secs(60);

/// For the last commit. A disk that takes longer is one that hangs.
const QUIESCE: Duration = Duration::from_secs(10);

/// It has the same stderr.
const SEE_LOG: &str = "; what it said, if anything, is in the log";

/// An attempt that is under way.
///
/// Dropping it ends the successor, unless that has taken over.
#[derive(Debug)]
pub struct HandOver {
    line: Line<Predecessor>,
    binary: Binary,
    /// The successor's build, once it has told it.
    build: String,
    /// `None`: it is ended, or on its own.
    successor: Option<Process>,
    successor_id: u32,
    generation: u32,
    stage: Stage,
    /// When this stage must be over.
    until: Moment,
    /// When the copy goes on, if it waits for something other than the successor.
    look_again_at: Moment,
    /// The format of snapshots, once it is agreed.
    format: u16,
    /// Sockets in a message, at most.
    batch: usize,
    /// The successor's limit of open files, once it has told it.
    room: u64,
    writer: Writer,
    precopy: Duration,
    /// Bytes of all snapshots so far.
    bytes: u64,
}

#[derive(Debug)]
enum Stage {
    /// The successor starts.
    Hello,
    /// It sets itself up.
    Prepare,
    /// State is copied.
    PreCopy(Copying),
    /// The store finishes what it has.
    Quiesce {
        begun: Moment,
        /// It has.
        is_quiet: bool,
        /// How many connections may be copied again meanwhile.
        again: usize,
    },
    /// This process stands still.
    Freeze,
}

impl HandOver {
    /// Starts `binary` as the successor; it will be the process of this `generation`. It
    /// does not inherit the `hidden` variables of this process's environment.
    ///
    /// # Errors
    /// [`HandOverFailure`]: nothing has changed.
    pub fn begin(
        binary: &Binary,
        generation: u32,
        descriptors: u64,
        hidden: &[&str],
    ) -> Result<Self, HandOverFailure> {
        let step = |step| move |error: &dyn fmt::Display| HandOverFailure::new(step, error);
        binary
            .check()
            .map_err(|error| step(Step::Preflight)(&error))?;
        let (line, theirs) = Line::open().map_err(|error| step(Step::Preflight)(&error))?;
        let arguments = std::env::args_os().skip(1);
        fault::at(Point::PredecessorSpawn, &line);
        let successor = Process::spawn(binary, arguments, hidden, theirs).map_err(|error| {
            let path = binary.path().display();
            // It was there just now, and what executes it is not (execve(2)).
            let what = match error.kind() {
                io::ErrorKind::NotFound => "; its interpreter or its loader is missing",
                _ => "",
            };
            step(Step::Spawn)(&format_args!("cannot start {path}: {error}{what}"))
        })?;
        let begun = Moment::now();
        let mut attempt = Self {
            line,
            binary: binary.clone(),
            build: String::new(),
            successor_id: successor.id(),
            successor: Some(successor),
            generation,
            stage: Stage::Hello,
            until: begun.after(fault::deadline(Step::Prepare, SET_UP)),
            look_again_at: Moment::from_nanos(0),
            format: 0,
            // Half of what the kernel lets be under way.
            batch: usize::try_from(descriptors / 2)
                .unwrap_or(MAX_SOCKETS)
                .clamp(1, MAX_SOCKETS),
            room: u64::MAX,
            writer: Writer::new(0),
            precopy: Duration::ZERO,
            bytes: 0,
        };
        fault::at(Point::PredecessorSpawned, &attempt.line);
        attempt.say(&ToSuccessor::<BorrowedFd<'_>>::Hello(Hello::ours(
            descriptors,
        )))?;
        fault::at(Point::PredecessorGreeted, &attempt.line);
        Ok(attempt)
    }

    /// Goes on as far as that is possible now, between two turns of `server`.
    ///
    /// The caller watches the [line](AsFd), and calls this again when there is something to
    /// hear, and when it is the [deadline](Self::deadline). The successor listens on
    /// `control` as well, if there is one.
    pub fn advance(
        &mut self,
        server: &mut ServerReactor,
        control: Option<BorrowedFd<'_>>,
    ) -> Progress {
        match self.try_to_advance(server, control) {
            Ok(None) => Progress::Going,
            Ok(Some(outcome)) => outcome,
            Err(failure) => {
                self.roll_back(server);
                Progress::RolledBack(failure)
            }
        }
    }

    /// When [`advance`](Self::advance) is to be called at the latest.
    #[must_use]
    pub fn deadline(&self) -> Moment {
        match self.stage {
            // There is work at once, unless it waits for an acknowledgement. Turning on
            // and on for that would keep a successor on the same core from sending it.
            Stage::PreCopy(_) if self.line.next_batch().is_some() => self.look_again_at,
            _ => self.until,
        }
    }

    /// The successor's process id.
    #[must_use]
    pub const fn successor(&self) -> u32 {
        self.successor_id
    }

    /// Tells the successor, which has taken over, that this process was told to stop.
    pub fn pass_stop_on(&mut self) {
        // If it cannot be told, it has ended.
        let _untold = self.line.send(&ToSuccessor::<BorrowedFd<'_>>::Stop);
    }

    /// Ends the successor, and has `server` go on as if there had been none.
    fn roll_back(&mut self, server: &mut ServerReactor) {
        // It is gone, and with it the duplicates of the sockets that it had, before those
        // are closed here again without being shut down.
        self.successor = None;
        server.end_copy();
        server.handler_mut().end_copy();
        server.handler_mut().go_on();
    }

    fn try_to_advance(
        &mut self,
        server: &mut ServerReactor,
        control: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Progress>, HandOverFailure> {
        while let Some(message) = self.hear()? {
            self.take(message, server, control)?;
        }
        if server.is_stopping() {
            return Err(self.failure(&"the server was told to stop"));
        }
        let is_late = Moment::now() >= self.until;
        // Agents connect all the time.
        self.expect_room(server)?;
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
            let none_is_under_way = self.line.next_batch().is_some();
            // Even if it is late: it would take as long to give up.
            if is_quiet
                && none_is_under_way
                && server.never_copied() <= self.room_for_newcomers(server)
            {
                return self.freeze(server, begun).map(Some);
            }
        }
        if is_late {
            return Err(self.too_late());
        }
        self.copy_meanwhile(server)?;
        Ok(None)
    }

    fn take(
        &mut self,
        message: ToPredecessor,
        server: &mut ServerReactor,
        control: Option<BorrowedFd<'_>>,
    ) -> Result<(), HandOverFailure> {
        match message {
            ToPredecessor::Hello(hello) => {
                self.format = hello.agree().map_err(|error| self.failure(&error))?;
                self.writer = Writer::new(self.format);
                self.room = hello.descriptors;
                self.build = hello.build;
                self.expect_room(server)?;
                self.stage = Stage::Prepare;
            }
            ToPredecessor::Ready => {
                fault::at(Point::PredecessorReady, &self.line);
                server.begin_copy();
                server.handler_mut().begin_copy();
                let begun = Moment::now();
                self.until = begun.after(fault::deadline(Step::PreCopy, PRE_COPY));
                self.stage = Stage::PreCopy(Copying::new(begun));
                let listener = server.listener(ListenerTag::AGENTS).map(AsFd::as_fd);
                let lock = server.handler().store_lock().map(Lock::share);
                self.say(&ToSuccessor::Shared {
                    lock: lock.as_ref().map(AsFd::as_fd),
                    listeners: listener.into_iter().chain(control).collect(),
                })?;
                fault::at(Point::PredecessorShared, &self.line);
            }
            ToPredecessor::Refused { why } => return Err(self.refused(&why)),
            // What they bring is in the line's order.
            ToPredecessor::Ack { .. } | ToPredecessor::Committed(_) => {}
        }
        Ok(())
    }

    /// Whether the store has finished just now what it had. From then on agents wait for
    /// nothing but this, and not longer than for a freeze.
    fn becomes_quiet(&mut self, server: &ServerReactor) -> Result<bool, HandOverFailure> {
        let now_quiet = server.handler().is_quiet();
        let now_quiet = now_quiet.map_err(|down| self.failure(&down))? && server.is_quiet();
        if now_quiet
            && let Stage::Quiesce {
                is_quiet, again, ..
            } = &mut self.stage
        {
            *is_quiet = true;
            *again = 0;
            let soon = Moment::now().after(fault::deadline(Step::Freeze, FREEZE));
            self.until = self.until.min(soon);
        }
        Ok(now_quiet)
    }

    /// The successor may open a file for each connection, and those that it has besides.
    fn expect_room(&self, server: &ServerReactor) -> Result<(), HandOverFailure> {
        let connections = server.population();
        let needed = connections + RESERVED_DESCRIPTORS;
        if needed as u64 <= self.room {
            return Ok(());
        }
        Err(self.failure(&format_args!(
            "the successor may have {} files open and needs {needed}, one for each of \
             {connections} connections and {RESERVED_DESCRIPTORS} more; raise its limit \
             (ulimit -n)",
            self.room
        )))
    }

    fn hear(&mut self) -> Result<Option<ToPredecessor>, HandOverFailure> {
        match self.line.receive() {
            Ok(message) => Ok(message),
            Err(LineError::Receive(ReceiveError::Ended)) => Err(self.gone()),
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn say<F: AsFd>(&mut self, message: &ToSuccessor<F>) -> Result<(), HandOverFailure> {
        match self.line.send(message) {
            Ok(Sending::Sent) => Ok(()),
            Ok(Sending::Full) => Err(self.failure(&"the successor takes no more messages")),
            Ok(Sending::TooManyInFlight) => Err(self.failure(
                &"too many descriptors of this user are on their way between processes; try again, \
                  or raise the limit of open files",
            )),
            Err(LineError::Send(SendError::Gone)) => Err(self.gone()),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// It has left the line: why, if it has said so, or else how it ended.
    fn gone(&mut self) -> HandOverFailure {
        while let Ok(Some(message)) = self.line.receive() {
            if let ToPredecessor::Refused { why } = message {
                return self.refused(&why);
            }
        }
        let ended = self.successor.take().map(Process::end);
        self.failure(&match ended {
            // Perhaps by us, just now.
            Some(Ok(status)) if status.signal() == Some(Signal::KILL.as_raw()) => {
                format!("the successor was killed (SIGKILL), or said no more{SEE_LOG}")
            }
            Some(Ok(status)) => format!("the successor ended ({status}){SEE_LOG}"),
            _ => format!("the successor ended{SEE_LOG}"),
        })
    }

    /// What was written down, as a file to be sent.
    fn seal(&mut self) -> Result<Sealed, HandOverFailure> {
        let bytes = self.writer.finish();
        self.bytes += bytes.len() as u64;
        let sealed = Sealed::write(bytes);
        sealed.map_err(|error| self.failure(&format_args!("cannot write down the state: {error}")))
    }

    fn step(&self) -> Step {
        match self.stage {
            Stage::Hello => Step::Hello,
            Stage::Prepare => Step::Prepare,
            Stage::PreCopy(_) => Step::PreCopy,
            Stage::Quiesce { .. } => Step::Quiesce,
            Stage::Freeze => Step::Freeze,
        }
    }

    fn failure(&self, why: &dyn fmt::Display) -> HandOverFailure {
        HandOverFailure {
            step: self.step(),
            why: why.to_string(),
        }
    }

    /// In the successor's own words.
    fn refused(&self, why: &str) -> HandOverFailure {
        self.failure(&format_args!("the successor says: {why}"))
    }

    fn too_late(&self) -> HandOverFailure {
        match self.stage {
            Stage::Hello | Stage::Prepare => self.overdue("the successor was not ready", SET_UP),
            Stage::PreCopy(_) => self.overdue("the state was not copied", PRE_COPY),
            Stage::Quiesce {
                is_quiet: false, ..
            } => self.overdue("the store did not commit what it had", QUIESCE),
            Stage::Quiesce { .. } if self.line.next_batch().is_none() => {
                self.overdue("the successor did not acknowledge what was copied", FREEZE)
            }
            Stage::Quiesce { .. } => {
                self.failure(&"agents connected faster than they could be copied")
            }
            Stage::Freeze => self.overdue("the successor did not take over", FREEZE),
        }
    }

    fn overdue(&self, what: &str, allowed: Duration) -> HandOverFailure {
        let allowed = humantime::format_duration(allowed);
        self.failure(&format_args!("{what} in time ({allowed})"))
    }
}

/// To be watched: readable when the successor has said something, or has ended.
impl AsFd for HandOver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}
