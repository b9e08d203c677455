//! One connection as the kernel has it: bytes on their way in both directions.
//! And beside it, what the model knows of that agent.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

use hawk::reactor::kernel::{Readiness, SocketToken};
use hawk::session::StopReason;
use hawk::stats::Cause;
use rustix::io::Errno;

use super::conversation::Conversation;
use super::patience::Patience;

/// Bytes that the kernel holds for a server that does not read.
const INBOUND_LIMIT: usize = 128 * 1024;

/// One agent's connection.
pub struct Link {
    pub peer: SocketAddr,
    pub stage: Stage,
    /// Under what name the server watches it.
    pub token: Option<SocketToken>,
    /// Under what name a successor is to watch it.
    pub successors: Option<SocketToken>,
    /// Descriptors of its socket.
    pub holders: usize,
    /// Something has changed since the server was told.
    pub edge: bool,
    inbound: Inbound,
    /// Reply bytes that the agent has not read yet, and how many there may be.
    pub unread: usize,
    capacity: usize,
    /// A write was refused for want of room.
    pub blocked: bool,
    /// The connection was reset by either side.
    pub broken: bool,
    /// An error that the server's next call gets.
    error: bool,
    /// The agent's whole socket is closed: what is written to it breaks it.
    pub deaf: bool,
    /// The server was told that its writes are in vain.
    pub unheard: bool,
    /// When the server's end of file went out.
    pub ended_output: Option<u64>,

    pub conversation: Conversation,
    pub patience: Patience,
    /// Bytes that the stopping server reads at most.
    pub allowance: Option<u64>,
    /// The server closes it since then, and for this cause.
    pub closing: Option<(Cause, u64)>,
    /// What became of the last turn.
    pub last: Last,
    /// In this turn: bytes were read; a packet was taken; bytes were written.
    pub read_now: bool,
    pub taken_now: bool,
    pub wrote_now: bool,
    /// A read was tried.
    pub tried_now: bool,
    /// At its first read in this turn it held a frame begun while others waited.
    pub restricted: bool,
    /// Bytes of replies that are kept for its socket, at least.
    pub unsent: usize,
    /// Consecutive turns in which it was due and was neither served nor checked for a deadline
    /// that had passed.
    pub passed_over: usize,
    pub late: usize,
    /// It was read from although the store takes nothing.
    pub read_unready: bool,
    /// When it last got on, for those that are slowed down.
    pub moved_at: u64,
    pub slowed_at: u64,
    /// When its rate would be unused again, if it sent no more.
    pub rested_at: u64,
    /// Since when a deadline that is over may be acted on: another one just was.
    pub dropped_at: u64,
    /// When it was read from again after a stop.
    pub resumed_at: u64,
    pub accepted_at: u64,
    /// By what the store knows it.
    pub tag: Option<u32>,
    /// The name that it gave itself last.
    pub name: Option<String>,
    /// What it was before the server closed its socket in this turn.
    pub was: Option<Stage>,
}

/// How things stood after the last turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Last {
    pub consumed: u64,
    pub frames: u64,
    pub buffer: usize,
    pub buffered: usize,
    pub undecoded: bool,
    pub waits: bool,
    /// It had a turn with a buffer.
    pub tried: bool,
    pub owed: bool,
    pub ended: bool,
    pub stopped: Option<StopReason>,
}

/// What has become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits to be accepted.
    Backlog,
    /// The server has its socket, and talks to it.
    Served,
    /// The server has its socket, and is to close it.
    TurnedAway(Cause),
    /// The server has its socket, and could not watch it.
    Unwatched,
    /// The server has closed its socket.
    Closed,
}

/// What the agent has sent.
#[derive(Default)]
struct Inbound {
    /// Sent and not delivered.
    wire: Vec<u8>,
    wire_at: usize,
    /// Delivered and not read.
    arrived: Vec<u8>,
    arrived_at: usize,
    /// Where a read stops, because there is urgent data.
    urgent_at: Option<usize>,
    urgent: bool,
    /// Bytes ever sent.
    sent: u64,
    /// The end of file: behind the wire, delivered, read.
    end_sent: bool,
    end_arrived: bool,
    end_read: bool,
}

impl Link {
    pub fn new() -> Self {
        Self {
            peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            stage: Stage::Closed,
            token: None,
            successors: None,
            holders: 0,
            edge: false,
            inbound: Inbound::default(),
            unread: 0,
            capacity: 0,
            blocked: false,
            broken: false,
            error: false,
            deaf: false,
            unheard: false,
            ended_output: None,
            conversation: Conversation::default(),
            patience: Patience::default(),
            allowance: None,
            closing: None,
            last: Last::default(),
            read_now: false,
            taken_now: false,
            wrote_now: false,
            tried_now: false,
            restricted: false,
            unsent: 0,
            passed_over: 0,
            late: 0,
            read_unready: false,
            moved_at: 0,
            slowed_at: 0,
            rested_at: 0,
            dropped_at: 0,
            resumed_at: 0,
            accepted_at: 0,
            tag: None,
            name: None,
            was: None,
        }
    }

    /// A new connection, with the memory of one that is over.
    pub fn open(&mut self, peer: SocketAddr, capacity: usize) {
        let mut conversation = std::mem::take(&mut self.conversation);
        conversation.reset();
        let mut inbound = std::mem::take(&mut self.inbound);
        inbound.wire.clear();
        inbound.arrived.clear();
        *self = Self {
            peer,
            stage: Stage::Backlog,
            capacity,
            conversation,
            inbound: Inbound {
                wire: inbound.wire,
                arrived: inbound.arrived,
                ..Inbound::default()
            },
            ..Self::new()
        };
    }

