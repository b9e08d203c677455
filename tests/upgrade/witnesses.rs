//! A server with faults on demand, and agents who would notice if anything went wrong.

use std::collections::HashSet;
use std::path::PathBuf;

use rusqlite::Connection;
use rustix::process::{Signal, kill_process};
use tempfile::NamedTempFile;

use crate::dynasty::Dynasty;
use crate::support::*;

/// Between the freeze's start and its end any machine finds the time for what has no
/// fault. Tests of the budget itself set their own.
const LONG_FREEZE: &str = "deadline:freeze 20000";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    None,
    File,
}

/// A server whose processes fail as a file has it, and its agents.
pub(crate) struct Scene {
    dynasty: Dynasty,
    faults: NamedTempFile,
    store: Store,
    /// Says something now and then.
    idle: Agent,
    /// In the midst of a frame at each attempt.
    halfway: Agent,
    /// Has been answered, and has not read that yet.
    behind: Agent,
    /// Reports that were acknowledged.
    acknowledged: i64,
}

/// A report that is sent in two parts.
const BEGUN: usize = 20;

impl Scene {
    #[track_caller]
    pub(crate) fn set(store: Store) -> Self {
        let faults = NamedTempFile::new().unwrap();
        let path = faults.path().to_str().unwrap().to_owned();
        let prepare = |launch: Launch| launch.env("HAWK_FAULT", &path).env("RUST_BACKTRACE", "0");
        let dynasty = match store {
            Store::None => Dynasty::start_with(&[], prepare),
            Store::File => Dynasty::start_with_store_and(&[], prepare),
        };
        let [idle, halfway, behind] = [(); 3].map(|()| dynasty.connect());
        Self {
            dynasty,
            faults,
            store,
            idle,
            halfway,
            behind,
            acknowledged: 0,
        }
    }

    /// Has the next attempt fail like this.
    pub(crate) fn have(&self, faults: &str) {
        let freeze = match faults.contains("deadline:freeze") || faults.contains("hang") {
            true => "",
            false => LONG_FREEZE,
        };
        std::fs::write(self.faults.path(), format!("{faults}\n{freeze}\n")).unwrap();
    }

    /// The agents before an attempt: one in mid-frame, one that has not read its reply.
    fn before(&mut self) {
        self.idle.expect_alive();
        let whole = report("halfway");
        self.halfway.send(&whole[..BEGUN]);
        self.halfway.wait_delivered();
        self.behind.send(&report("behind"));
        self.acknowledged += 1;
    }

    /// And after it: each goes on where it was.
    #[track_caller]
    fn after(&mut self) {
        let whole = report("halfway");
        self.halfway.send(&whole[BEGUN..]);
        self.halfway.expect_line(REPORT);
        self.acknowledged += 1;
        self.behind.expect_line(REPORT);
        self.idle.expect_alive();
        self.behind.expect_silence();
        self.dynasty.connect().expect_alive();
        self.dynasty
            .wait_until(|stats| stats.get("connections") == 3);
    }

    /// The attempt fails, with these words, and leaves nothing. The next one succeeds.
    #[track_caller]
    pub(crate) fn expect_rollback(&mut self, step: &str, why: &str) {
        self.before();
        let pid = self.dynasty.pid();
        let descriptors = descriptors_of(pid);
        let told = self.dynasty.ask(&[]);
        let said = told.stderr.concat();
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(said.contains(step) && said.contains(why), "{said}");
        self.after();
        assert_eq!(self.dynasty.family(), [pid], "and nobody else");
        let now = descriptors_of(pid);
        let more: HashSet<_> = now.difference(&descriptors).collect();
        assert!(more.is_empty(), "{more:?}");
        let log = self.dynasty.log().since(0);
        let logged = log
            .iter()
            .any(|line| line.contains("upgrade rolled back step=") && line.contains(why));
        assert!(logged, "{log:#?}");

        self.have("");
        self.before();
        self.dynasty.upgrade(&[]);
        self.after();
    }

    /// The first process dies, the second one gives up, and the store has what it had.
    #[track_caller]
    pub(crate) fn expect_end_of_all(mut self) {
        self.before();
        self.behind.expect_line(REPORT);
        let told = self.dynasty.ask(&[]);
        assert_eq!(told.code, Some(1), "{told:?}");
        self.idle.expect_end();
        self.halfway.expect_end();
        let gone = eventually(|| self.dynasty.family().is_empty().then_some(()));
        assert!(gone.is_some(), "{:#?}", self.dynasty.log().since(0));
        self.expect_stored();
        // Nothing is left that would keep another one from beginning.
        let store = self.dynasty.store();
        let next = Server::start(&["--store", store.to_str().unwrap()]);
        next.connect().expect_alive();
    }

    /// The second process serves, although the first has not lived to tell.
    #[track_caller]
    pub(crate) fn expect_succession_without_a_word(&mut self) {
        self.before();
        let first = self.dynasty.pid();
        let mut under_way = self.dynasty.begin(&[]);
        let log = self.dynasty.log();
        log.wait_for(0, |line| line.contains("] took over "));
        self.dynasty.reigned_by(under_way.successor);
        // One that hangs is not in the way, and neither is its end.
        self.after();
        kill_process(first, Signal::KILL).ok();
        let told = under_way.client_ends();
        assert_eq!(told.code, Some(1), "{told:?}");
        self.have("");
        self.dynasty.first_ends();
        self.idle.expect_alive();
        assert_eq!(self.dynasty.family(), [under_way.successor]);
    }

    /// Nobody is known to serve, and that is told.
    #[track_caller]
    pub(crate) fn expect_loss(mut self, why: &str) {
        self.before();
        let first = self.dynasty.pid();
        let mut under_way = self.dynasty.begin(&[]);
        let successor = under_way.successor;
        let told = under_way.client_ends();
        let said = told.stderr.concat();
        assert_eq!(told.code, Some(1), "{told:?}");
        let lost = format!(
            "lost: process {} took over, and then {why}",
            successor.as_raw_nonzero()
        );
        assert!(said.contains(&lost), "{said}");
        assert_eq!(self.dynasty.first_ends(), Some(1));
        let left = self.dynasty.family();
        assert!(!left.contains(&first));
        kill_process(successor, Signal::KILL).ok();
        self.expect_stored();
    }

    /// Everything that was acknowledged is stored, once; and an ordinary end.
    #[track_caller]
    pub(crate) fn end(self) {
        if self.store == Store::File {
            self.expect_stored();
        }
        self.dynasty.stop();
    }

    #[track_caller]
    fn expect_stored(&self) {
        assert_eq!(reports_in(self.dynasty.store()), self.acknowledged);
    }
}

fn reports_in(store: PathBuf) -> i64 {
    let store = Connection::open(store).unwrap();
    let count = "SELECT count(*) FROM reports";
    store.query_row(count, [], |row| row.get(0)).unwrap()
}
