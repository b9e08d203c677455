//! A crowd of agents on one thread, which misbehave in the same way.
//!
//! A [`Habit`] defines their behaviour; this file implements it. The thread runs on the
//! core of the load, at the lowest priority there, so that delays of good agents come from
//! the server and not from a client without CPU.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::habits::{Habit, Pace, Reading};
use hawk_testkit::bench::Setup;
use hawk_testkit::bench::child::STEP;
use hawk_testkit::bench::dial::{dial, is_temporary};
use hawk_testkit::bench::process::pin_thread;

/// How long a crowd may take to connect.
const PATIENCE: Duration = Duration::from_secs(30);

/// Idle turns within half a second that show that the crowd is idle: a tenth of the
/// possible turns.
const RESTS: u64 = 10;

/// Most connections opened, and pieces sent without waiting, in one turn.
const DIALS: usize = 32;
const PIECES: usize = 64;

/// Most bytes in one piece.
const PIECE: usize = 64 * 1024;

/// Members visited in one turn without an event.
const VISITS: usize = 256;

/// A running crowd; dropping it ends it.
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    size: u64,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// The counts of a crowd so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deeds {
    /// Connections established now.
    pub(crate) there: u64,
    /// Connections established so far.
    pub(crate) came: u64,
    /// Bytes written.
    pub(crate) sent: u64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    there: AtomicU64,
    came: AtomicU64,
    sent: AtomicU64,
    /// Idle turns.
    rests: AtomicU64,
}

