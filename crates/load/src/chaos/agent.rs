//! A chaotic agent: its lives, each a connection that follows a script, and the waits between
//! them.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Token};
use rand::rngs::StdRng;
use rand::{Rng, RngExt as _, SeedableRng as _};
use socket2::SockRef;

use super::judge::{Breach, Judge};
use super::script::{Farewell, Reading, Script};
use super::{Ending, World};
use crate::tally::Fault;
use hawk_time::Moment;

/// An agent that misbehaves, life after life.
#[derive(Debug)]
pub(super) struct Agent {
    number: u32,
    /// Number of lives begun.
    lives: u64,
    backoff: Backoff,
    random: StdRng,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No connection until then.
    Waiting(Moment),
    Living(Box<Life>),
    Done,
}

impl Agent {
    /// Creates an agent that begins its first life at once.
    pub(super) fn new(number: u32, seed: u64, now: Moment) -> Self {
        Self {
            number,
            lives: 0,
            backoff: Backoff::default(),
            random: StdRng::seed_from_u64(seed.wrapping_add(u64::from(number))),
            state: State::Waiting(now),
        }
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Returns when the agent has work to do without an event.
    pub(super) fn wake(&self) -> Option<Moment> {
        match &self.state {
            State::Waiting(until) => Some(*until),
            State::Living(life) => Some(life.wake()),
            State::Done => None,
        }
    }

    /// Continues as far as possible. With `is_ending`, begins no life except the first.
    pub(super) fn resume(
        &mut self,
        world: &mut World,
        event: Option<&Event>,
        now: Moment,
        is_ending: bool,
    ) {
        match &mut self.state {
            State::Waiting(_) if is_ending && self.lives > 0 => self.state = State::Done,
            State::Waiting(until) if !is_ending && now < *until => {}
            State::Waiting(_) => self.begin(world, now),
            State::Living(life) => {
                if let Err(end) = life.resume(now, event, is_ending) {
                    self.end(world, end, now, is_ending);
                }
            }
            State::Done => {}
        }
    }

    /// Ends the agent in any state.
    pub(super) fn end_now(&mut self, world: &mut World, now: Moment) {
        self.end(world, End::Fair(Ending::Unfinished), now, true);
    }

    fn begin(&mut self, world: &mut World, now: Moment) {
        let setting = &world.setting;
        let seed = setting.chaos.seed;
        let script = Script::draw(seed, self.number, self.lives, setting.content);
        self.lives += 1;
        let counts = world.totals.of(script.conduct);
        counts.lives += 1;
        let receive_buffer = match script.reading {
            Reading::All => None,
            // The kernel rounds up to its least size, so that unread replies fill the server's
            // buffers soon.
            Reading::Nothing | Reading::Sips(_) => Some(1),
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let number = self.number as usize;
        let opened = setting
            .dialler
            .connect(setting.first + number, receive_buffer)
            .and_then(|mut stream| {
                let registry = world.poll.registry();
                registry.register(&mut stream, Token(number), interest)?;
                Ok(stream)
            });
        self.state = match opened {
            Ok(stream) => {
                let life = Life::new(stream, script, setting.patience, now);
                State::Living(Box::new(life))
            }
            Err(_) => {
                counts.end(Ending::NotMade);
                State::Waiting(now.after(self.backoff.next(&mut self.random)))
            }
        };
    }

    fn end(&mut self, world: &mut World, end: End, now: Moment, is_ending: bool) {
        let State::Living(life) = std::mem::replace(&mut self.state, State::Done) else {
            return;
        };
        let conduct = life.script.conduct;
        let counts = world.totals.of(conduct);
        counts.bytes_sent += life.sent as u64;
        counts.lines += life.judge.lines;
        match end {
            End::Fair(ending) => counts.end(ending),
            End::Breach(breach) => {
                counts.wronged += 1;
                let (cause, name) = (breach.cause, conduct.name());
                let cause = format!("{cause}, on a chaotic connection ({name})");
                world.totals.faults.add(breach.fault, &cause, breach.count);
            }
        }
        if life.was_accepted() {
            self.backoff.failures = 0;
        }
        if !is_ending {
            self.state = State::Waiting(now.after(self.backoff.next(&mut self.random)));
        }
    }
}

/// A connection that follows a script.
#[derive(Debug)]
struct Life {
    stream: TcpStream,
    script: Script,
    judge: Judge,
    stage: Stage,
    /// Bytes of the script that the kernel has taken.
    sent: usize,
    /// Whether a write has failed. Lines from before may still be unread.
    broken: bool,
    next_sip: Moment,
    /// When a byte was last sent or received, or the stage last changed.
    progress: Moment,
    patience: Duration,
}

/// The stage of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// Sending; connected at this moment.
    Sending(Moment),
    /// Connected at the first moment, pausing until the second.
    Pausing(Moment, Moment),
    /// The sent stream has ended.
    Ended,
}

/// The end of a life.
#[derive(Debug)]
enum End {
    /// The server is not at fault.
    Fair(Ending),
    /// The server violated the protocol.
    Breach(Breach),
}

/// Bytes read at once.
const READ_BUFFER: usize = 16 * 1024;

impl Life {
    /// Begins with a connection that is being opened.
    fn new(stream: TcpStream, script: Script, patience: Duration, now: Moment) -> Self {
        Self {
            stream,
            script,
            judge: Judge::default(),
            stage: Stage::Connecting,
            sent: 0,
            broken: false,
            next_sip: now,
            progress: now,
            patience,
        }
    }

