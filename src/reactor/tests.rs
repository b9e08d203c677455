//! Turns of a reactor over sockets in memory, in simulated time.

mod handover;
mod moved;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::rc::Rc;

use super::kernel::{Accept, Readiness, Signal, Socket, SocketToken};
use super::*;
use crate::admission::Rules;
use crate::log_sink::LeftOut;
use crate::session::{Answer, Limits, Sender, Tag, Wake};
use hawk_wire::{Encoding, Heartbeat, Packet, Reply, encode_packet};

/// The bytes that an agent and the server have sent each other.
#[derive(Debug, Default)]
struct Line {
    input: VecDeque<u8>,
    output: Vec<u8>,
    /// The agent has sent its end of file.
    ended: bool,
    /// Room for output, in bytes; `None` if it is unbounded.
    room: Option<usize>,
    /// It was shut down, for every process that has the socket.
    shut: bool,
}

/// The server's socket; also the agent's, for the test.
#[derive(Clone, Debug, Default)]
struct End(Rc<RefCell<Line>>);

impl End {
    fn holding(bytes: &[u8]) -> Self {
        let end = Self::default();
        end.0.borrow_mut().input.extend(bytes);
        end
    }

    fn left(&self) -> usize {
        self.0.borrow().input.len()
    }

    fn readiness(&self) -> Readiness {
        let line = self.0.borrow();
        Readiness {
            readable: !line.input.is_empty() || line.ended,
            writable: line.room != Some(0),
            end_of_file: line.ended,
            ..Readiness::default()
        }
    }

    fn is_answered(&self) -> bool {
        !self.0.borrow().output.is_empty()
    }
}

impl Socket for End {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut line = self.0.borrow_mut();
        if line.input.is_empty() && !line.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        io::Read::read(&mut line.input, space)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut line = self.0.borrow_mut();
        let taken = bytes.len().min(line.room.unwrap_or(usize::MAX));
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        line.output.extend_from_slice(&bytes[..taken]);
        line.room = line.room.map(|room| room - taken);
        Ok(taken)
    }

    fn end_output(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn end_both(&mut self) -> io::Result<()> {
        self.0.borrow_mut().shut = true;
        Ok(())
    }

    fn arrived(&self) -> io::Result<u64> {
        Ok(self.left() as u64)
    }
}

/// Connections that wait to be accepted.
#[derive(Clone, Debug, Default)]
struct Backlog(Rc<RefCell<VecDeque<End>>>);

impl Accept for Backlog {
    type Socket = End;

    fn accept(&mut self) -> io::Result<(End, SocketAddr)> {
        let next = self.0.borrow_mut().pop_front();
        let next = next.ok_or(io::ErrorKind::WouldBlock)?;
        Ok((next, (Ipv4Addr::LOCALHOST, 1).into()))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, 9876).into())
    }
}

/// A kernel with the events and the time that a test sets.
#[derive(Debug, Default)]
struct Fake {
    backlog: Backlog,
    /// The events of the next wait.
    coming: Vec<Event>,
    current: Vec<Event>,
    /// The timeout of the last wait.
    patience: Option<Duration>,
    later: Duration,
    signals: Vec<Signal>,
}

impl Kernel for Fake {
    type Socket = End;
    type Listener = Backlog;

    fn now(&self) -> Moment {
        Moment::from_nanos(1_000_000_000).after(self.later)
    }

    fn listen(&mut self, _address: SocketAddr) -> io::Result<Backlog> {
        Ok(self.backlog.clone())
    }

    fn watch_listener(&mut self, _: &mut Backlog, _: ListenerTag) -> io::Result<()> {
        Ok(())
    }

    fn waker(&mut self) -> io::Result<Wake> {
        Ok(Wake::new(|| {}))
    }

    fn watch(&mut self, socket: &mut End, token: SocketToken) -> io::Result<()> {
        // Like epoll, report the present readiness first.
        self.coming.push(Event::Ready(token, socket.readiness()));
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.patience = timeout;
        self.current = std::mem::take(&mut self.coming);
        Ok(())
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        self.current.iter().copied()
    }

    fn signals(&mut self) -> Vec<Signal> {
        std::mem::take(&mut self.signals)
    }
}

