//! A connection as it is seen from outside.

use std::net::SocketAddr;

use super::{Connection, ConnectionPhase};
use crate::session::StopReason;

/// One connection, as it is seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// The address it comes from.
    pub peer: SocketAddr,
    /// Its phase.
    pub phase: ConnectionPhase,
    /// Why nothing is read from it at present, if so.
    pub stopped: Option<StopReason>,
    /// Whether it has a turn without anything happening to it.
    pub queued: bool,
    /// Whether it is among those that wait for the store.
    pub held: bool,
    /// Whether it has a place in the queue for a receive buffer.
    pub waits_for_buffer: bool,
    /// Bytes read and not yet consumed.
    pub buffered: usize,
    /// Whether the decoder has not seen all of them to the end.
    pub undecoded: bool,
    /// Bytes of the receive buffer that it holds; 0 if it holds none.
    pub buffer: usize,
    /// Reply bytes that the socket did not take yet.
    pub unsent: usize,
    /// Frames that passed.
    pub frames: u64,
}

impl<S> Connection<S> {
    /// Reply bytes that the socket did not take yet.
    pub(in crate::reactor) fn unsent(&self) -> usize {
        self.session.unsent().len()
    }

    pub(in crate::reactor) fn view(&self) -> ConnectionView {
        ConnectionView {
            peer: self.session.sender().peer,
            phase: self.phase.get(),
            stopped: self.session.stopped(),
            queued: self.queued,
            held: self.held,
            waits_for_buffer: self.phase.waits(),
            buffered: self.input.window().len(),
            undecoded: self.undecoded,
            buffer: self.input.capacity(),
            unsent: self.unsent(),
            frames: self.session.frames().into(),
        }
    }
}