    // The agent's side.

    /// Where to write what is sent next.
    pub fn wire(&mut self) -> &mut Vec<u8> {
        if self.inbound.wire_at == self.inbound.wire.len() {
            self.inbound.wire.clear();
            self.inbound.wire_at = 0;
        }
        &mut self.inbound.wire
    }

    /// So many bytes were added to the [`wire`](Self::wire), some of which may be an
    /// undamaged frame.
    pub fn sent(&mut self, bytes: usize, intact: Option<Range<usize>>) {
        let begin = self.inbound.sent;
        self.inbound.sent += bytes as u64;
        if let Some(intact) = intact {
            let place = begin + intact.start as u64..begin + intact.end as u64;
            self.conversation.sent_intact(place);
        }
    }

    /// Bytes on the wire.
    pub fn on_the_wire(&self) -> usize {
        self.inbound.wire.len() - self.inbound.wire_at
    }

    /// Whether the agent may go on sending.
    pub fn may_send(&self) -> bool {
        !self.inbound.end_sent && !self.broken
    }

    /// Sends the end of file.
    pub fn half_close(&mut self) {
        self.inbound.end_sent = true;
    }

    /// Brings at most so many bytes from the wire to the server; and the end of
    /// file, if it comes next. Whether anything came.
    pub fn deliver(&mut self, most: usize) -> bool {
        let inbound = &mut self.inbound;
        if inbound.arrived_at == inbound.arrived.len() {
            inbound.arrived.clear();
            inbound.arrived_at = 0;
            inbound.urgent_at = None;
        }
        let room = INBOUND_LIMIT.saturating_sub(inbound.arrived.len() - inbound.arrived_at);
        let bytes = most.min(room).min(inbound.wire.len() - inbound.wire_at);
        let delivered = inbound.wire_at..inbound.wire_at + bytes;
        inbound.arrived.extend_from_slice(&inbound.wire[delivered]);
        inbound.wire_at += bytes;
        let mut came = bytes > 0;
        if inbound.wire_at == inbound.wire.len() && inbound.end_sent && !inbound.end_arrived {
            inbound.end_arrived = true;
            came = true;
        }
        self.edge |= came;
        came
    }

    /// The next read stops behind what is there now: urgent data comes.
    pub fn urge(&mut self) {
        self.inbound.urgent = true;
        self.inbound.urgent_at = Some(self.inbound.arrived.len());
        self.edge = true;
    }

    /// Reads at most so many bytes of replies; how many there were.
    pub fn take(&mut self, most: usize) -> usize {
        let bytes = most.min(self.unread);
        self.unread -= bytes;
        // The kernel tells of room that was wanting once a third of it is free.
        if self.blocked && self.unread <= self.capacity - self.capacity / 3 {
            self.blocked = false;
            self.edge = true;
        }
        bytes
    }

    /// Resets the connection: what is on the wire is lost, what was delivered is not.
    pub fn reset(&mut self) {
        if !self.broken {
            self.broken = true;
            self.error = true;
            self.edge = true;
            self.blocked = false;
            self.inbound.wire.clear();
            self.inbound.wire_at = 0;
        }
    }

    // The kernel's side.

    pub fn readiness(&self) -> Readiness {
        let end = self.inbound.end_arrived || self.broken;
        Readiness {
            readable: self.arrived() > 0 || end,
            writable: !self.blocked,
            end_of_file: end,
            urgent: self.inbound.urgent,
            broken: self.broken,
        }
    }

    /// Bytes that a read would find.
    pub fn arrived(&self) -> usize {
        self.inbound.arrived.len() - self.inbound.arrived_at
    }

    /// Whether a read would find something, if only the end.
    pub fn is_readable(&self) -> bool {
        self.arrived() > 0
            || ((self.inbound.end_arrived || self.broken) && !self.inbound.end_read)
            || self.error
    }

    /// Whether the server has read to the end of file.
    pub fn end_is_read(&self) -> bool {
        self.inbound.end_read
    }

    /// read(2): what was delivered, then the error, then the end of file.
    pub fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let inbound = &mut self.inbound;
        let end = match inbound.urgent_at {
            Some(urgent) if urgent > inbound.arrived_at => urgent,
            _ => inbound.arrived.len(),
        };
        let arrived = &inbound.arrived[inbound.arrived_at..end];
        let bytes = arrived.len().min(space.len());
        if bytes > 0 {
            space[..bytes].copy_from_slice(&arrived[..bytes]);
            inbound.arrived_at += bytes;
            return Ok(bytes);
        }
        if std::mem::take(&mut self.error) {
            inbound.end_read = true;
            return Err(Errno::CONNRESET.into());
        }
        if inbound.end_arrived || self.broken {
            inbound.end_read = true;
            return Ok(0);
        }
        Err(ErrorKind::WouldBlock.into())
    }

    /// write(2).
    pub fn write(&mut self, bytes: usize) -> io::Result<usize> {
        if std::mem::take(&mut self.error) {
            return Err(Errno::CONNRESET.into());
        }
        if self.broken || self.ended_output.is_some() {
            return Err(Errno::PIPE.into());
        }
        let taken = bytes.min(self.capacity - self.unread);
        if taken == 0 {
            self.blocked = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        self.unread += taken;
        Ok(taken)
    }

    /// shutdown(2).
    pub fn end_output(&mut self, now: u64) -> io::Result<()> {
        if self.broken {
            return Err(Errno::NOTCONN.into());
        }
        self.ended_output = Some(now);
        Ok(())
    }

    /// Whether the server has its socket.
    pub fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Served | Stage::TurnedAway(_))
    }
}