    /// Returns whether the server has accepted the connection.
    fn was_accepted(&self) -> bool {
        self.stage != Stage::Connecting && !self.judge.turned_away
    }

    /// Returns when the life has work to do without an event.
    fn wake(&self) -> Moment {
        let patience = self.progress.after(self.patience);
        let until = match (self.stage, self.script.farewell) {
            (Stage::Pausing(_, until), _) => until,
            (Stage::Sending(since), Farewell::Reset(span)) => since.after(span),
            _ => patience,
        };
        match self.script.reading {
            Reading::Sips(_) if self.stage != Stage::Connecting => until.min(self.next_sip),
            _ => until,
        }
    }

    /// Continues as far as possible. With `is_ending`, skips the pauses of the script.
    ///
    /// # Errors
    /// The end of the life.
    fn resume(&mut self, now: Moment, event: Option<&Event>, is_ending: bool) -> Result<(), End> {
        if self.stage == Stage::Connecting && !self.establish(now)? {
            return Ok(());
        }
        if let Stage::Pausing(since, until) = self.stage
            && (is_ending || now >= until)
        {
            self.stage = Stage::Sending(since);
            self.progress = now;
        }
        self.write(now);
        self.read(now, event)?;
        self.leave(now, is_ending)
    }

    /// Returns whether the connection is established.
    fn establish(&mut self, now: Moment) -> Result<bool, End> {
        let not_made = End::Fair(Ending::NotMade);
        match self.stream.take_error() {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return Err(not_made),
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.stage = Stage::Sending(now);
                self.progress = now;
                Ok(true)
            }
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(not_made),
            Err(_) if now >= self.progress.after(self.patience) => Err(not_made),
            Err(_) => Ok(false),
        }
    }

