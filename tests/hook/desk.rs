//! A folder in which commands write their events and wait.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

use hawk_testkit::*;

/// Appends the event to `$DESK/events`.
pub(crate) const NOTE: &str = "cat >> $DESK/events";

/// Appends the event to `$DESK/events`, and waits until it is [released](Desk::release).
pub(crate) const NOTE_AND_WAIT: &str = "cat >> $DESK/events; read -r token < $DESK/gate";

/// A folder that commands find as `$DESK`.
pub(crate) struct Desk {
    folder: TempDir,
    /// A named pipe. Open for reading and writing, so that opening it does not block: commands
    /// block when they read from it.
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

    /// Returns `hawk serve` with `command`. No agent goes offline, unless `args` say otherwise.
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

    /// Releases so many commands that wait at the gate, now or later.
    pub(crate) fn release(&self, number: usize) {
        // A shell reads byte by byte, so that each line is for one command.
        (&self.gate).write_all(&vec![b'\n'; number]).unwrap();
    }

    /// Returns the text of a file of commands.
    pub(crate) fn text(&self, name: &str) -> String {
        let written = fs::read(self.path(name)).unwrap_or_default();
        // A piece of a long text may end within a character.
        String::from_utf8_lossy(&written).into_owned()
    }

    /// Returns the events in order.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.text("events");
        let lines = text.split_inclusive('\n');
        let whole = lines.filter_map(|line| line.strip_suffix('\n'));
        let read = |line| serde_json::from_str(line).expect("one object a line");
        whole.map(read).collect()
    }

    /// Returns the agents and states of the events.
    #[track_caller]
    pub(crate) fn states(&self) -> Vec<String> {
        let events = self.events();
        let word = |event: &Value, key| event[key].as_str().unwrap().to_owned();
        let states = events
            .iter()
            .map(|event| word(event, "agent") + " " + &word(event, "state"));
        states.collect()
    }

    /// Waits for so many events, and returns them.
    #[track_caller]
    pub(crate) fn wait_for(&self, number: usize) -> Vec<Value> {
        let found = eventually(|| Some(self.events()).filter(|found| found.len() >= number));
        let found = found.unwrap_or_else(|| panic!("only these events: {:#?}", self.events()));
        assert_eq!(found.len(), number, "{found:#?}");
        found
    }
}

/// Returns an agent of this name that is online.
#[track_caller]
pub(crate) fn come(server: &Server, name: &str) -> Agent {
    let mut agent = server.connect();
    agent.exchange(&named_heartbeat(name), HEARTBEAT);
    agent
}

/// Returns so many agents of different names that are online.
#[track_caller]
pub(crate) fn come_all(server: &Server, number: usize) -> Vec<Agent> {
    let names = (0..number).map(|number| format!("agent-{number}"));
    names.map(|name| come(server, &name)).collect()
}

pub(crate) fn named_heartbeat(name: &str) -> Vec<u8> {
    heartbeat_packet(hawk_wire::Encoding::Classic, Some(name))
}

/// Returns the children of `parent`, zombies included.
pub(crate) fn children_of(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("Linux has it");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pids = pids.filter_map(Pid::from_raw);
    let parent = parent.as_raw_nonzero().get();
    pids.filter(|pid| state_and_parent(*pid).is_some_and(|(_, of)| of == parent))
        .collect()
}

/// Returns whether the process exists and is not a zombie.
pub(crate) fn is_running(pid: Pid) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

fn state_and_parent(pid: Pid) -> Option<(String, i32)> {
    let pid = pid.as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, and may contain parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Returns the successor, as `hawk upgrade` prints it.
#[track_caller]
pub(crate) fn successor_of(upgrade: &Exit) -> Pid {
    let text = upgrade.stdout.concat();
    let pid = text.split(' ').find_map(|field| field.strip_prefix("pid="));
    Pid::from_raw(pid.expect("it is printed").parse().unwrap()).unwrap()
}
