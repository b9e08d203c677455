//! The text of agents on a terminal and in a spreadsheet.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use hawk_wire::{AgentName, Encoding, Heartbeat, Packet, Report, encode_packet};

use hawk_testkit::store_file::*;
use hawk_testkit::*;

fn frame(packet: &Packet<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_packet(packet, Encoding::Classic, &mut frame).unwrap();
    frame
}

fn beat(agent: &str, version: &str) -> Vec<u8> {
    frame(&Packet::Heartbeat(Heartbeat {
        version: version.into(),
        timestamp: 1,
        agent: Some(AgentName::new(agent).unwrap()),
        probe: false,
    }))
}

fn say(agent: Option<&str>, content: &str) -> Vec<u8> {
    frame(&Packet::Report(Report {
        content: content.into(),
        rand: 1,
        timestamp: 1,
        agent: agent.map(|name| AgentName::new(name).unwrap()),
    }))
}

/// Returns the output of a command.
#[track_caller]
fn printed(store_file: &StoreFile, args: &[&str]) -> Vec<String> {
    let exit = store_file.read(args).run();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stdout
}

/// Waits until the agents of this many rows are in the store.
fn wait_for_agents(store_file: &StoreFile, count: usize) {
    let are_there = || {
        let agents = store_file.column::<i64>("SELECT id FROM agents");
        (agents.len() >= count).then_some(())
    };
    assert!(eventually(are_there).is_some(), "{count} agents");
}

/// Control and format characters, separators, and letters without a shape.
const HOSTILE: &str = "\x1b[2J\x1b]0;x\x07\r\t\u{9b}31m\u{202e}\u{2066}\u{200b}\u{200d}\u{ad}\u{2028}\u{2029}\u{feff}\u{3164}\u{e0041}";

fn is_hostile(character: char) -> bool {
    HOSTILE.contains(character) && !character.is_ascii_graphic() && character != '\n'
}

#[test]
fn text_has_no_character_that_a_terminal_interprets_or_hides() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--log-packets"]);
    let mut agent = server.connect();
    let name = "a\u{202e}\u{200b}b";
    agent.exchange(&beat(name, HOSTILE), HEARTBEAT);
    agent.exchange(&say(None, HOSTILE), REPORT);
    wait_for_agents(&store_file, 1);
    for command in ["agents", "events", "reports"] {
        let lines =
            eventually(|| Some(printed(&store_file, &[command])).filter(|lines| !lines.is_empty()));
        let lines = lines.expect("something");
        for line in &lines {
            assert!(!line.contains(is_hostile), "{command}: {line:?}");
        }
    }
    let listed = printed(&store_file, &["agents"])[1].clone();
    assert!(listed.starts_with("\"a\\u{202e}\\u{200b}b\" "), "{listed}");
    for line in server.log().since(0) {
        // The filler of Hangul is blank, and neither hidden nor interpreted.
        let line = line.replace('\u{3164}', "");
        assert!(!line.contains(is_hostile), "{line:?}");
    }
    // JSON has the text unchanged.
    let json = printed(&store_file, &["reports", "--json"])[0].clone();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["content"], HOSTILE);
    assert_eq!(json["agent"], name);
    assert_eq!(json["named"], true);
}

#[test]
fn a_column_is_cut_and_data_is_not() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let (name, version, content) = ("n".repeat(128), "v".repeat(100), "c".repeat(5000));
    let mut agent = server.connect();
    agent.exchange(&beat(&name, &version), HEARTBEAT);
    agent.exchange(&say(None, &content), REPORT);
    wait_for_agents(&store_file, 1);
    let row = &printed(&store_file, &["agents"])[1];
    let expected = format!("{}…  online  {}…  ", &name[..39], &version[..19]);
    assert!(row.starts_with(&expected), "{row}");
    let json = &printed(&store_file, &["agents", "--json"])[0];
    assert!(json.contains(&name) && json.contains(&version), "{json}");
    // In a pipe, a report is complete.
    for form in [
        &["reports"][..],
        &["reports", "--json"],
        &["reports", "--csv"],
    ] {
        assert!(
            printed(&store_file, form)
                .last()
                .unwrap()
                .contains(&content)
        );
    }
    let Some(lines) = on_a_terminal(&store_file, &["reports"]) else {
        return;
    };
    assert!(
        lines[0].ends_with(&format!("{}…", "c".repeat(198))),
        "{}",
        lines[0]
    );
    assert!(
        lines[0].contains(&format!("  {}…  ", &name[..39])),
        "{}",
        lines[0]
    );
}

