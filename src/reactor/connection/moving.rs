//! A connection that goes on in another process.

use hawk_pool::Buffer;

use super::super::handover::ConnectionState;
use super::{Connection, ConnectionPhase, PhaseCell};
use crate::session::{Desk, Handler, Limits, Sender, Session, StopReason};

impl<S> Connection<S> {
    pub(in crate::reactor) fn socket(&self) -> &S {
        &self.socket
    }

    pub(in crate::reactor) fn sender(&self) -> Sender<'_> {
        self.session.sender()
    }

    /// As it stands, but for replies that wait for a commit.
    pub(in crate::reactor) fn export(&self) -> ConnectionState {
        debug_assert!(
            self.phase.allowance().is_none(),
            "who stops hands nothing over"
        );
        ConnectionState {
            session: self.session.export(self.input.window()),
            phase: self.phase.get(),
            unheard: self.unheard,
            undecoded: self.undecoded,
        }
    }

    /// Goes on as `state` says; the bytes that it is to [hold](Self::hold).
    pub(in crate::reactor) fn restore<H: Handler>(
        &mut self,
        state: ConnectionState,
        desk: &mut Desk<H>,
    ) -> Vec<u8> {
        let (session, bytes) = Session::rebuild(state.session, desk);
        self.session = session;
        self.input.clear();
        self.phase = PhaseCell::default();
        if state.phase != ConnectionPhase::Open {
            self.phase.enter(state.phase);
        }
        // Who was not read from, or has nobody to hear the replies, is looked at once
        // before its deadline is enforced.
        self.readable = state.unheard || self.session.stopped().is_some();
        self.unheard = state.unheard;
        self.undecoded = state.undecoded;
        bytes
    }

    /// Whether it has something to do of which no event and no alarm will tell.
    pub(in crate::reactor) fn wants_a_turn(&self, limits: &Limits) -> bool {
        let waits = match self.session.stopped() {
            None => false,
            // It has an alarm, unless there is no such limit any more.
            Some(StopReason::Rate) => self.session.deadline(limits).is_none(),
            Some(_) => true,
        };
        let goes_on = self.undecoded || self.unheard || !self.session.unsent().is_empty();
        waits || goes_on || !self.phase.is_open()
    }

    /// Holds these bytes, in `buffer`.
    pub(in crate::reactor) fn hold(&mut self, buffer: Buffer, bytes: &[u8]) {
        self.input.begin_with(buffer, bytes);
    }

    /// Holds what it holds in this buffer, which is the longest there is.
    pub(in crate::reactor) fn hold_in(&mut self, longest: Buffer) {
        self.input.move_to(longest);
    }

    /// Bytes held, and bytes of the buffer they are in.
    pub(in crate::reactor) fn window(&self) -> usize {
        self.input.window().len()
    }

    /// The same, 0 if it is the pool's reserve.
    pub(in crate::reactor) fn general_capacity(&self) -> usize {
        match self.input.has_reserve() {
            true => 0,
            false => self.input.capacity(),
        }
    }

    pub(in crate::reactor) fn capacity(&self) -> usize {
        self.input.capacity()
    }
}
