//! A server with injected faults, and agents that detect every error.

#![cfg_attr(
    not(debug_assertions),
    allow(dead_code, reason = "there are no faults to be had then")
)]

use std::fs;

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::dynasty::Dynasty;
use hawk_testkit::*;

/// A limit of the freeze that every machine keeps without a fault. Tests of the limit set their
/// own.
const LONG_FREEZE: &str = "deadline:freeze 20000";

/// Of a report that is sent in two parts, the bytes of the first.
const BEGUN: usize = 20;

/// The number of idle agents: more than one batch has.
const CROWD: usize = 70;

/// The number of active agents.
const WITNESSES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    None,
    File,
}

/// A server with a file of faults, and its agents.
pub(crate) struct Scene {
    dynasty: Dynasty,
    faults: NamedTempFile,
    store: Store,
    /// Sends a packet now and then.
    idle: Agent,
    /// Has sent a part of a frame at each hand-over.
    halfway: Agent,
    /// Has an unread reply at each hand-over.
    behind: Agent,
    /// Reads nothing: the server holds some of its replies.
    deaf: Agent,
    /// The number of its replies at the end.
    unread: usize,
    crowd: Vec<Agent>,
    /// Hand-overs so far.
    attempts: u32,
    /// The acknowledged reports.
    acknowledged: Vec<String>,
}

impl Scene {
    #[track_caller]
    pub(crate) fn set(store: Store) -> Self {
        let faults = NamedTempFile::new().unwrap();
        let path = faults.path().to_str().unwrap().to_owned();
        let prepare = |launch: Launch| launch.env("HAWK_FAULT", &path).env("RUST_BACKTRACE", "0");
        // The test may take long: no agent goes offline.
        let patient = ["--idle-timeout", "1h", "--frame-timeout", "1h"];
        let dynasty = match store {
            Store::None => Dynasty::start_with(&patient, prepare),
            Store::File => Dynasty::start_with_store_and(&patient, prepare),
        };
        let [idle, halfway, behind] = [(); 3].map(|()| dynasty.connect());
        let mut crowd: Vec<Agent> = (0..CROWD).map(|_| dynasty.connect()).collect();
        crowd.iter_mut().for_each(Agent::expect_alive);
        let (deaf, unread) = deaf(&dynasty);
        Self {
            dynasty,
            faults,
            store,
            idle,
            halfway,
            behind,
            deaf,
            unread,
            crowd,
            attempts: 0,
            acknowledged: Vec::new(),
        }
    }

    /// Sets the faults of the next hand-over.
    pub(crate) fn have(&self, faults: &str) {
        // For a process that hangs in the freeze: the usual limit, or that of the test.
        let in_earnest = [
            "successor:freeze hang",
            "successor:commit hang",
            "deadline:freeze",
        ];
        let freeze = match in_earnest.iter().any(|word| faults.contains(word)) {
            true => "",
            false => LONG_FREEZE,
        };
        fs::write(self.faults.path(), format!("{faults}\n{freeze}\n")).unwrap();
    }

    /// Prepares the agents: one sends a part of a frame, one has an unread reply.
    fn before(&mut self) {
        self.attempts += 1;
        self.idle.expect_alive();
        let [halfway, behind] = self.contents();
        self.halfway.send(&report(&halfway)[..BEGUN]);
        self.halfway.wait_delivered();
        self.behind.send(&report(&behind));
    }

    /// Continues with each agent.
    #[track_caller]
    fn after(&mut self) {
        let [halfway, _] = self.contents();
        self.halfway.send(&report(&halfway)[BEGUN..]);
        self.halfway.expect_line(REPORT);
        self.expect_answer_behind();
        self.acknowledged.push(halfway);
        self.idle.expect_alive();
        self.behind.expect_silence();
        self.dynasty.connect().expect_alive();
        let all = (CROWD + WITNESSES) as u64;
        self.dynasty
            .wait_until(|stats| stats.get("connections") == all && stats.get("unsent") > 0);
        let quiet = self.crowd.iter().all(|agent| !agent.has_input());
        assert!(quiet, "no agent of the crowd has sent a frame");
    }

