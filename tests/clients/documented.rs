//! docs/agents.md: the agent follows the rules, and the test vectors are right.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hawk_wire::{
    AgentName, Decoder, Encoding, Heartbeat, Input, Packet, PacketDecoder, Report, Step,
    encode_packet,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Conduct, Seen, Server};
use hawk_testkit::{eventually, skip};

const DOCUMENT: &str = include_str!("../../docs/agents.md");

/// Returns the first block of a language behind a heading.
fn block(heading: &str, language: &str) -> &'static str {
    let (_, behind) = DOCUMENT.split_once(heading).unwrap();
    let (_, block) = behind.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0
}

/// Returns the documented frames by title.
fn vectors() -> BTreeMap<&'static str, Vec<u8>> {
    let mut vectors = BTreeMap::new();
    for vector in block("## Test vectors", "text").split("# ").skip(1) {
        let (title, digits) = vector.split_once('\n').unwrap();
        let digits: String = digits.split_whitespace().collect();
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        let expected = format!(": {} bytes", bytes.len());
        vectors.insert(title.strip_suffix(&expected).unwrap(), bytes);
    }
    vectors
}

#[test]
fn the_test_vectors_are_what_is_encoded_and_decoded() {
    let agent = || Some(AgentName::new("web-01").unwrap());
    let packets = [
        (
            "heartbeat",
            Packet::Heartbeat(Heartbeat {
                version: "1.0".into(),
                timestamp: 1_475_249_220,
                agent: agent(),
                probe: false,
            }),
        ),
        (
            "report",
            Packet::Report(Report {
                content: "disk at 71 %".into(),
                rand: 3_413_719_555_719_190_332,
                timestamp: 1_475_249_220,
                agent: agent(),
            }),
        ),
    ];
    let vectors = vectors();
    assert_eq!(vectors.len(), 4);
    for (kind, packet) in packets {
        for (name, encoding) in [
            ("classic", Encoding::Classic),
            ("compact", Encoding::Compact),
        ] {
            let bytes = &vectors[format!("{kind}, {name}").as_str()];
            let mut frame = Vec::new();
            encode_packet(&packet, encoding, &mut frame).unwrap();
            assert_eq!(&frame, bytes, "{kind}, {name}");
            let Step::Frame(data) = Decoder::default().decode(bytes, Input::Open).step else {
                panic!("{kind}, {name} is no frame");
            };
            assert_eq!(PacketDecoder::default().decode(data).as_ref(), Ok(&packet));
        }
    }
}

/// The documented agent, with shorter intervals.
struct Example {
    process: Child,
    folder: tempfile::TempDir,
}

impl Example {
    /// Starts the agent. `None`: Python is missing.
    fn start(address: &str, depth: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let example = Self::start_in(folder, address, depth);
        if example.is_none() {
            skip("there is no python3");
        }
        example
    }

    fn start_in(folder: tempfile::TempDir, address: &str, depth: u32) -> Option<Self> {
        let mut source = block("## A complete agent", "python").to_owned();
        for (setting, short) in [
            ("HEARTBEAT_EVERY = 5.0 ", "HEARTBEAT_EVERY = 0.05 "),
            ("REPORT_EVERY = 10.0\n", "REPORT_EVERY = 0.1\n"),
            ("MOST_IN_FLIGHT = 1 ", &format!("MOST_IN_FLIGHT = {depth} ")),
        ] {
            assert!(source.contains(setting), "{setting}");
            source = source.replace(setting, short);
        }
        let file: PathBuf = folder.path().join("agent.py");
        std::fs::write(&file, source).unwrap();
        let process = Command::new("python3")
            .arg(&file)
            .arg(address)
            .arg(folder.path().join("spool.db"))
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self { process, folder })
    }

    fn stop(mut self) -> tempfile::TempDir {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let ended = eventually(|| self.process.try_wait().unwrap());
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Returns the rows of the agent's spool, and the highest id so far.
fn spool(folder: &tempfile::TempDir) -> (i64, i64) {
    let spool = rusqlite::Connection::open(folder.path().join("spool.db")).unwrap();
    let number = |query| spool.query_row(query, [], |row| row.get(0)).unwrap();
    (
        number("SELECT count(*) FROM spool"),
        number("SELECT max(seq) FROM sqlite_sequence"),
    )
}

#[test]
fn the_agent_reports_and_never_gives_an_id_twice() {
    for depth in [1, 8] {
        let server = Server::start(Conduct::Good);
        let Some(agent) = Example::start(&server.address(), depth) else {
            return;
        };
        let (mut beats, mut reports) = (0, 0);
        while beats < 5 || reports < 5 {
            match server.wait() {
                Seen::Heartbeat => beats += 1,
                Seen::Report { content, agent } => {
                    assert!(content.starts_with("load average "), "{content}");
                    assert!(agent.is_some());
                    reports += 1;
                }
                _ => {}
            }
        }
        let folder = agent.stop();
        let (left, given) = spool(&folder);
        assert_eq!(left, 0);
        assert!(given >= 5, "{given}");
        // Started again, with an empty spool.
        let agent = Example::start_in(folder, &server.address(), depth).unwrap();
        while !matches!(server.wait(), Seen::Report { .. }) {}
        let folder = agent.stop();
        assert!(spool(&folder).1 > given);
    }
}

#[test]
fn the_agent_waits_longer_each_time_while_the_store_is_unavailable() {
    // Heartbeats are answered, and every report is refused.
    let server = Server::start(Conduct::NoStore);
    let Some(agent) = Example::start(&server.address(), 4) else {
        return;
    };
    // If heartbeats reset the counter, a report would arrive twice a second.
    let until = std::time::Instant::now() + Duration::from_secs(8);
    let (mut connections, mut beats, mut reports) = (0, 0, 0);
    while std::time::Instant::now() < until {
        match server.wait() {
            Seen::Connection(_) => connections += 1,
            Seen::Heartbeat => beats += 1,
            Seen::Report { .. } => reports += 1,
            Seen::Parted => {}
        }
    }
    assert_eq!(connections, 1, "the connection stays");
    assert!(beats > 10, "{beats} heartbeats");
    // Four reports at once, with waits of up to 1, 2, 4 and 8 s: on average four rounds.
    assert!((1..=60).contains(&reports), "{reports} reports");
    let folder = agent.stop();
    assert!(spool(&folder).0 > 0, "they are kept");
}
