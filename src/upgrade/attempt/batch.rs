//! What a message to the successor carries: records, and the sockets that go with them.

use std::os::fd::{AsFd, BorrowedFd};

use super::Attempt;
use crate::handover::ToSuccessor;
use crate::reactor::{Change, MovedId};
use crate::snapshot::{Record, Writer};
use crate::upgrade::{Failure, Server};

impl Attempt {
    /// Copies newcomers while the store commits, which may take long: the last message has
    /// room for the sockets of one batch.
    pub(super) fn copy_newcomers(&mut self, server: &mut Server) -> Result<(), Failure> {
        if server.unseen() > self.batch
            && let Some(number) = self.line.next_batch()
        {
            let mut opened = Vec::new();
            let writer = &mut self.writer;
            writer.clear();
            server.copy_some(self.batch, &mut |id, _, state| {
                writer.push(&Record::Opened { id, state });
                opened.push(id);
            });
            self.send_batch(server, number, &opened)?;
        }
        Ok(())
    }

    /// Sends what was written down, with the sockets of those who are `opened` in it.
    pub(super) fn send_batch(
        &mut self,
        server: &Server,
        number: u32,
        opened: &[MovedId],
    ) -> Result<(), Failure> {
        let records = self.seal()?;
        self.say(&ToSuccessor::Batch {
            number,
            length: records.length(),
            records: records.as_fd(),
            sockets: sockets_of(server, opened),
        })
    }
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
