//! The last step: this process stands still, and one of the two has the token.

use std::os::fd::AsFd as _;
use std::time::Duration;

use super::batch::{sockets_of, write_changes};
use super::{HandOver, Stage};
use crate::restart::channel::{
    Committed, LineError, ReceiveError, Step, Taken, ToPredecessor, ToSuccessor, Token,
};
use crate::restart::fault::{self, Point};
use crate::restart::snapshot::{Freeze, Record};
use crate::restart::{HandOverFailure, HandOverFigures, Progress, ServerReactor};
use hawk_time::Moment;

/// Agents wait meanwhile, and none would take this for an outage.
pub(super) const FREEZE: Duration = Duration::from_millis(250);

/// From the commit on the successor serves, and this process has nothing to do but to hear
/// that it does: whoever asked is to be told the truth. It says so at once; one that does
/// not for so long hangs.
const WORD: Duration = Duration::from_secs(5);

/// What the successor's last words are.
enum Heard {
    Committed(Committed),
    /// Nothing, and it may still say something.
    Nothing,
    /// It says nothing more, or none of what is due.
    NoMore(LineError),
    Refused(String),
}

impl HandOver {
    /// Stands still until the successor has taken the token, or cannot any more.
    pub(super) fn freeze(
        &mut self,
        server: &mut ServerReactor,
        quiesced: Moment,
    ) -> Result<Progress, HandOverFailure> {
        let begun = Moment::now();
        self.stage = Stage::Freeze;
        self.until = begun.after(fault::deadline(Step::Freeze, FREEZE));
        fault::at(Point::PredecessorFreeze, &self.line);
        let token = Token::new().map_err(|error| self.failure(&error))?;
        let mut opened = Vec::new();
        self.writer.clear();
        write_changes(server, usize::MAX, &mut self.writer, &mut opened);
        let (counters, tally) = server.counts();
        self.writer.push(&Record::Counts { counters, tally });
        self.writer.push(&Record::Handler(server.handler().state()));
        let freeze = Freeze {
            begun,
            generation: self.generation,
            precopy: self.precopy,
            quiesce: begun.since(quiesced),
            bytes: self.bytes,
        };
        self.writer.push(&Record::Freeze(freeze));
        let records = self.seal()?;
        let sockets = sockets_of(server, &opened);
        self.say(&ToSuccessor::Freeze {
            length: records.length(),
            records: records.as_fd(),
            token: token.as_fd(),
            sockets,
        })?;
        fault::at(Point::PredecessorFrozen, &self.line);
        let heard = self.wait_for_commit(self.until);
        fault::at(Point::PredecessorToken, &self.line);
        // Whatever was heard, the token knows who has the connections. The successor is not
        // ended before that: it may be the server by now.
        match token.take() {
            Ok(Taken::Ours(_)) => Err(self.not_taken(heard)),
            Ok(Taken::Theirs) => Ok(self.taken(&freeze, heard)),
            // Nobody can tell whose it is: two servers would be worse than none.
            Err(error) => {
                if let Some(successor) = self.successor.take() {
                    successor.release();
                }
                Ok(Progress::Lost(self.failure(&error)))
            }
        }
    }

    /// Waits for the successor's word that it has taken over.
    fn wait_for_commit(&mut self, until: Moment) -> Heard {
        loop {
            match self.line.receive() {
                Ok(Some(ToPredecessor::Committed(committed))) => {
                    return Heard::Committed(committed);
                }
                Ok(Some(ToPredecessor::Refused { why })) => return Heard::Refused(why),
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(error) => return Heard::NoMore(error),
            }
            // If that cannot be waited for, it is not.
            if !self.line.wait(until).unwrap_or(false) {
                return Heard::Nothing;
            }
        }
    }

    /// Why the successor has not taken the token, which is this process's own again.
    fn not_taken(&mut self, heard: Heard) -> HandOverFailure {
        match heard {
            Heard::Nothing => self.too_late(),
            Heard::Refused(why) => self.refused(&why),
            Heard::NoMore(LineError::Receive(ReceiveError::Ended)) => self.gone(),
            Heard::NoMore(error) => self.failure(&error),
            Heard::Committed(_) => {
                self.failure(&"the successor says that it has taken what it has not")
            }
        }
    }

    /// The successor has taken the token, and with it everything. What is left is to know
    /// whether it serves.
    fn taken(&mut self, freeze: &Freeze, mut heard: Heard) -> Progress {
        if matches!(heard, Heard::Nothing) {
            heard = self.wait_for_commit(Moment::now().after(WORD));
        }
        let id = self.successor_id;
        let Some(successor) = self.successor.take() else {
            return Progress::Lost(self.failure(&"the successor has ended"));
        };
        let what = match heard {
            Heard::Committed(committed) => {
                successor.release();
                fault::at(Point::PredecessorHandedOver, &self.line);
                return Progress::HandedOver(self.report(freeze, committed));
            }
            // Its descriptors are closed a moment before it has ended.
            Heard::NoMore(LineError::Receive(ReceiveError::Ended)) => {
                match successor.wait(Moment::now().after(WORD)) {
                    Ok(Some(status)) => format!("ended ({status}); nobody serves"),
                    _ => "closed the line; see whether it serves".to_owned(),
                }
            }
            // It has everything, and may yet serve: it is left alone.
            Heard::Nothing => {
                successor.release();
                format!(
                    "said nothing for {} s; see whether it serves",
                    WORD.as_secs()
                )
            }
            Heard::NoMore(_) | Heard::Refused(_) => {
                successor.release();
                "went astray; see whether it serves".to_owned()
            }
        };
        Progress::Lost(self.failure(&format_args!("process {id} took over, and then {what}")))
    }

    fn report(&mut self, freeze: &Freeze, committed: Committed) -> HandOverFigures {
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
}
