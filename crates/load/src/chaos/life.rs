//! One life of an agent: a socket, what is to be done on it, what came of it.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use socket2::SockRef;

use super::Ending;
use super::judge::{Breach, Judge};
use super::script::{Farewell, Reading, Script};
use hawk_time::Moment;

/// A connection that follows a script.
#[derive(Debug)]
pub(super) struct Life {
    stream: TcpStream,
    pub(super) script: Script,
    judge: Judge,
    state: State,
    /// Bytes of the script that the kernel has taken.
    pub(super) sent: usize,
    /// A write has failed: what the server said before is still to be read.
    broken: bool,
    next_sip: Moment,
    /// When something last went on.
    progress: Moment,
    patience: Duration,
}

/// How far a life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    /// Connected at this moment, and sending.
    Sending(Moment),
    /// The same, standing still until the second.
    Standing(Moment, Moment),
    /// Our side of the stream has ended.
    Ended,
}

/// How a life came to its end.
#[derive(Debug)]
pub(super) enum End {
    /// In a way that is no fault of the server's.
    Fair(Ending),
    /// By what the server must not do.
    Breach(Breach),
}

/// Bytes read at once.
const READ_BUFFER: usize = 16 * 1024;

impl Life {
    /// Begins as the connection does.
    pub(super) fn new(stream: TcpStream, script: Script, patience: Duration, now: Moment) -> Self {
        Self {
            stream,
            script,
            judge: Judge::default(),
            state: State::Connecting,
            sent: 0,
            broken: false,
            next_sip: now,
            progress: now,
            patience,
        }
    }

    /// Reply lines that came.
    pub(super) const fn lines(&self) -> u64 {
        self.judge.lines()
    }

    /// Whether the server has taken the connection.
    pub(super) fn was_taken(&self) -> bool {
        self.state != State::Connecting && !self.judge.is_turned_away()
    }

    /// Proceeds as far as it can without blocking. Returns the end if it is reached. In a
    /// `hurry` it waits for due replies only.
    pub(super) fn resume(
        &mut self,
        now: Moment,
        event: Option<&Event>,
        hurry: bool,
    ) -> Option<End> {
        self.try_to_go_on(now, event, hurry).err()
    }

    /// Returns when to call [`resume`](Self::resume) without an event.
    pub(super) fn wake(&self) -> Moment {
        let patience = self.progress.after(self.patience);
        let until = match (self.state, self.script.farewell) {
            (State::Standing(_, until), _) => until,
            (State::Sending(since), Farewell::Reset(span)) => since.after(span),
            _ => patience,
        };
        match self.script.reading {
            Reading::Sips(_) if self.state != State::Connecting => until.min(self.next_sip),
            _ => until,
        }
    }

    fn try_to_go_on(&mut self, now: Moment, event: Option<&Event>, hurry: bool) -> Result<(), End> {
        if self.state == State::Connecting && !self.establish(now)? {
            return Ok(());
        }
        if let State::Standing(since, until) = self.state
            && (hurry || now >= until)
        {
            self.state = State::Sending(since);
            self.progress = now;
        }
        self.write(now);
        self.read(now, event)?;
        self.part(now, hurry)
    }

    /// Whether the connection is established.
    fn establish(&mut self, now: Moment) -> Result<bool, End> {
        let not_made = End::Fair(Ending::NotMade);
        match self.stream.take_error() {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return Err(not_made),
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.state = State::Sending(now);
                self.progress = now;
                Ok(true)
            }
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(not_made),
            Err(_) if now >= self.progress.after(self.patience) => Err(not_made),
            Err(_) => Ok(false),
        }
    }

    fn write(&mut self, now: Moment) {
        while let State::Sending(since) = self.state
            && !self.broken
        {
            let pause = self.script.pause.filter(|pause| self.sent <= pause.at);
            let end = pause.map_or(self.script.bytes.len(), |pause| pause.at);
            if let Some(pause) = pause
                && self.sent == end
            {
                self.script.pause = None;
                self.state = State::Standing(since, now.after(pause.span));
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

    /// One read; whether there may be more.
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
            Err(_) => Err(End::Fair(match self.judge.is_turned_away() {
                true => Ending::TurnedAway,
                false => Ending::ResetByServer,
            })),
        }
    }

    fn end_of_file(&mut self) -> End {
        // A reset that a write has met is no end of file for the next read.
        let answering = self.state == State::Ended && !self.broken;
        match self.judge.end_of_file(answering) {
            _ if self.broken => End::Fair(Ending::ResetByServer),
            // The server may cut off an agent that reads too slowly anywhere.
            Err(_) if self.script.reading != Reading::All => End::Fair(Ending::ClosedByServer),
            Err(breach) => End::Breach(breach),
            Ok(()) if self.judge.is_turned_away() => End::Fair(Ending::TurnedAway),
            Ok(()) if answering => End::Fair(Ending::AsPlanned),
            Ok(()) => End::Fair(Ending::ClosedByServer),
        }
    }

    /// Ends it from our side, if it is time.
    fn part(&mut self, now: Moment, hurry: bool) -> Result<(), End> {
        let State::Sending(since) = self.state else {
            return match self.state {
                State::Ended if now >= self.progress.after(self.patience) => {
                    Err(End::Breach(Breach::LeftOpen))
                }
                _ => Ok(()),
            };
        };
        match self.script.farewell {
            Farewell::Reset(span) if hurry || now >= since.after(span) => {
                // Closing a socket that does not linger resets the connection.
                let socket = SockRef::from(&self.stream);
                let _gone = socket.set_linger(Some(Duration::ZERO));
                Err(End::Fair(Ending::AsPlanned))
            }
            Farewell::HalfClose if self.sent == self.script.bytes.len() => {
                // It fails when the connection is gone; the next read reports that.
                let _gone = self.stream.shutdown(Shutdown::Write);
                self.judge.sent_all();
                self.state = State::Ended;
                self.progress = now;
                Ok(())
            }
            Farewell::HalfClose if now >= self.progress.after(self.patience) => {
                Err(End::Breach(Breach::Unread))
            }
            Farewell::Reset(_) | Farewell::HalfClose => Ok(()),
        }
    }
}
