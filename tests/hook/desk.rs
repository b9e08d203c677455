//! Where commands leave what they were told, and where they wait.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

use hawk_testkit::*;

/// Leaves the event on the desk.
pub(crate) const NOTE: &str = "cat >> $DESK/events";

/// Leaves the event on the desk, and waits there until it is [let
/// go](Desk::let_go).
pub(crate) const NOTE_AND_WAIT: &str = "cat >> $DESK/events; read -r token < $DESK/gate";

/// A folder that commands find as `$DESK`.
pub(crate) struct Desk {
    folder: TempDir,
    /// A pipe with a name. Open for both, so that nobody waits for it to be
    /// opened: commands wait for what is in it.
    gate: File,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let gate = open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let gate = gate.into();
        Self { folder, gate }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `hawk serve` that runs `command`. Nobody goes offline, unless `args` have it
    /// otherwise.
    pub(crate) fn launch(&self, command: &str, args: &[&str]) -> Launch {
        let mut all = vec!["--on-event", command];
        if !args.contains(&"--offline-after") {
            all.extend(["--offline-after", "1h"]);
        }
        all.extend(args);
        Launch::serve(&all).env("DESK", self.folder.path().to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn serve(&self, command: &str, args: &[&str]) -> Server {
        self.launch(command, args).start()
    }

    /// Lets so many of those go that wait at the gate, now or later.
    pub(crate) fn let_go(&self, number: usize) {
        // A shell reads byte by byte, so that each line is for one of them.
        (&self.gate).write_all(&vec![b'\n'; number]).unwrap();
    }

    /// A file that commands have written, as it is by now.
    pub(crate) fn text(&self, name: &str) -> String {
        let written = fs::read(self.path(name)).unwrap_or_default();
        // A long text is written in pieces, which may end within a character.
        String::from_utf8_lossy(&written).into_owned()
    }

    /// The events on the desk, in their order.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.text("events");
        let lines = text.split_inclusive('\n');
        let whole = lines.filter_map(|line| line.strip_suffix('\n'));
        let read = |line| serde_json::from_str(line).expect("one object a line");
        whole.map(read).collect()
    }

    /// Of whom and what they tell.
    #[track_caller]
    pub(crate) fn told(&self) -> Vec<String> {
        let events = self.events();
        let word = |event: &Value, key| event[key].as_str().unwrap().to_owned();
        let told = events
            .iter()
            .map(|event| word(event, "agent") + " " + &word(event, "state"));
        told.collect()
    }

    /// Waits until the desk has so many events, and returns them.
    #[track_caller]
    pub(crate) fn wait_for(&self, number: usize) -> Vec<Value> {
        let found = eventually(|| Some(self.events()).filter(|found| found.len() >= number));
        let found = found.unwrap_or_else(|| panic!("only these came: {:#?}", self.events()));
        assert_eq!(found.len(), number, "{found:#?}");
        found
    }
}

/// An agent of that name that has come online.
#[track_caller]
pub(crate) fn come(server: &Server, name: &str) -> Agent {
    let mut agent = server.connect();
    agent.exchange(&named_heartbeat(name), HEARTBEAT);
    agent
}

/// As many agents as that, of different names.
#[track_caller]
pub(crate) fn come_all(server: &Server, number: usize) -> Vec<Agent> {
    let names = (0..number).map(|number| format!("agent-{number}"));
    names.map(|name| come(server, &name)).collect()
}

pub(crate) fn named_heartbeat(name: &str) -> Vec<u8> {
    heartbeat_packet(hawk_wire::Encoding::Classic, Some(name))
}

/// The processes that `parent` has started and that are not gone, those that have
/// ended and were not waited for included.
pub(crate) fn children_of(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("Linux has it");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pids = pids.filter_map(Pid::from_raw);
    let parent = parent.as_raw_nonzero().get();
    pids.filter(|pid| state_and_parent(*pid).is_some_and(|(_, of)| of == parent))
        .collect()
}

/// Whether the process runs: it is neither gone nor ended.
pub(crate) fn is_running(pid: Pid) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

fn state_and_parent(pid: Pid) -> Option<(String, i32)> {
    let pid = pid.as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name, in parentheses, and may have some of its own.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// The process that has taken over, as `hawk upgrade` prints it.
#[track_caller]
pub(crate) fn successor_of(upgrade: &Exit) -> Pid {
    let text = upgrade.stdout.concat();
    let pid = text.split(' ').find_map(|field| field.strip_prefix("pid="));
    Pid::from_raw(pid.expect("it is printed").parse().unwrap()).unwrap()
}
