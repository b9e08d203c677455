//! A session, the bytes it has not consumed, and what it said.

use std::time::Duration;

use hawk::session::{
    Answer, Expiry, Handler, Limits, Progress, Sender, Session, SessionContext, Tag,
};
use hawk_time::Moment;
use hawk_wire::{AgentName, Heartbeat, Input, Packet, Reply, Report};

/// The server's own.
pub(crate) const LIMITS: Limits = Limits {
    idle: Duration::from_secs(90),
    frame: Duration::from_secs(10),
    rate: None,
};

/// When conversations begin.
pub(crate) const START: Moment = Moment::from_nanos(1_000_000_000_000);

/// The replies and packets of a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Reply lines.
    pub(crate) lines: Vec<u8>,
    pub(crate) packets: Vec<Packet<'static>>,
}

impl Said {
    pub(crate) fn append(&mut self, mut later: Self) {
        self.lines.append(&mut later.lines);
        self.packets.append(&mut later.packets);
    }
}

/// One session as the reactor drives it.
pub(crate) struct Conversation {
    pub(crate) session: Session,
    /// Bytes that arrived; those before `start` are done with.
    arrived: Vec<u8>,
    start: usize,
    pub(crate) context: SessionContext<Recorder>,
    /// Bytes of the stream that are done with.
    pub(crate) consumed: u64,
    pub(crate) given_up: bool,
    /// Frames recognised in one call.
    budget: u32,
}

/// Takes every packet and keeps it.
#[derive(Default)]
pub(crate) struct Recorder(Vec<Packet<'static>>);

impl Handler for Recorder {
    fn handle(&mut self, _: Sender<'_>, _: &mut Option<Tag>, packet: &Packet<'_>) -> Answer {
        self.0.push(owned(packet));
        Answer::Now(taken(packet))
    }
}

/// The reply to a packet that was taken.
pub(crate) fn taken(packet: &Packet<'_>) -> Reply {
    match packet {
        Packet::Heartbeat(_) => Reply::Heartbeat,
        Packet::Report(_) => Reply::Report,
    }
}

/// Copies a packet, so that it borrows nothing.
pub(crate) fn owned(packet: &Packet<'_>) -> Packet<'static> {
    let agent = packet.agent();
    let agent = agent.map(|name| AgentName::new(name.as_str().to_owned()).unwrap());
    match packet {
        Packet::Heartbeat(heartbeat) => Packet::Heartbeat(Heartbeat {
            version: heartbeat.version.clone().into_owned().into(),
            timestamp: heartbeat.timestamp,
            agent,
            probe: heartbeat.probe,
        }),
        Packet::Report(report) => Packet::Report(Report {
            content: report.content.clone().into_owned().into(),
            rand: report.rand,
            timestamp: report.timestamp,
            agent,
        }),
    }
}

impl Conversation {
    /// One in which at most `budget` frames are recognised in one call.
    pub(crate) fn new(budget: u32) -> Self {
        Self {
            session: Session::new("127.0.0.1:5000".parse().unwrap(), START),
            arrived: Vec::new(),
            start: 0,
            context: SessionContext::new(Recorder::default()),
            consumed: 0,
            given_up: false,
            budget,
        }
    }

    /// Bytes that arrived and are not done with.
    pub(crate) fn window(&self) -> &[u8] {
        &self.arrived[self.start..]
    }

    /// Replaces the session by one rebuilt from its exported state.
    pub(crate) fn move_house(&mut self) {
        let state = self.session.export(self.window());
        (self.session, self.arrived) = Session::rebuild(state, &mut self.context);
        self.start = 0;
    }

    /// Bytes arrive.
    pub(crate) fn receive(&mut self, bytes: &[u8], now: Moment) -> Said {
        if !self.given_up {
            self.arrived.drain(..self.start);
            self.start = 0;
            self.arrived.extend_from_slice(bytes);
        }
        self.take(Input::Open, now)
    }

    /// The agent has shut down its write side.
    pub(crate) fn end(&mut self, now: Moment) -> Said {
        self.take(Input::Ended, now)
    }

    /// Drops the candidate at the front of the window.
    pub(crate) fn drop_candidate(&mut self, now: Moment) -> Said {
        let dropped = self
            .session
            .drop_candidate(&self.arrived[self.start..], &mut self.context.counters);
        self.consume(dropped);
        self.take(Input::Open, now)
    }

    /// What the frame timeout would do.
    pub(crate) fn at_frame_timeout(&self, now: Moment) -> Expiry {
        self.session.expire(now.after(LIMITS.frame), &LIMITS)
    }

    fn take(&mut self, input: Input, now: Moment) -> Said {
        while !self.given_up {
            let mut frames = self.budget;
            let received = self.session.receive(
                &self.arrived[self.start..],
                input,
                now,
                &mut frames,
                &mut self.context,
            );
            self.consume(received.consumed);
            match received.progress {
                Progress::NeedsInput => break,
                Progress::BudgetSpent => assert_eq!(frames, 0),
                Progress::JunkLimit => self.given_up = true,
            }
        }
        Said {
            lines: std::mem::take(&mut self.context.replies),
            packets: std::mem::take(&mut self.context.handler.0),
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        assert!(self.start <= self.arrived.len());
        self.consumed += bytes as u64;
    }
}