    #[track_caller]
    fn expect_answer_behind(&mut self) {
        self.behind.expect_line(REPORT);
        let [_, behind] = self.contents();
        self.acknowledged.push(behind);
    }

    /// The content of a report at this hand-over, and at no other.
    fn contents(&self) -> [String; 2] {
        ["halfway", "behind"].map(|witness| format!("{witness} {}", self.attempts))
    }

    /// Expects a failure with this message and nothing left over, and then a success.
    #[track_caller]
    pub(crate) fn expect_rollback(&mut self, step: &str, why: &str) {
        self.before();
        let pid = self.dynasty.pid();
        let descriptors = descriptors_of(pid);
        let mark = self.dynasty.log().count();
        let told = self.dynasty.ask(&[]);
        let said = told.stderr.concat();
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(said.contains(step) && said.contains(why), "{said}");
        assert_eq!(
            children_of(pid),
            [""; 0],
            "not even one that is to be reaped"
        );
        self.after();
        self.dynasty.expect_nothing_of_the_attempt(&descriptors);
        let log = self.dynasty.log().since(mark);
        let logged = log
            .iter()
            .any(|line| line.contains("upgrade rolled back step=") && line.contains(why));
        assert!(logged, "{log:#?}");

        self.have("");
        self.expect_success();
    }

    /// Expects a success that no agent notices.
    #[track_caller]
    pub(crate) fn expect_success(&mut self) {
        self.before();
        self.dynasty.upgrade(&[]);
        self.after();
    }

    /// Expects that the predecessor dies, the successor ends, and the store is intact.
    #[track_caller]
    pub(crate) fn expect_end_of_all(mut self) {
        self.before();
        self.expect_answer_behind();
        let told = self.dynasty.ask(&[]);
        assert_eq!(told.code, Some(1), "{told:?}");
        self.expect_all_ended();
    }

    /// Expects that the predecessor hangs, and the successor ends with this message alone.
    #[track_caller]
    pub(crate) fn expect_to_be_given_up(mut self, why: &str) {
        self.before();
        self.expect_answer_behind();
        let first = self.dynasty.pid();
        self.dynasty.signal(Signal::USR2);
        let log = self.dynasty.log();
        log.wait_for(0, |line| line.starts_with("hawk: ") && line.contains(why));
        let alone = eventually(|| (self.dynasty.family() == [first]).then_some(()));
        assert!(alone.is_some(), "{:?}", self.dynasty.family());
        self.idle.expect_silence();
        self.halfway.expect_silence();
        kill_process(first, Signal::KILL).unwrap();
        self.expect_all_ended();
    }

    /// Expects that the successor serves, and ends before its first turn.
    #[track_caller]
    pub(crate) fn expect_a_short_reign(mut self) {
        self.before();
        self.expect_answer_behind();
        let told = self.dynasty.ask(&[]);
        assert_eq!(told.code, Some(0), "{told:?}");
        assert_eq!(self.dynasty.first_ends(), Some(0));
        self.expect_all_ended();
    }

    /// Expects the end of all processes and connections, and an intact store.
    #[track_caller]
    fn expect_all_ended(mut self) {
        self.idle.expect_end();
        self.halfway.expect_end();
        let gone = eventually(|| self.dynasty.family().is_empty().then_some(()));
        assert!(gone.is_some(), "{:#?}", self.dynasty.log().since(0));
        self.expect_stored();
        if self.store == Store::File {
            // Another server can start.
            let store = self.dynasty.store();
            let next = Server::start(&["--store", store.to_str().unwrap()]);
            next.connect().expect_alive();
        }
    }

