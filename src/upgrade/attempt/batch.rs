//! What a message to the successor carries: records, and the sockets that go with them.

use std::os::fd::{AsFd, BorrowedFd};

use super::copying::{FEW_CHANGES, Next};
use super::{Attempt, QUIESCE, Stage};
use crate::handover::{Step, ToSuccessor};
use crate::reactor::{Change, MovedId, RESERVED_DESCRIPTORS};
use crate::snapshot::{Record, Writer};
use crate::time::Moment;
use crate::upgrade::fault::{self, Point};
use crate::upgrade::{Failure, Server};

/// Connections in a batch, and agents: some 100 µs of work between two turns, and some
/// more for the successor. On a machine whose cores are all taken, agents, the store's
/// thread and the kernel's own, who see to its disk, wait that long for a core, and not
/// until the scheduler finds that somebody has had enough.
const CONNECTIONS: usize = 64;
const AGENTS: usize = 128;

/// Of the files that are [set aside](RESERVED_DESCRIPTORS), those that nobody needs: the
/// process itself has some twenty open, and those turned away are up to 32.
const SPARE_DESCRIPTORS: usize = 8;

impl Attempt {
    /// Copies some more, and goes over to the last commit once there is little left. The
    /// two processes take turns: while the successor adopts a batch, this one serves.
    pub(super) fn copy(&mut self, server: &mut Server) -> Result<(), Failure> {
        let Some(number) = self.next_batch() else {
            return Ok(());
        };
        self.writer.clear();
        let mut opened = Vec::new();
        if self.is_crowded(server) {
            return self.send_batch(server, number, &opened);
        }
        while let Stage::PreCopy(copying) = &mut self.stage {
            let changes = server.changes() + server.handler().changes();
            let writer = &mut self.writer;
            match copying.next(server.unseen(), changes, self.batch) {
                Next::Show => {
                    // Agents come first, for sessions share their names.
                    let agents = server.handler_mut().copy_some(AGENTS, &mut |slot, state| {
                        writer.push(&Record::Agent { slot, state });
                    });
                    let most = self.batch.min(CONNECTIONS);
                    copying.shown(write_newcomers(server, most, writer, &mut opened) && agents);
                }
                Next::ShowAgain => write_changes(server, FEW_CHANGES, writer, &mut opened),
                Next::Quiesce => {
                    let now = Moment::now();
                    self.precopy = now.since(copying.begun);
                    self.stage = Stage::Quiesce {
                        begun: now,
                        is_quiet: false,
                    };
                    self.until = now.after(fault::deadline(Step::Quiesce, QUIESCE));
                    fault::at(Point::PredecessorQuiesce, &self.line);
                    server.handler_mut().quiesce();
                }
            }
            if !self.writer.is_empty() {
                return self.send_batch(server, number, &opened);
            }
        }
        Ok(())
    }

    /// Copies newcomers while the store commits, which may take long, if they do not all go
    /// with the last message.
    pub(super) fn copy_newcomers(&mut self, server: &mut Server) -> Result<(), Failure> {
        let is_crowded = self.is_crowded(server);
        if !is_crowded && server.unseen() <= self.batch {
            return Ok(());
        }
        let Some(number) = self.next_batch() else {
            return Ok(());
        };
        self.writer.clear();
        let mut opened = Vec::new();
        if !is_crowded {
            write_newcomers(server, self.batch, &mut self.writer, &mut opened);
        }
        self.send_batch(server, number, &opened)
    }

    /// Whether the successor could run out of files, if it was sent sockets before it closes
    /// those that have ended here.
    pub(super) fn is_crowded(&self, server: &Server) -> bool {
        let closed = server.closed_untold();
        let needed = server.population() + RESERVED_DESCRIPTORS + closed;
        closed > SPARE_DESCRIPTORS && needed as u64 > self.room
    }

    fn next_batch(&self) -> Option<u32> {
        let number = self.line.next_batch()?;
        fault::at(Point::PredecessorBatch(number), &self.line);
        Some(number)
    }

    /// Sends what was written down, with the sockets of those who are `opened` in it, and
    /// with it who has ended.
    fn send_batch(
        &mut self,
        server: &mut Server,
        number: u32,
        opened: &[MovedId],
    ) -> Result<(), Failure> {
        let writer = &mut self.writer;
        server.take_closed(&mut |id| writer.push(&Record::Closed { id }));
        let records = self.seal()?;
        self.say(&ToSuccessor::Batch {
            number,
            length: records.length(),
            records: records.as_fd(),
            sockets: sockets_of(server, opened),
        })
    }
}

/// Writes down up to `most` of those who never were; whether there are none left.
fn write_newcomers(
    server: &mut Server,
    most: usize,
    writer: &mut Writer,
    opened: &mut Vec<MovedId>,
) -> bool {
    server.copy_some(most, &mut |id, _, state| {
        writer.push(&Record::Opened { id, state });
        opened.push(id);
    })
}

/// Writes down what has changed since it was written down before, of connections up to
/// `most`. Who is new has a socket to be sent, and is noted in `opened`.
pub(super) fn write_changes(
    server: &mut Server,
    most: usize,
    writer: &mut Writer,
    opened: &mut Vec<MovedId>,
) {
    // Agents come first, for sessions share their names; and among them who was met when
    // all had been shown, in a frame that a connection had when it was closed.
    let handler = server.handler_mut();
    handler.copy_some(usize::MAX, &mut |slot, state| {
        writer.push(&Record::Agent { slot, state });
    });
    handler.take_changes(usize::MAX, &mut |slot, state| {
        writer.push(&match state {
            Some(state) => Record::Agent { slot, state },
            None => Record::Forgotten { slot },
        });
    });
    server.take_changes(most, &mut |id, change| {
        writer.push(&match change {
            Change::Opened(_, state) => {
                opened.push(id);
                Record::Opened { id, state }
            }
            Change::Changed(state) => Record::Changed { id, state },
            Change::Closed => Record::Closed { id },
        });
    });
}

/// The sockets of those who were just shown; none has ended since.
pub(super) fn sockets_of<'a>(server: &'a Server, opened: &[MovedId]) -> Vec<BorrowedFd<'a>> {
    let sockets = opened.iter().filter_map(|id| server.socket(*id));
    sockets.map(AsFd::as_fd).collect()
}