/// Takes heartbeats.
struct HeartbeatHandler;

impl Handler for HeartbeatHandler {
    fn handle(&mut self, _: Sender<'_>, _: &mut Option<Tag>, _: &Packet<'_>) -> Answer {
        Answer::Now(Reply::Heartbeat)
    }
}

const IDLE: Duration = Duration::from_secs(90);

pub(super) fn config(pool_limit: usize) -> Config {
    Config {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        max_connections: 10_000,
        admission: Rules::default(),
        pool_limit,
        output_limit: 1 << 20,
        phase_budget: PhaseBudget::default(),
        limits: Limits {
            idle: IDLE,
            frame: IDLE,
            rate: None,
        },
        drain_timeout: IDLE,
        stats_interval: Duration::from_secs(3600),
        log_left_out: LeftOut::default(),
    }
}

fn reactor(pool_limit: usize) -> Reactor<HeartbeatHandler, Fake> {
    Reactor::new(config(pool_limit), HeartbeatHandler, Fake::default()).unwrap()
}

/// A heartbeat of about so many bytes.
fn heartbeat(bytes: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = Packet::Heartbeat(Heartbeat {
        version: "1".repeat(bytes).into(),
        ..Heartbeat::default()
    });
    encode_packet(&packet, Encoding::Compact, &mut frame).unwrap();
    frame
}

/// Connects agents that have sent these bytes before they are accepted.
fn arrive(reactor: &mut Reactor<HeartbeatHandler, Fake>, count: usize, sent: &[u8]) -> Vec<End> {
    let ends: Vec<_> = (0..count).map(|_| End::holding(sent)).collect();
    let fake = &mut reactor.kernel;
    fake.backlog.0.borrow_mut().extend(ends.iter().cloned());
    fake.coming.push(Event::Incoming(ListenerTag::AGENTS));
    ends
}

/// Sends these bytes from all agents at once.
fn speak(reactor: &mut Reactor<HeartbeatHandler, Fake>, ends: &[End], sent: &[u8]) {
    for end in ends {
        end.0.borrow_mut().input.extend(sent);
    }
    let readable = Readiness {
        readable: true,
        ..Readiness::default()
    };
    for id in reactor.connections.ids() {
        let event = Event::Ready(id.token(), readable);
        reactor.kernel.coming.push(event);
    }
}

fn turn(reactor: &mut Reactor<HeartbeatHandler, Fake>) {
    assert_eq!(reactor.turn(None).unwrap(), None);
}

fn bytes_in(reactor: &Reactor<HeartbeatHandler, Fake>) -> u64 {
    reactor.figures().reactor.bytes_in
}

#[test]
fn a_turn_waits_until_its_limit_or_the_next_deadline() {
    let mut reactor = reactor(MIN_POOL_LIMIT);
    turn(&mut reactor);
    let own = reactor.kernel.patience.unwrap();
    let now = reactor.kernel.now();
    for (until, waits) in [(own / 2, own / 2), (2 * own, own)] {
        assert_eq!(reactor.turn(Some(now.after(until))).unwrap(), None);
        assert_eq!(reactor.kernel.patience, Some(waits));
    }
    assert_eq!(reactor.turn(Some(now)).unwrap(), None);
    assert_eq!(reactor.kernel.patience, Some(Duration::ZERO));
}

#[test]
fn other_descriptors_and_an_upgrade_request_are_reported_once() {
    let mut reactor = reactor(MIN_POOL_LIMIT);
    let [one, two] = [OtherToken(0), OtherToken(255)];
    reactor.kernel.coming = [one, two, one].map(Event::Other).to_vec();
    turn(&mut reactor);
    assert_eq!(reactor.take_others(), [one, two]);
    assert_eq!(reactor.take_others(), []);
    assert!(!reactor.upgrade_wanted());

    reactor.kernel.signals.push(Signal::Upgrade);
    turn(&mut reactor);
    assert!(
        !reactor.upgrade_wanted(),
        "there was no event for the signal"
    );
    reactor.kernel.coming.push(Event::Signals);
    turn(&mut reactor);
    assert!(reactor.upgrade_wanted());
    assert!(!reactor.upgrade_wanted());
    assert!(!reactor.is_stopping());
}

