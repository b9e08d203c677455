//! A handler with its store, driven by simulated turns of a reactor.

use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use hawk::handler::{Ack, Config, PacketHandler};
use hawk::roster::{self, AgentState};
use hawk::session::{Answer, CommitId, Fate, Handler as _, Sender, Tag, Wake};
use hawk::store::{Lock, Retention, StandbyStore, Store};
use hawk::transfer::Transfer as _;
use hawk_time::Moment;
use hawk_wire::{AgentName, Heartbeat, Packet, Reply, Report};

use hawk_testkit::store_file::*;
use hawk_testkit::*;

pub(crate) const KEEP_ALL: Retention = Retention {
    age: Duration::from_secs(1000 * 86_400),
    size: 1 << 40,
    ..Retention::UNLIMITED
};

/// Silence after which an agent is offline.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// The state of an agent in its session.
pub(crate) struct Session {
    pub(crate) name: Option<&'static str>,
    pub(crate) tag: Option<Tag>,
}

impl Session {
    pub(crate) const fn of(name: Option<&'static str>) -> Self {
        Self { name, tag: None }
    }
}

/// A handler driven by simulated turns of a reactor.
pub(crate) struct Turns {
    pub(crate) keeper: PacketHandler,
    /// Signals that a batch is completed.
    pub(crate) bell: mpsc::Receiver<()>,
    /// How far the simulated time is ahead of the clock.
    pub(crate) ahead: Duration,
    pub(crate) kept: Vec<CommitId>,
    pub(crate) discarded: Vec<CommitId>,
}

impl Turns {
    pub(crate) fn new(capacity: usize) -> Self {
        let mut keeper = PacketHandler::new(Config {
            ack: Ack::Committed,
            roster: roster::Config {
                offline_after: Some(SILENCE),
                start_grace: Duration::ZERO,
                capacity,
            },
            remember: Duration::from_secs(86_400),
            log_packets: false,
        });
        let (ring, bell) = mpsc::channel();
        keeper.start(Wake::new(move || ring.send(()).unwrap_or(())));
        Self {
            keeper,
            bell,
            ahead: Duration::ZERO,
            kept: Vec::new(),
            discarded: Vec::new(),
        }
    }

    /// Creates the first handler of the store.
    pub(crate) fn first(store_file: &StoreFile, retention: Retention) -> Self {
        let mut turns = Self::new(100);
        let store = Store::open(store_file.store()).unwrap();
        turns.keeper.store_in(store.start(retention).unwrap());
        turns
    }

    /// Creates the successor of `self`, with its standby store.
    pub(crate) fn successor(&self, examined: StandbyStore) -> Self {
        let mut turns = Self::new(100);
        let path = examined.path().to_owned();
        let lock = Lock::adopt(self.share_lock(), &path).unwrap();
        let producer = examined.start(lock, KEEP_ALL).unwrap();
        turns.keeper.store_in(producer);
        turns
    }

    pub(crate) fn share_lock(&self) -> std::os::fd::OwnedFd {
        let lock = self.keeper.store_lock().expect("it has a store");
        lock.share().try_clone().unwrap().into()
    }

    pub(crate) fn turn(&mut self) {
        self.turn_with(|_| ());
    }

    pub(crate) fn turn_with<T>(&mut self, work: impl FnOnce(&mut PacketHandler) -> T) -> T {
        let now = Moment::now().after(self.ahead);
        self.keeper.begin_turn(now);
        while let Some(settled) = self.keeper.next_completed() {
            match settled.fate {
                Fate::Kept => self.kept.push(settled.commit),
                Fate::Discarded => self.discarded.push(settled.commit),
            }
        }
        let made = work(&mut self.keeper);
        self.keeper.end_turn();
        made
    }

    pub(crate) fn hand_in(&mut self, session: &mut Session, packet: &Packet<'_>) -> Answer {
        assert!(self.keeper.is_ready(), "it takes packets");
        let name = session.name.map(Rc::from);
        let sender = Sender {
            peer: "10.0.0.7:4711".parse().unwrap(),
            agent: name.as_ref(),
            gap: None,
        };
        self.turn_with(|keeper| keeper.handle(sender, &mut session.tag, packet))
    }

    pub(crate) fn try_heartbeat(&mut self, session: &mut Session) -> Answer {
        let packet = Packet::Heartbeat(Heartbeat {
            version: "1.0".into(),
            timestamp: 0,
            agent: session.name.map(|name| AgentName::new(name).unwrap()),
            probe: false,
        });
        self.hand_in(session, &packet)
    }

    pub(crate) fn heartbeat(&mut self, session: &mut Session) {
        assert_eq!(self.try_heartbeat(session), Answer::Now(Reply::Heartbeat));
    }

    /// Sends a report; returns the commit that its reply waits for.
    #[track_caller]
    pub(crate) fn report(&mut self, session: &mut Session, content: &str) -> CommitId {
        let packet = Packet::Report(Report {
            content: content.into(),
            rand: 1,
            timestamp: 2,
            agent: session.name.map(|name| AgentName::new(name).unwrap()),
        });
        match self.hand_in(session, &packet) {
            Answer::AfterCommit(commit) => commit,
            Answer::Now(reply) => panic!("{reply:?}"),
        }
    }

    /// Takes turns until `look` returns a value: each after a batch is completed or some time has
    /// passed.
    #[track_caller]
    pub(crate) fn until<T>(&mut self, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let found = eventually(|| {
            // A change without a consumer is not signalled.
            let _rung = self.bell.recv_timeout(Duration::from_millis(5));
            self.turn();
            look(self)
        });
        found.expect("it comes to that")
    }

    #[track_caller]
    pub(crate) fn until_kept(&mut self, commit: CommitId) {
        self.until(|turns| turns.kept.contains(&commit).then_some(()));
    }

    #[track_caller]
    pub(crate) fn quiesce(&mut self) {
        self.keeper.quiesce();
        self.until(|turns| turns.keeper.is_quiet().unwrap().then_some(()));
        assert!(!self.keeper.is_ready());
    }

    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.turn();
        self.keeper.finish(PATIENCE, PATIENCE).unwrap();
    }
}

/// Applies the copied state of a slot.
pub(crate) fn apply(to: &mut PacketHandler, slot: u32, state: Option<AgentState>) {
    to.import(slot, state).unwrap();
}

/// Copies the remaining state at the end.
pub(crate) fn move_the_rest(from: &mut Turns, to: &mut Turns) {
    let all = from.keeper.copy_some(usize::MAX, &mut |slot, state| {
        apply(&mut to.keeper, slot, state);
    });
    assert!(all);
    from.keeper.take_changes(usize::MAX, &mut |slot, state| {
        apply(&mut to.keeper, slot, state);
    });
    to.keeper.import_state(from.keeper.state());
    to.ahead = from.ahead;
}

/// Checks that no other process may write.
#[track_caller]
pub(crate) fn expect_locked(store_file: &StoreFile) {
    assert!(Lock::is_held(&store_file.store()).unwrap());
}

/// Returns the bytes of the file and of its log.
pub(crate) fn files(store_file: &StoreFile) -> [Vec<u8>; 2] {
    ["hawk.db", "hawk.db-wal"].map(|name| std::fs::read(store_file.folder().join(name)).unwrap())
}