impl Crowd {
    /// Starts so many agents against `target`.
    pub(crate) fn start(setup: &Setup, target: SocketAddr, size: usize, habit: Habit) -> Self {
        let shared = Arc::new(Shared::default());
        let core = setup.load_core;
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            pin_thread(core)?;
            rustix::process::nice(19)?;
            Engine::new(target, size, habit, theirs)?.run()
        });
        Self {
            shared,
            size: size as u64,
            thread: Some(thread),
        }
    }

    pub(crate) fn deeds(&self) -> Deeds {
        Deeds {
            there: self.shared.there.load(Ordering::Relaxed),
            came: self.shared.came.load(Ordering::Relaxed),
            sent: self.shared.sent.load(Ordering::Relaxed),
        }
    }

    /// Waits until all have connected.
    pub(crate) fn wait_come(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.deeds().came < self.size {
            if Instant::now() > deadline || self.has_ended() {
                bail!(
                    "a crowd of {} does not arrive: {:?}",
                    self.size,
                    self.deeds()
                );
            }
            thread::sleep(STEP);
        }
        Ok(())
    }

    /// Waits until all have connected and the server takes hardly any more bytes.
    pub(crate) fn wait_settled(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        self.wait_come()?;
        loop {
            let before = (self.deeds(), self.shared.rests.load(Ordering::Relaxed));
            thread::sleep(STEP * 25);
            let now = (self.deeds(), self.shared.rests.load(Ordering::Relaxed));
            // Trickling members send some bytes all the time, and a thread without CPU
            // sends none.
            let sent = now.0.sent - before.0.sent;
            let all = now.0.there == self.size;
            if all && sent <= self.size && now.1 - before.1 >= RESTS {
                return Ok(());
            }
            if Instant::now() > deadline || self.has_ended() {
                bail!("a crowd of {} does not come to rest: {now:?}", self.size);
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the crowd. Returns an error if the members could not follow their habit.
    pub(crate) fn end(mut self) -> anyhow::Result<Deeds> {
        let deeds = self.deeds();
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome.map(|()| deeds),
            _ => bail!("the crowd's thread has panicked"),
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The first error came from elsewhere.
            drop(thread.join());
        }
    }
}

struct Engine {
    poll: Poll,
    target: SocketAddr,
    habit: Habit,
    members: Vec<Member>,
    /// Members that have to connect.
    absent: VecDeque<usize>,
    /// Members with more to send, to sockets that take it.
    busy: VecDeque<usize>,
    begun: Instant,
    visited: u128,
    scratch: Vec<u8>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Member {
    stream: Option<TcpStream>,
    established: bool,
    /// Bytes sent of the greeting, and then of its repetition.
    position: usize,
    since: Option<Instant>,
    is_busy: bool,
    is_answered: bool,
}

impl Engine {
    fn new(target: SocketAddr, size: usize, habit: Habit, shared: Arc<Shared>) -> io::Result<Self> {
        let mut members = Vec::new();
        members.resize_with(size, Member::default);
        Ok(Self {
            poll: Poll::new()?,
            target,
            habit,
            members,
            absent: (0..size).collect(),
            busy: VecDeque::new(),
            begun: Instant::now(),
            visited: 0,
            scratch: vec![0; PIECE],
            shared,
        })
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !self.shared.stop.load(Ordering::Relaxed) {
            let idle = self.absent.is_empty() && self.busy.is_empty();
            let timeout = if idle { STEP / 4 } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            if idle && events.is_empty() {
                self.shared.rests.fetch_add(1, Ordering::Relaxed);
            }
            for event in &events {
                self.on_event(event);
            }
            for _ in 0..DIALS {
                let Some(number) = self.absent.pop_front() else {
                    break;
                };
                self.dial(number)?;
            }
            for _ in 0..PIECES.min(self.busy.len()) {
                if let Some(number) = self.busy.pop_front() {
                    self.members[number].is_busy = false;
                    self.send(number);
                }
            }
            self.visit();
        }
        Ok(())
    }

    fn dial(&mut self, number: usize) -> anyhow::Result<()> {
        let mut stream = dial(number, self.target, self.habit.receive_buffer)
            .with_context(|| format!("the crowd cannot connect to {}", self.target))?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, Token(number), both)?;
        self.members[number] = Member {
            stream: Some(stream),
            since: Some(Instant::now()),
            ..Member::default()
        };
        Ok(())
    }

    fn on_event(&mut self, event: &Event) {
        let Token(number) = event.token();
        let member = &mut self.members[number];
        if member.stream.is_none() {
            return;
        }
        if event.is_error() {
            return self.leave(number);
        }
        if event.is_writable() && !member.established {
            member.established = true;
            self.shared.there.fetch_add(1, Ordering::Relaxed);
            self.shared.came.fetch_add(1, Ordering::Relaxed);
        }
        if event.is_writable() {
            self.send(number);
        }
        match self.habit.reading {
            Reading::All if event.is_readable() => self.read_all(number),
            Reading::Never | Reading::ByteASecond if event.is_read_closed() => self.leave(number),
            _ => {}
        }
    }

    /// Sends the greeting, and then the repeated bytes as fast as the pace allows.
    fn send(&mut self, number: usize) {
        let member = &mut self.members[number];
        let Some(stream) = &mut member.stream else {
            return;
        };
        let greeting = &self.habit.greeting;
        let bytes = if member.position < greeting.len() {
            &greeting[member.position..]
        } else if self.habit.pace == Pace::Full && !self.habit.then.is_empty() {
            let then = &self.habit.then;
            let from = (member.position - greeting.len()) % then.len();
            &then[from..then.len().min(from + PIECE)]
        } else {
            return;
        };
        match stream.write(bytes) {
            Ok(written) => {
                member.position += written;
                self.shared
                    .sent
                    .fetch_add(written as u64, Ordering::Relaxed);
                if !member.is_busy {
                    member.is_busy = true;
                    self.busy.push_back(number);
                }
            }
            Err(error) if is_temporary(&error) => {}
            Err(_) => self.leave(number),
        }
    }

    fn read_all(&mut self, number: usize) {
        loop {
            let Some(stream) = &mut self.members[number].stream else {
                return;
            };
            match stream.read(&mut self.scratch) {
                Ok(0) => return self.leave(number),
                Ok(_) if self.habit.leaves_when_answered => return self.leave(number),
                Ok(_) => self.members[number].is_answered = true,
                Err(error) if is_temporary(&error) => return,
                Err(_) => return self.leave(number),
            }
        }
    }

    /// Visits the members that are due by the clock, each as often as the habit says.
    fn visit(&mut self) {
        let Some(every) = self.habit.visits_every else {
            return;
        };
        let size = self.members.len() as u128;
        let due = self.begun.elapsed().as_nanos() * size / every.as_nanos();
        for _ in 0..VISITS {
            if self.visited >= due {
                break;
            }
            let number = usize::try_from(self.visited % size).unwrap_or(0);
            self.visited += 1;
            self.visit_one(number);
        }
    }

    fn visit_one(&mut self, number: usize) {
        let member = &mut self.members[number];
        let Some(stream) = &mut member.stream else {
            return;
        };
        let stayed = member.since.map_or(Duration::ZERO, |since| since.elapsed());
        let patience = self.habit.patience.filter(|_| !member.is_answered);
        if patience.is_some_and(|patience| stayed > patience) {
            return self.leave(number);
        }
        if self.habit.reading == Reading::ByteASecond {
            match stream.read(&mut [0]) {
                Ok(1) => {}
                Err(error) if is_temporary(&error) => {}
                _ => return self.leave(number),
            }
        }
        if let Pace::ByteAVisit { one_in } = self.habit.pace
            && number.is_multiple_of(one_in)
            && member.position >= self.habit.greeting.len()
        {
            let then = &self.habit.then;
            let at = (member.position - self.habit.greeting.len()) % then.len();
            match stream.write(&then[at..=at]) {
                Ok(written) => {
                    member.position += written;
                    self.shared.sent.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if is_temporary(&error) => {}
                Err(_) => self.leave(number),
            }
        }
    }

    /// Ends a connection, and opens another in its place.
    fn leave(&mut self, number: usize) {
        let member = &mut self.members[number];
        if member.established {
            self.shared.there.fetch_sub(1, Ordering::Relaxed);
        }
        let is_busy = member.is_busy;
        *member = Member {
            is_busy,
            ..Member::default()
        };
        self.absent.push_back(number);
    }
}
