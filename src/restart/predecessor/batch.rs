//! What a message to the successor carries: records, and the sockets that go with them.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::copying::{Amount, FEW_CHANGES, Next};
use super::{HandOver, QUIESCE, Stage};
use crate::reactor::{Change, MovedId, RESERVED_DESCRIPTORS};
use crate::restart::channel::{Step, ToSuccessor};
use crate::restart::fault::{self, Point};
use crate::restart::snapshot::{Record, Writer};
use crate::restart::{HandOverFailure, ServerReactor};
use hawk_time::Moment;

/// Connections in a batch, and agents: some 100 µs of work between two turns, and some
/// more for the successor. On a machine whose cores are all taken, agents, the store's
/// thread and the kernel's own, who see to its disk, wait that long for a core, and not
/// until the scheduler finds that somebody has had enough.
const CONNECTIONS: usize = 64;
const AGENTS: usize = 128;

/// Of the files that are [set aside](RESERVED_DESCRIPTORS), those that nobody needs: the
/// process itself has some twenty open, and those turned away are up to 32.
const SPARE_DESCRIPTORS: usize = 8;

/// How long commands for events may run on before the store comes to rest. What one of them
/// delivers later is delivered again by the successor.
const COMMANDS: Duration = Duration::from_secs(2);

/// Between two looks at whether commands have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl HandOver {
    /// Copies some more, and goes over to the last commit once there is little left. The
    /// two processes take turns: while the successor adopts a batch, this one serves.
    pub(super) fn copy(&mut self, server: &mut ServerReactor) -> Result<(), HandOverFailure> {
        let Some(number) = self.next_batch() else {
            return Ok(());
        };
        let room = self.room_for_newcomers(server);
        self.writer.clear();
        let mut opened = Vec::new();
        while let Stage::PreCopy(copying) = &mut self.stage {
            let now = Moment::now();
            let there = amount(server);
            let writer = &mut self.writer;
            match copying.next(there, self.batch, now) {
                Next::Show => {
                    let most = match copying.all_shown() {
                        true => self.batch,
                        false => CONNECTIONS,
                    };
                    let agents = write_new_agents(server, AGENTS, writer);
                    let connections = write_newcomers(server, most.min(room), writer, &mut opened);
                    copying.shown(agents && connections);
                }
                // Who is new goes with what has changed.
                Next::ShowAgain if there.unseen <= room => {
                    write_changes(server, FEW_CHANGES, writer, &mut opened);
                }
                Next::ShowAgain => {}
                Next::Quiesce
                    if !server.handler().has_no_commands()
                        && now.since(copying.begun) < fault::deadline(Step::PreCopy, COMMANDS) =>
                {
                    self.look_again_at = now.after(LOOK_AGAIN);
                    return Ok(());
                }
                Next::Quiesce => {
                    self.precopy = now.since(copying.begun);
                    self.stage = Stage::Quiesce {
                        begun: now,
                        is_quiet: false,
                        again: there.population,
                    };
                    self.until = now.after(fault::deadline(Step::Quiesce, QUIESCE));
                    fault::at(Point::PredecessorQuiesce, &self.line);
                    server.handler_mut().quiesce();
                    return Ok(());
                }
            }
            // Without room there is none before the successor knows who has ended.
            if !self.writer.is_empty() || there.unseen > room {
                return self.send_batch(server, number, &opened);
            }
        }
        Ok(())
    }

    /// Copies while the store commits, which may take long: newcomers, if they do not all go
    /// with the last message, and who has changed. Everybody does once more, as nothing is
    /// read, and everybody is told how it went.
    pub(super) fn copy_meanwhile(
        &mut self,
        server: &mut ServerReactor,
    ) -> Result<(), HandOverFailure> {
        let Stage::Quiesce { again, .. } = self.stage else {
            return Ok(());
        };
        let room = self.room_for_newcomers(server);
        let there = amount(server);
        let newcomers = there.unseen > room;
        let changed = again > 0 && there.changes > FEW_CHANGES;
        if !newcomers && !changed {
            return Ok(());
        }
        let Some(number) = self.next_batch() else {
            return Ok(());
        };
        if let Stage::Quiesce { again, .. } = &mut self.stage {
            *again = again.saturating_sub(FEW_CHANGES);
        }
        self.writer.clear();
        let mut opened = Vec::new();
        if newcomers {
            write_newcomers(server, room, &mut self.writer, &mut opened);
        } else {
            write_changes(server, FEW_CHANGES, &mut self.writer, &mut opened);
        }
        self.send_batch(server, number, &opened)
    }

    /// How many sockets a message may bring: the successor has those open that it was sent,
    /// until it is told that they have ended.
    pub(super) fn room_for_newcomers(&self, server: &ServerReactor) -> usize {
        let open = server.population() + server.closed_since_copy();
        let open = open.saturating_sub(server.never_copied());
        let room = usize::try_from(self.room).unwrap_or(usize::MAX);
        let room = room.saturating_sub(RESERVED_DESCRIPTORS - SPARE_DESCRIPTORS);
        room.saturating_sub(open).min(self.batch)
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
        server: &mut ServerReactor,
        number: u32,
        opened: &[MovedId],
    ) -> Result<(), HandOverFailure> {
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

/// All that the server has to show.
fn amount(server: &ServerReactor) -> Amount {
    Amount {
        population: server.population(),
        unseen: server.never_copied(),
        changes: server.changes() + server.handler().changes(),
    }
}

/// Writes down up to `most` of the agents who never were; whether there are none left.
fn write_new_agents(server: &mut ServerReactor, most: usize, writer: &mut Writer) -> bool {
    server.handler_mut().copy_some(most, &mut |slot, state| {
        writer.push(&Record::Agent { slot, state });
    })
}

/// Writes down up to `most` of those who never were; whether there are none left.
fn write_newcomers(
    server: &mut ServerReactor,
    most: usize,
    writer: &mut Writer,
    opened: &mut Vec<MovedId>,
) -> bool {
    server.copy_some(most, &mut |id, _, state| {
        writer.push(&Record::Opened { id, state });
        opened.push(id);
    })
}

/// Writes down what has changed since it was written down before: up to `most` connections,
/// and as many agents. Who is new has a socket to be sent, and is noted in `opened`.
pub(super) fn write_changes(
    server: &mut ServerReactor,
    most: usize,
    writer: &mut Writer,
    opened: &mut Vec<MovedId>,
) {
    // Agents may be met after all were shown.
    write_new_agents(server, most, writer);
    server.handler_mut().take_changes(most, &mut |slot, state| {
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
pub(super) fn sockets_of<'a>(server: &'a ServerReactor, opened: &[MovedId]) -> Vec<BorrowedFd<'a>> {
    let sockets = opened.iter().filter_map(|id| server.socket(*id));
    sockets.map(AsFd::as_fd).collect()
}