#[test]
fn an_inherited_stop_and_a_signal_within_a_second_are_one_stop() {
    let stopping = |wait: Duration, signals: usize| {
        let mut reactor = reactor(MIN_POOL_LIMIT);
        let _agent = arrive(&mut reactor, 1, b"");
        turn(&mut reactor);
        reactor.inherit_stop();
        turn(&mut reactor);
        assert!(reactor.is_stopping());
        reactor.kernel.later = wait;
        let mut outcome = None;
        for _ in 0..signals {
            reactor.kernel.signals.push(Signal::Stop);
            reactor.kernel.coming.push(Event::Signals);
            outcome = reactor.turn(None).unwrap();
        }
        outcome
    };
    let [at_once, later] = [0, 1001].map(Duration::from_millis);
    assert_eq!(stopping(at_once, 1), None);
    assert_eq!(stopping(at_once, 2), Some(Stop::Interrupted));
    assert_eq!(stopping(later, 1), Some(Stop::Interrupted));
}

/// A phase's budget, with the bytes that the last connection reads beyond it.
const MOST_OF_A_TURN: u64 = (1 << 20) + MAX_SHARE as u64;

#[test]
fn a_turn_is_bounded_with_many_busy_agents() {
    const AGENTS: usize = 600;
    let frame = heartbeat(1000);
    let sent = frame.repeat(60);
    let mut reactor = reactor(64 << 20);
    let ends = arrive(&mut reactor, AGENTS, &sent);
    while reactor.figures().connections < AGENTS {
        turn(&mut reactor);
    }
    let left = |ends: &[End]| ends.iter().map(End::left).sum::<usize>();
    assert!(left(&ends) > AGENTS * sent.len() / 2, "there is much work");

    // A new connection is accepted in the turn in which it arrives, and answered within one
    // round of the others.
    let new = arrive(&mut reactor, 1, &frame).remove(0);
    let before = bytes_in(&reactor);
    turn(&mut reactor);
    assert_eq!(reactor.figures().connections, AGENTS + 1);
    assert!(bytes_in(&reactor) - before <= MOST_OF_A_TURN);
    let mut turns = 1;
    while !new.is_answered() {
        let before = bytes_in(&reactor);
        turn(&mut reactor);
        turns += 1;
        assert_eq!(reactor.kernel.patience, Some(Duration::ZERO));
        let read = bytes_in(&reactor) - before;
        assert!((1..=MOST_OF_A_TURN).contains(&read), "{read}");
    }
    let round = bytes_in(&reactor) - before;
    assert!(turns > 2, "one turn was enough: {round}");
    // The turn in which it arrived and the rest of the turn in which it was answered count
    // as well.
    assert!(round <= (AGENTS * MIN_SHARE) as u64 + 2 * MOST_OF_A_TURN);

    // No agent is more than a share ahead of another.
    for _ in 0..10 {
        turn(&mut reactor);
    }
    let rests: Vec<_> = ends[500..].iter().map(End::left).collect();
    let (least, most) = (rests.iter().min().unwrap(), rests.iter().max().unwrap());
    assert!(*least > 0 && most - least <= 2 * MIN_SHARE, "{rests:?}");

    while left(&ends) > 0 {
        turn(&mut reactor);
    }
    turn(&mut reactor);
    let tally = reactor.figures().sessions;
    let frames = AGENTS * sent.len() / frame.len() + 1;
    assert_eq!(tally.heartbeats, frames as u64);
}

#[test]
fn few_frames_of_many_agents_are_split_into_turns() {
    const AGENTS: usize = 3000;
    let frame = heartbeat(0);
    let mut reactor = reactor(64 << 20);
    let ends = arrive(&mut reactor, AGENTS, b"");
    while reactor.figures().connections < AGENTS {
        turn(&mut reactor);
    }
    turn(&mut reactor);
    speak(&mut reactor, &ends, &frame);
    turn(&mut reactor);
    let heartbeats = reactor.figures().sessions.heartbeats;
    assert!((1700..1900).contains(&heartbeats), "{heartbeats}");
    turn(&mut reactor);
    assert_eq!(reactor.figures().sessions.heartbeats, AGENTS as u64);
}

