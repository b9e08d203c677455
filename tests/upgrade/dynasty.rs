//! A server through several generations of processes.

use std::collections::{BTreeSet, HashSet};
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use hawk_testkit::*;

/// A server, in its present process, and its control socket.
///
/// All its processes log to the pipe of the first.
pub(crate) struct Dynasty {
    folder: TempDir,
    first: Server,
    /// The process that serves.
    reigns: Pid,
}

/// A `hawk upgrade` under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    client: Process,
    /// The successor.
    pub(crate) successor: Pid,
}

impl UnderWay {
    /// Waits for the end of `hawk upgrade`.
    #[track_caller]
    pub(crate) fn client_ends(&mut self) -> Exit {
        self.client.wait_exit()
    }
}

/// The output of `hawk upgrade`.
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
        Self::start_with_store_and(args, |launch| launch)
    }

    #[track_caller]
    pub(crate) fn start_with_store_and(
        args: &[&str],
        prepare: impl FnOnce(Launch) -> Launch,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("hawk.db");
        let store = ["--store", store.to_str().unwrap()];
        Self::start_in(folder, &[&store, args].concat(), prepare)
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

    /// The process that serves.
    pub(crate) fn pid(&self) -> Pid {
        self.reigns
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Agent {
        self.first.connect()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.first.address
    }

    /// The log of all processes.
    pub(crate) fn log(&self) -> &Lines {
        self.first.log()
    }

    /// Runs `hawk upgrade` with `args` to its end.
    #[track_caller]
    pub(crate) fn ask(&self, args: &[&str]) -> Exit {
        self.asking(args).run()
    }

    /// The line `restart` of `hawk stats`.
    #[track_caller]
    pub(crate) fn restart_line(&self) -> String {
        let control = self.control();
        let told = Launch::hawk(&["stats", "--control", control.to_str().unwrap()]).run();
        let mut lines = told.stdout.iter();
        let line = lines.find(|line| line.starts_with("restart "));
        line.unwrap_or_else(|| panic!("{told:?}")).clone()
    }

    /// The command that [`ask`](Self::ask) runs.
    pub(crate) fn asking(&self, args: &[&str]) -> Launch {
        let control = self.control();
        let ask = ["upgrade", "--control", control.to_str().unwrap()];
        Launch::hawk(&[&ask, args].concat())
    }

    fn control(&self) -> PathBuf {
        self.folder().join("control")
    }

    /// Starts `hawk upgrade` with `args`, and waits for the start of the successor.
    #[track_caller]
    pub(crate) fn begin(&self, args: &[&str]) -> UnderWay {
        let mark = self.log().count();
        let client = self.asking(args).spawn();
        let (line, _) = self
            .log()
            .wait_for(mark, |line| line.contains("] handing over to process "));
        UnderWay {
            client,
            successor: process_in(&line),
        }
    }

    /// Does the same, and waits until the successor has stopped at this halt.
    #[track_caller]
    pub(crate) fn begin_up_to(&self, halt: &Halt) -> UnderWay {
        let under_way = self.begin(&["--binary", halt.binary().to_str().unwrap()]);
        halt.wait(under_way.successor);
        under_way
    }

    /// Completes the hand-over that is under way.
    #[track_caller]
    pub(crate) fn expect_upgraded(&mut self, mut under_way: UnderWay) -> Succession {
        let told = under_way.client.wait_exit();
        let succession = self.succeeded(&told);
        assert_eq!(self.reigns, under_way.successor);
        succession
    }

    /// Waits for the end of the hand-over, which may fail because of `why`.
    #[track_caller]
    pub(crate) fn expect_some_end(
        &mut self,
        mut under_way: UnderWay,
        why: &str,
    ) -> Option<Succession> {
        let told = under_way.client.wait_exit();
        if told.code == Some(0) {
            return Some(self.succeeded(&told));
        }
        let said = told.stderr.concat();
        assert!(said.contains(why), "{told:?}");
        None
    }

    /// Hands over to a new process.
    #[track_caller]
    pub(crate) fn upgrade(&mut self, args: &[&str]) -> Succession {
        let told = self.ask(args);
        self.succeeded(&told)
    }

    /// Does the same, with `hawk upgrade` in this folder.
    #[track_caller]
    pub(crate) fn upgrade_from(&mut self, folder: &Path, args: &[&str]) -> Succession {
        let script = format!("cd {}; exec \"$0\" \"$@\"", folder.display());
        let told = self.asking(args).under("sh", &["-c", &script]).run();
        self.succeeded(&told)
    }

    #[track_caller]
    fn succeeded(&mut self, told: &Exit) -> Succession {
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

    /// Waits until the serving process logs that it has handed over.
    #[track_caller]
    pub(crate) fn expect_successor(&mut self) {
        self.expect_successor_since(0);
    }

    /// Does the same in the log since `mark`.
    #[track_caller]
    pub(crate) fn expect_successor_since(&mut self, mark: usize) {
        let (line, _) = self
            .log()
            .wait_for(mark, |line| line.contains(" handed over to process "));
        self.succeed(process_in(&line));
    }

    /// Follows to the successor, and waits for the end of the predecessor.
    #[track_caller]
    pub(crate) fn succeed(&mut self, successor: Pid) {
        let before = std::mem::replace(&mut self.reigns, successor);
        self.expect_gone(before);
    }

    /// Follows to the successor; the predecessor may have ended.
    pub(crate) const fn reigned_by(&mut self, successor: Pid) {
        self.reigns = successor;
    }

    /// Waits for the end of the first process. Returns its exit code.
    #[track_caller]
    pub(crate) fn first_ends(&mut self) -> Option<i32> {
        self.first.wait_end()
    }

    /// Expects a refusal or a rollback.
    #[track_caller]
    pub(crate) fn expect_refusal(&self, args: &[&str], why: &str) {
        let told = self.ask(args);
        assert_eq!(told.code, Some(1), "{told:?}");
        let said = told.stderr.concat();
        assert!(said.contains(why), "{said}");
        self.connect().expect_alive();
    }

    /// Returns the present statistics.
    #[track_caller]
    pub(crate) fn stats(&self) -> Stats {
        let mark = self.log().count();
        kill_process(self.reigns, Signal::USR1).unwrap();
        Stats::wait_for(self.log(), mark)
    }

    /// Waits for the expected statistics, and returns them.
    #[track_caller]
    pub(crate) fn wait_until(&self, expected: impl Fn(&Stats) -> bool) -> Stats {
        let found = eventually(|| Some(self.stats()).filter(&expected));
        found.unwrap_or_else(|| panic!("it never came to that:\n{:#?}", self.stats()))
    }

    /// Sends from `agent`, which does not read, until the server holds some of its replies.
    /// Returns the number of all its replies.
    #[track_caller]
    pub(crate) fn back_up(&self, agent: &mut Agent) -> Vec<u8> {
        let (frames, replies) = mixture(70);
        let before = self.stats();
        let (mut sent, mut owed) = (before.get("bytes_in"), Vec::new());
        loop {
            agent.send(&frames);
            sent += frames.len() as u64;
            owed.extend_from_slice(&replies);
            let stats = self.wait_until(|stats| stats.get("bytes_in") == sent);
            if stats.get("unsent") > before.get("unsent") + 4096 {
                return owed;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.reigns, signal).unwrap();
    }

    /// Writes a shell script into the folder.
    pub(crate) fn script(&self, script: &str) -> String {
        self.script_of("sh", script)
    }

    /// Does the same for this shell.
    pub(crate) fn script_of(&self, shell: &str, script: &str) -> String {
        let path = self.folder().join("script");
        let script = format!("#!/usr/bin/env {shell}\n{script}\n");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Asserts that a failed hand-over has left no process, and no descriptor besides those of
    /// `before`.
    #[track_caller]
    pub(crate) fn expect_nothing_of_the_attempt(&self, before: &HashSet<usize>) {
        assert_eq!(self.family(), [self.pid()], "and no other process");
        let now = descriptors_of(self.pid());
        let more: Vec<_> = now.difference(before).collect();
        assert!(more.is_empty(), "{more:?}");
    }

    /// Returns all living processes of the server, found by their environment.
    pub(crate) fn family(&self) -> Vec<Pid> {
        let mark = format!("HAWK_CONTROL={}\0", self.control().display());
        let processes = std::fs::read_dir("/proc").unwrap();
        let numbers = processes.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let pids = numbers.filter_map(|name| Pid::from_raw(name.parse().ok()?));
        pids.filter(|pid| {
            let path = format!("/proc/{}/environ", pid.as_raw_nonzero());
            // The process may have ended.
            let environment = std::fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&mark)
        })
        .collect()
    }

    /// Waits for the end of all processes, and of the first with success.
    #[track_caller]
    pub(crate) fn expect_end_of_all(mut self) {
        let gone = eventually(|| self.family().is_empty().then_some(()));
        let told = || format!("{:?}\n{:#?}", self.family(), self.log().since(0));
        assert!(gone.is_some(), "{}", told());
        self.first.wait_stdout_end();
        self.reigns = self.first.pid();
        self.expect_gone(self.reigns);
    }

    /// Returns the inode of the listening socket.
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

    /// Stops the server with SIGTERM, and asserts that nothing is left.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        kill_process(self.reigns, Signal::TERM).unwrap();
        self.expect_gone(self.reigns);
        // No process has its pipes open.
        self.first.wait_stdout_end();
        self.reigns = self.first.pid();
    }

    #[track_caller]
    fn expect_gone(&mut self, pid: Pid) {
        if pid == self.first.pid() {
            let ended = self.first.wait_end();
            assert_eq!(ended, Some(0), "{:#?}", self.log().since(0));
        } else {
            assert!(
                has_ended_within(pid, PATIENCE),
                "process {pid:?} is still there"
            );
        }
    }
}

impl Drop for Dynasty {
    fn drop(&mut self) {
        // After a failure any of the processes may serve.
        for pid in self.family() {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// Returns the number after "process" in a line of the log.
#[track_caller]
pub(crate) fn process_in(line: &str) -> Pid {
    let number = line.split(" process ").nth(1).and_then(|rest| {
        let word = rest.split(' ').next();
        word?.parse().ok()
    });
    number
        .and_then(Pid::from_raw)
        .unwrap_or_else(|| panic!("no process in {line}"))
}