    fn write(&mut self, now: Moment) {
        while let Stage::Sending(since) = self.stage
            && !self.broken
        {
            let pause = self.script.pause.filter(|pause| self.sent <= pause.at);
            let end = pause.map_or(self.script.bytes.len(), |pause| pause.at);
            if let Some(pause) = pause
                && self.sent == end
            {
                self.script.pause = None;
                self.stage = Stage::Pausing(since, now.after(pause.span));
                self.judge.doubt();
                return;
            }
            let bytes = &self.script.bytes[self.sent..end];
            if bytes.is_empty() {
                return;
            }
            match self.stream.write(bytes) {
                Ok(count) => {
                    self.judge.sent(&bytes[..count]);
                    self.sent += count;
                    self.progress = now;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.broken = true,
            }
        }
    }

    fn read(&mut self, now: Moment, event: Option<&Event>) -> Result<(), End> {
        match self.script.reading {
            Reading::All => {
                let mut buffer = [0; READ_BUFFER];
                while self.read_once(&mut buffer, now)? {}
                Ok(())
            }
            Reading::Sips(every) => {
                if now >= self.next_sip || self.broken {
                    self.next_sip = now.after(every);
                    self.read_once(&mut [0], now)?;
                }
                match self.broken {
                    true => Err(End::Fair(Ending::ResetByServer)),
                    false => Ok(()),
                }
            }
            Reading::Nothing => {
                let ended = event.is_some_and(|event| event.is_read_closed() || event.is_error());
                match (self.broken, ended) {
                    (true, _) => Err(End::Fair(Ending::ResetByServer)),
                    (false, true) => Err(End::Fair(Ending::ClosedByServer)),
                    (false, false) => Ok(()),
                }
            }
        }
    }

    /// Reads once. Returns whether there may be more bytes.
    fn read_once(&mut self, buffer: &mut [u8], now: Moment) -> Result<bool, End> {
        match self.stream.read(buffer) {
            Ok(0) => Err(self.end_of_file()),
            Ok(count) => {
                self.progress = now;
                let outcome = self.judge.receive(&buffer[..count]);
                outcome.map(|()| true).map_err(End::Breach)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.broken => Ok(false),
            Err(_) => Err(End::Fair(match self.judge.turned_away {
                true => Ending::TurnedAway,
                false => Ending::ResetByServer,
            })),
        }
    }

    fn end_of_file(&mut self) -> End {
        // After a write that met a reset, the next read returns an end of file.
        let answering = self.stage == Stage::Ended && !self.broken;
        match self.judge.end_of_file(answering) {
            _ if self.broken => End::Fair(Ending::ResetByServer),
            // The server may close the connection of a slow reader at any byte.
            Err(_) if self.script.reading != Reading::All => End::Fair(Ending::ClosedByServer),
            Err(breach) => End::Breach(breach),
            Ok(()) if self.judge.turned_away => End::Fair(Ending::TurnedAway),
            Ok(()) if answering => End::Fair(Ending::AsPlanned),
            Ok(()) => End::Fair(Ending::ClosedByServer),
        }
    }

    /// Ends the life from this side, if it is time.
    fn leave(&mut self, now: Moment, is_ending: bool) -> Result<(), End> {
        let Stage::Sending(since) = self.stage else {
            return match self.stage {
                Stage::Ended if now >= self.progress.after(self.patience) => {
                    let cause = "left open by the server after our end of file";
                    Err(End::Breach(Breach::new(Fault::Connection, cause)))
                }
                _ => Ok(()),
            };
        };
        match self.script.farewell {
            Farewell::Reset(span) if is_ending || now >= since.after(span) => {
                // Closing a socket without lingering resets the connection.
                let socket = SockRef::from(&self.stream);
                let _gone = socket.set_linger(Some(Duration::ZERO));
                Err(End::Fair(Ending::AsPlanned))
            }
            Farewell::HalfClose if self.sent == self.script.bytes.len() => {
                // It fails if the connection is gone; the next read returns that error.
                let _gone = self.stream.shutdown(Shutdown::Write);
                self.judge.sent_all();
                self.stage = Stage::Ended;
                self.progress = now;
                Ok(())
            }
            Farewell::HalfClose if now >= self.progress.after(self.patience) => {
                let cause = "not read by the server";
                Err(End::Breach(Breach::new(Fault::Connection, cause)))
            }
            Farewell::Reset(_) | Farewell::HalfClose => Ok(()),
        }
    }
}

/// The waits before a new connection: full jitter, as `docs/agents.md` asks of every agent.
/// They grow with each failure.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

/// The shortest wait. Never zero: agents that reconnect at once are a storm.
const LEAST: Duration = Duration::from_millis(100);

/// The longest wait before the first reconnect, doubled by each failure.
const FIRST: Duration = Duration::from_secs(1);

/// The longest wait of all.
const MOST: Duration = Duration::from_secs(60);

impl Backoff {
    /// Draws the next wait, evenly over the whole span.
    fn next(&mut self, random: &mut impl Rng) -> Duration {
        // The exponent is bounded, so that the power cannot overflow.
        let longest = FIRST * 2_u32.pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        random.random_range(LEAST..=longest.min(MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_spread_over_a_span_that_grows_and_has_an_end() {
        let mut random = StdRng::seed_from_u64(1);
        let mut longest = [Duration::ZERO; 100];
        for _ in 0..200 {
            let mut backoff = Backoff::default();
            for (failures, longest) in longest.iter_mut().enumerate() {
                let wait = backoff.next(&mut random);
                let span = Duration::from_secs(1 << failures.min(6)).min(MOST);
                assert!((LEAST..=span).contains(&wait), "{failures}: {wait:?}");
                *longest = wait.max(*longest);
            }
            backoff.failures = 0;
            assert!(backoff.next(&mut random) <= FIRST);
        }
        // Of 200 draws one is in the last third: all but surely.
        assert!(longest[0] > FIRST * 2 / 3 && longest[99] > MOST * 2 / 3);
    }
}