#[test]
fn timers_that_expire_together_are_all_handled_over_several_turns() {
    const AGENTS: usize = 1000;
    let frame = heartbeat(100);
    let mut reactor = reactor(64 << 20);
    let ends = arrive(&mut reactor, AGENTS, b"");
    while reactor.figures().connections < AGENTS {
        turn(&mut reactor);
    }
    // There is input that keeps them open, without an event for it.
    for end in &ends {
        end.0
            .borrow_mut()
            .input
            .extend(frame.repeat(4096 / frame.len()));
    }
    reactor.kernel.later = IDLE + Duration::from_secs(1);
    turn(&mut reactor);
    let handled = ends.iter().filter(|end| end.is_answered()).count();
    assert_eq!(handled, PhaseBudget::default().alarms as usize);
    while ends.iter().any(|end| !end.is_answered()) {
        turn(&mut reactor);
        assert_eq!(reactor.kernel.patience, Some(Duration::ZERO));
    }
    assert_eq!(reactor.figures().connections, AGENTS);
}

#[test]
fn connections_that_wait_for_a_buffer_are_all_served_over_several_turns() {
    const AGENTS: usize = 1000;
    let frame = heartbeat(100);
    // One general buffer, and the reserve.
    let mut reactor = reactor(MIN_POOL_LIMIT);
    // A partial frame uses the general buffer.
    let long = [b"\xFF\xFF\xFF\xFD".as_slice(), &[b' '; 60_000]].concat();
    let _holder = arrive(&mut reactor, 1, &long);
    turn(&mut reactor);
    turn(&mut reactor);
    let ends = arrive(&mut reactor, AGENTS, b"");
    while reactor.figures().connections <= AGENTS {
        turn(&mut reactor);
    }
    turn(&mut reactor);
    speak(&mut reactor, &ends, &frame.repeat(4096 / frame.len()));
    let mut turns = 0;
    while ends.iter().any(|end| !end.is_answered()) {
        let before = bytes_in(&reactor);
        turn(&mut reactor);
        turns += 1;
        // Only the first turn may wait for events.
        assert!(turns == 1 || reactor.kernel.patience == Some(Duration::ZERO));
        // Two phases: the run queue and the waiters.
        assert!(bytes_in(&reactor) - before <= 2 * MOST_OF_A_TURN);
    }
    assert!(turns > 1, "one turn was enough");
}

/// Returns the connections that wait for a buffer, in FIFO order.
fn waiting<K: Kernel>(reactor: &Reactor<impl Handler, K>) -> Vec<ConnectionId> {
    let waiters = reactor.waiters.iter().copied();
    waiters.chain(reactor.capped.ids()).collect()
}

#[test]
fn a_closed_connection_does_not_stay_in_the_queue_for_a_buffer() {
    let mut reactor = reactor(MIN_POOL_LIMIT);
    // Two partial frames use both buffers, the reserve included.
    let long = [b"\xFF\xFF\xFF\xFD".as_slice(), &[b' '; 60_000]].concat();
    let _holders = arrive(&mut reactor, 2, &long);
    // The head of the queue stays there.
    let first = arrive(&mut reactor, 1, &heartbeat(100));
    turn(&mut reactor);
    turn(&mut reactor);
    let staying = reactor.connections.ids();
    assert_eq!((staying.len(), waiting(&reactor).len()), (3, 1));
    let broken = Readiness {
        broken: true,
        ..Readiness::default()
    };
    for _ in 0..1000 {
        let _passing = arrive(&mut reactor, 1, &heartbeat(100));
        turn(&mut reactor);
        turn(&mut reactor);
        let ids = reactor.connections.ids();
        let passing = ids.iter().find(|id| !staying.contains(id)).unwrap();
        let event = Event::Ready(passing.token(), broken);
        reactor.kernel.coming.push(event);
        turn(&mut reactor);
    }
    assert_eq!(reactor.connections.len(), 3);
    let places = waiting(&reactor).len();
    assert!(places <= 8, "{places}");
    assert!(!first[0].is_answered());
}