    /// Expects that the successor serves after the predecessor's death.
    #[track_caller]
    pub(crate) fn expect_succession_without_a_word(&mut self) {
        self.before();
        let first = self.dynasty.pid();
        let mut client = self.dynasty.asking(&[]).spawn();
        let log = self.dynasty.log();
        log.wait_for(0, |line| line.contains("] took over "));
        // The last log lines of the predecessor may be lost.
        let mut family = self.dynasty.family();
        family.retain(|pid| *pid != first);
        assert_eq!(family.len(), 1, "{family:?}");
        self.dynasty.reigned_by(family[0]);
        // A predecessor that hangs with all sockets has no effect, nor has its end.
        self.after();
        let mut leaver = self.crowd.pop().unwrap();
        leaver.shutdown_write();
        leaver.expect_eof();
        kill_process(first, Signal::KILL).ok();
        let told = client.wait_exit();
        assert_eq!(told.code, Some(1), "{told:?}");
        self.have("");
        self.dynasty.first_ends();
        self.idle.expect_alive();
        assert_eq!(self.dynasty.family(), family);
    }

    /// Expects that the hand-over is reported as lost.
    #[track_caller]
    pub(crate) fn expect_loss(mut self, why: &str) {
        self.before();
        self.expect_answer_behind();
        let first = self.dynasty.pid();
        let mut under_way = self.dynasty.begin(&[]);
        let successor = under_way.successor;
        let told = under_way.client_ends();
        let said = told.stderr.concat();
        assert_eq!(told.code, Some(1), "{told:?}");
        let lost = format!(
            "process {} took over, and then {why}",
            successor.as_raw_nonzero()
        );
        assert!(said.contains(&format!("lost: {lost}")), "{said}");
        assert_eq!(self.dynasty.first_ends(), Some(1));
        let log = self.dynasty.log();
        log.wait_for(0, |line| line.contains(&format!("lost: {lost}")));
        let left = self.dynasty.family();
        assert!(!left.contains(&first));
        kill_process(successor, Signal::KILL).ok();
        self.expect_all_ended();
    }

    /// Asserts the replies of every agent, and stops the server.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.crowd.iter_mut().for_each(Agent::expect_alive);
        self.deaf.widen();
        let replies = format!("{EMPTY}\n").repeat(self.unread);
        self.deaf.expect_replies(replies.as_bytes());
        self.deaf.expect_alive();
        self.expect_stored();
        self.dynasty.stop();
    }

    /// Asserts that the store has each acknowledged report once, and no other.
    #[track_caller]
    fn expect_stored(&self) {
        if self.store == Store::None {
            return;
        }
        let store = Connection::open(self.dynasty.store()).unwrap();
        let mut all = store.prepare("SELECT content FROM reports").unwrap();
        let rows = all.query_map([], |row| row.get(0)).unwrap();
        let mut stored: Vec<String> = rows.map(Result::unwrap).collect();
        let mut acknowledged = self.acknowledged.clone();
        stored.sort();
        acknowledged.sort();
        assert_eq!(stored, acknowledged);
    }
}

/// An agent that does not read, and the number of its replies, of which the server holds some.
fn deaf(dynasty: &Dynasty) -> (Agent, usize) {
    const ROUND: usize = 3500;
    let mut agent = Agent::connect_narrow(dynasty.address());
    // The replies of a round are too few for a pause.
    let frames = frame(b"").repeat(ROUND);
    let mut owed = 0;
    let mut sent = dynasty.stats().get("bytes_in");
    loop {
        agent.send(&frames);
        owed += ROUND;
        sent += frames.len() as u64;
        let stats = dynasty.wait_until(|stats| stats.get("bytes_in") == sent);
        if stats.get("unsent") > 0 {
            return (agent, owed);
        }
    }
}

/// The children of this process, including unreaped ones.
fn children_of(pid: Pid) -> Vec<String> {
    let pid = pid.as_raw_nonzero();
    // proc_tid_children(5): of its first thread, which starts them.
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap();
    children.split_whitespace().map(str::to_owned).collect()
}
