//! The way of reply lines to the socket.

use std::io;

use super::super::kernel::Socket;
use super::{Connection, Shop};
use crate::session::{Desk, UnsentTotal};
use crate::stats::Counters;

impl<S: Socket> Connection<S> {
    /// Writes what is unsent and the replies of this batch: at once if the
    /// socket takes them, otherwise they are kept.
    ///
    /// An agent that has sent its reports and is gone breaks the connection with
    /// the first reply it does not take. What it sent is in the kernel still, and
    /// is read all the same.
    pub(super) fn flush<H>(&mut self, shop: &mut Shop<H>) {
        let Desk {
            replies, unsent, ..
        } = &mut shop.desk;
        self.send(replies, unsent, &mut shop.counters);
        // Whatever came of it: they are nobody else's.
        replies.clear();
    }

    /// Whether nothing but the replies at hand is left to do, and the socket is likely to
    /// take them all: then they may be [written](Self::deliver) after the turn.
    pub(super) fn may_put_off<H>(&self, shop: &Shop<H>) -> bool {
        let done = !self.undecoded && !self.readable && self.phase.is_plain_open();
        let takes = self.writable && !self.unheard && self.session.unsent().is_empty();
        !shop.desk.replies.is_empty() && done && takes
    }

    /// Writes replies that were put off; whether the socket took them all. If not, what
    /// is to be done about it has its own turn.
    pub(in crate::reactor) fn deliver<H>(&mut self, replies: &[u8], shop: &mut Shop<H>) -> bool {
        self.send(replies, &shop.desk.unsent, &mut shop.counters);
        !self.unheard && self.session.unsent().is_empty()
    }

    fn send(&mut self, replies: &[u8], unsent: &UnsentTotal, counters: &mut Counters) {
        if self.unheard {
            return;
        }
        let written = if self.session.unsent().is_empty() {
            self.write_fresh(replies, unsent, counters)
        } else {
            self.session.queue(replies, unsent);
            self.write_unsent(counters)
        };
        if written.is_err() {
            self.unheard = true;
            self.readable = true;
            self.session.dequeue(self.session.unsent().len());
        }
    }

    fn write_fresh(
        &mut self,
        mut replies: &[u8],
        unsent: &UnsentTotal,
        counters: &mut Counters,
    ) -> io::Result<()> {
        while self.writable && !replies.is_empty() {
            let written = write(&mut self.socket, replies)?;
            self.wrote(written, counters);
            replies = &replies[written.unwrap_or(0)..];
        }
        if !replies.is_empty() {
            self.session.queue(replies, unsent);
        }
        Ok(())
    }

    fn write_unsent(&mut self, counters: &mut Counters) -> io::Result<()> {
        while self.writable && !self.session.unsent().is_empty() {
            let written = write(&mut self.socket, self.session.unsent())?;
            self.wrote(written, counters);
            self.session.dequeue(written.unwrap_or(0));
        }
        Ok(())
    }

    /// Notes what a write came to.
    fn wrote(&mut self, written: Option<usize>, counters: &mut Counters) {
        match written {
            Some(written) => {
                counters.bytes_out += written as u64;
                counters.writes += 1;
            }
            None => self.writable = false,
        }
    }
}

/// One call of write: how many bytes the socket took; `None` when it is full.
fn write<S: Socket>(socket: &mut S, bytes: &[u8]) -> io::Result<Option<usize>> {
    loop {
        match socket.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(Some(written)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}