#[test]
fn a_name_that_looks_like_an_address_or_a_number_is_quoted_and_found() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let names = ["127.0.0.1", "#1", "\"127.0.0.1\""];
    server
        .connect()
        .exchange(&say(None, "of the address"), REPORT);
    for name in names {
        let report = say(Some(name), &format!("of {name}"));
        server.connect().exchange(&report, REPORT);
    }
    wait_for_agents(&store_file, 4);
    let listed = printed(&store_file, &["agents"]);
    let listed: Vec<_> = listed[1..]
        .iter()
        .map(|line| line.split("  ").next().unwrap())
        .collect();
    for (shown, content) in [
        ("127.0.0.1", "of the address"),
        ("\"127.0.0.1\"", "of 127.0.0.1"),
        ("\"#1\"", "of #1"),
        ("\"\\\"127.0.0.1\\\"\"", "of \"127.0.0.1\""),
    ] {
        assert!(listed.contains(&shown), "{shown} in {listed:?}");
        let found = printed(&store_file, &["reports", "--json", "--agent", shown]);
        let [report] = &found[..] else {
            panic!("{shown}: {found:?}");
        };
        let report: serde_json::Value = serde_json::from_str(report).unwrap();
        assert_eq!(report["content"], content, "{shown}");
    }
    let number: i64 = store_file.column("SELECT id FROM agents WHERE name = '#1'")[0];
    let found = printed(&store_file, &["reports", "--agent", &format!("#{number}")]);
    assert!(
        found.len() == 1 && found[0].contains("\"of #1\""),
        "{found:?}"
    );
    // The error shows the quoted form.
    server
        .connect()
        .exchange(&say(Some("10.0.0.7"), "x"), REPORT);
    let exit = store_file.read(&["events", "--agent", "10.0.0.7"]).run();
    assert_eq!(exit.code, Some(1));
    let told = exit.stderr.last().unwrap();
    assert!(
        told.ends_with("the agent with that name is '\"10.0.0.7\"'"),
        "{told}"
    );
}

#[test]
fn cells_for_a_spreadsheet_are_no_formulas() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let contents = ["=1+1", "+1", "-1", "@A1", "\t=1", "load 1", "=a,\"b\""];
    let mut agent = server.connect();
    for content in contents {
        agent.exchange(&say(Some("=web()"), content), REPORT);
    }
    let cells = |options: &[&str]| {
        let csv = printed(&store_file, &[&["reports", "--csv"], options].concat()).join("\n");
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let headers = reader.headers().unwrap().clone();
        let column = |name: &str| headers.iter().position(|it| it == name).unwrap();
        let (agent, content) = (column("agent"), column("content"));
        let rows = reader.records().map(Result::unwrap);
        rows.map(|row| (row[agent].to_owned(), row[content].to_owned()))
            .collect::<Vec<_>>()
    };
    let plain = contents.map(|content| ("=web()".to_owned(), content.to_owned()));
    assert_eq!(cells(&[]), plain);
    let safe = contents.map(|content| {
        let mark = if content == "load 1" { "" } else { "'" };
        ("'=web()".to_owned(), format!("{mark}{content}"))
    });
    assert_eq!(cells(&["--csv-safe"]), safe);
    let exit = store_file.read(&["reports", "--csv-safe"]).run();
    assert_eq!(exit.code, Some(2), "only with --csv");
}

#[test]
fn an_address_has_one_form_everywhere() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--listen", "[::]:0", "--log-packets"]);
    let v4 = std::net::SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let mut agent = Agent::connect(v4);
    agent.exchange(&say(None, "x"), REPORT);
    agent.send(b"junk");
    let from = agent.local_addr();
    drop(agent);
    server.log().wait_for(0, |line| line.contains("junk: "));
    wait_for_agents(&store_file, 1);
    let peer = store_file.column::<String>("SELECT peer FROM reports");
    assert_eq!(peer, [from.to_string()]);
    for command in ["agents", "events", "reports"] {
        let lines = [
            printed(&store_file, &[command]),
            printed(&store_file, &[command, "--json"]),
        ]
        .concat();
        assert!(lines.iter().all(|line| !line.contains("ffff")), "{lines:?}");
    }
    assert_eq!(server.count_logged("ffff"), 0, "{}", server.log());
}

