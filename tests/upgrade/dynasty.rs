//! Servers that follow one another.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use crate::support::*;

/// A server, whichever process it is at present, and its control socket.
///
/// All its processes log to one pipe, that of the first.
pub(crate) struct Dynasty {
    folder: TempDir,
    first: Server,
    /// Who serves.
    reigns: Pid,
}

/// What `hawk upgrade` said of a hand-over.
#[derive(Debug)]
pub(crate) struct Succession {
    pub(crate) before: Pid,
    pub(crate) fields: Fields,
}

impl Dynasty {
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, |launch| launch)
    }

    /// With a store on a file.
    #[track_caller]
    pub(crate) fn start_with_store(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("hawk.db");
        let store = ["--store", store.to_str().unwrap()];
        Self::start_in(folder, &[&store, args].concat(), |launch| launch)
    }

    #[track_caller]
    pub(crate) fn start_with(args: &[&str], prepare: impl FnOnce(Launch) -> Launch) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args, prepare)
    }

    #[track_caller]
    fn start_in(folder: TempDir, args: &[&str], prepare: impl FnOnce(Launch) -> Launch) -> Self {
        let control = folder.path().join("control");
        let launch = Launch::serve(args).env("HAWK_CONTROL", control.to_str().unwrap());
        let first = prepare(launch).start();
        Self {
            reigns: first.pid(),
            folder,
            first,
        }
    }

    /// The folder of its store and its control socket.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder().join("hawk.db")
    }

    /// Who serves.
    pub(crate) fn pid(&self) -> Pid {
        self.reigns
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Agent {
        self.first.connect()
    }

    /// What all of them log.
    pub(crate) fn log(&self) -> &Lines {
        self.first.log()
    }

    /// Runs `hawk upgrade` with `args` to its end.
    #[track_caller]
    pub(crate) fn ask(&self, args: &[&str]) -> Exit {
        let control = self.folder().join("control");
        let ask = ["upgrade", "--control", control.to_str().unwrap()];
        Launch::hawk(&[&ask, args].concat()).run()
    }

    /// Has another process take over.
    #[track_caller]
    pub(crate) fn upgrade(&mut self, args: &[&str]) -> Succession {
        let told = self.ask(args);
        assert_eq!(told.code, Some(0), "{told:?}\n{:#?}", self.log().since(0));
        let line = told.stdout.concat();
        let fields = line
            .strip_prefix("upgraded ")
            .unwrap_or_else(|| panic!("{line}"));
        let fields = Fields::parse(fields);
        let succession = Succession {
            before: self.reigns,
            fields,
        };
        let pid = i32::try_from(succession.fields.get("pid")).unwrap();
        self.reigns = Pid::from_raw(pid).unwrap();
        assert_ne!(self.reigns, succession.before);
        self.expect_gone(succession.before);
        succession
    }

    /// Waits until the process that serves says that another does now.
    #[track_caller]
    pub(crate) fn expect_successor(&mut self) {
        let (line, _) = self
            .log()
            .wait_for(0, |line| line.contains(" handed over to process "));
        let pid = line.split(" handed over to process ").nth(1).unwrap();
        let pid = pid.split(' ').next().unwrap().parse().unwrap();
        let before = std::mem::replace(&mut self.reigns, Pid::from_raw(pid).unwrap());
        self.expect_gone(before);
    }

    /// The server says no, or goes back to how it was, and does not end.
    #[track_caller]
    pub(crate) fn expect_refusal(&self, args: &[&str], why: &str) {
        let told = self.ask(args);
        assert_eq!(told.code, Some(1), "{told:?}");
        let said = told.stderr.concat();
        assert!(said.contains(why), "{said}");
        self.connect().expect_alive();
    }

    /// Its statistics, now.
    #[track_caller]
    pub(crate) fn stats(&self) -> Stats {
        let mark = self.log().count();
        kill_process(self.reigns, Signal::USR1).unwrap();
        Stats::wait_for(self.log(), mark)
    }

    /// What the listening socket is called in the kernel.
    #[track_caller]
    pub(crate) fn listening_sockets(&self) -> BTreeSet<String> {
        let port = format!(":{:04X} ", self.first.address.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // proc_net(5): the local address is the second column, the state the fourth (0A:
        // it listens), and the inode the tenth.
        let rows = table.lines().filter(|row| row.contains(&port));
        let columns = rows.map(|row| row.split_whitespace().collect::<Vec<_>>());
        let listening = columns.filter(|row| row[3] == "0A");
        listening.map(|row| row[9].to_owned()).collect()
    }

    /// Ends it as SIGTERM does, and demands that nothing is left.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        kill_process(self.reigns, Signal::TERM).unwrap();
        self.expect_gone(self.reigns);
        // Nobody has its pipes any more.
        self.first.wait_stdout_end();
        self.reigns = self.first.pid();
    }

    #[track_caller]
    fn expect_gone(&mut self, pid: Pid) {
        if pid == self.first.pid() {
            let ended = self.first.wait_end();
            assert_eq!(ended, Some(0), "{:#?}", self.log().since(0));
        } else {
            // It is a child of nobody here: whoever reaps orphans reaps it.
            let gone = eventually(|| test_kill_process(pid).is_err().then_some(()));
            assert!(gone.is_some(), "process {pid:?} is still there");
        }
    }
}

impl Drop for Dynasty {
    fn drop(&mut self) {
        if self.reigns != self.first.pid() {
            // Gone already, if it was stopped.
            kill_process(self.reigns, Signal::KILL).ok();
        }
    }
}