/// Returns the output of a command on a terminal; `None` without script(1).
fn on_a_terminal(store_file: &StoreFile, args: &[&str]) -> Option<Vec<String>> {
    let hawk = env!("CARGO_BIN_EXE_hawk");
    let store = store_file.store();
    let command = format!("{hawk} {} --store {}", args.join(" "), store.display());
    let output = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else {
        skip("there is no script(1)");
        return None;
    };
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    Some(
        text.lines()
            .map(|line| line.trim_end().to_owned())
            .collect(),
    )
}

#[test]
fn a_terminal_gets_the_last_20_and_a_pipe_all() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    for number in 1..=30 {
        agent.exchange(&report_of("web-01", number), REPORT);
    }
    assert_eq!(printed(&store_file, &["reports"]).len(), 30);
    let Some(lines) = on_a_terminal(&store_file, &["reports"]) else {
        return;
    };
    // Its stderr is the terminal, too.
    let (notes, rows): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with("hawk: "));
    assert_eq!(rows.len(), 20, "{lines:#?}");
    assert!(rows[0].contains(" rand=11 "), "{lines:#?}");
    let [note] = &notes[..] else {
        panic!("not one note: {lines:#?}");
    };
    assert!(note.contains("--last N or --since TIME"), "{note}");
    let count = |args: &[&str]| {
        let lines = on_a_terminal(&store_file, args).unwrap();
        assert!(
            !lines.iter().any(|line| line.starts_with("hawk: ")),
            "{args:?}: {lines:#?}"
        );
        lines.len()
    };
    assert_eq!(count(&["reports", "--json"]), 30);
    assert_eq!(count(&["reports", "--csv"]), 31);
    assert_eq!(count(&["reports", "--last", "25"]), 25);
    assert_eq!(count(&["reports", "--since", "1h"]), 30);
}

#[test]
fn a_follower_ends_when_its_reader_has_ended() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    agent.exchange(&beat("web-01", "1"), HEARTBEAT);
    agent.exchange(&say(None, "x"), REPORT);
    let event = "SELECT count(*) FROM events";
    let is_there = || (store_file.column::<i64>(event) == [1]).then_some(());
    assert!(eventually(is_there).is_some());
    for args in [&["reports"][..], &["reports", "--json"], &["events"]] {
        let mut follower = Command::new(env!("CARGO_BIN_EXE_hawk"))
            .args(args)
            .arg("--follow")
            .arg("--store")
            .arg(store_file.store())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = BufReader::new(follower.stdout.take().unwrap());
        pipe.read_line(&mut String::new()).unwrap();
        drop(pipe);
        let ended = eventually(|| follower.try_wait().unwrap());
        follower.kill().ok();
        assert!(
            ended.is_some_and(|status| status.success()),
            "{args:?}: {ended:?}"
        );
    }
}

#[test]
fn ping_can_check_the_store_and_stores_nothing() {
    let store_file = StoreFile::new();
    let server = store_file.serve_faulty(&[]);
    let ping = || Launch::hawk(&["ping", &server.address.to_string(), "--report"]).run();
    let commits = server.stats().store("commits");
    let exit = ping();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(
        exit.stdout[0].starts_with("Report data has recive from "),
        "{exit:?}"
    );
    assert!(server.stats().store("commits") > commits);
    store_file.fault("sync=5");
    let exit = ping();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(
        exit.stderr[0].contains("busy: store unavailable"),
        "{exit:?}"
    );
    store_file.fault("");
    assert!(eventually(|| (ping().code == Some(0)).then_some(())).is_some());
    for table in ["reports", "agents", "events"] {
        assert_eq!(
            store_file.column::<i64>(&format!("SELECT count(*) FROM {table}")),
            [0]
        );
    }
    // Without a store.
    let server = Server::start(&[]);
    let exit = Launch::hawk(&["ping", "--report", &server.address.to_string()]).run();
    assert_eq!(exit.code, Some(0), "{exit:?}");
}
