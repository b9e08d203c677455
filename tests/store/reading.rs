//! `hawk agents`, `hawk events` and `hawk reports`: their output.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use hawk::store::schema;
use rusqlite::Connection;
use rustix::process::Signal;

use hawk_testkit::store_file::*;
use hawk_testkit::*;

/// Checks that the command succeeds and prints only its result.
#[track_caller]
fn shown(launch: Launch) -> Vec<String> {
    let exit = launch.run();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stderr.is_empty(), "{exit:?}");
    exit.stdout
}

/// Checks that the command fails with all of `words` in one line.
#[track_caller]
fn refused(launch: Launch, words: &[&str]) {
    let exit = launch.run();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stdout.is_empty(), "{exit:?}");
    let [line] = exit.stderr.as_slice() else {
        panic!("not one line: {exit:?}");
    };
    for word in words {
        assert!(line.contains(word), "no {word:?} in: {line}");
    }
}

/// Returns a store with known times, written without a server.
fn known(store_file: &StoreFile) -> Connection {
    let mut store = Connection::open(store_file.store()).unwrap();
    schema::migrate(&mut store).unwrap();
    store
        .execute_batch(
            "INSERT INTO agents (id, name, address, version, first_seen, last_seen, state,
                changed_at, heartbeats, reports, interval) VALUES
                (1, 'web-02', '10.0.0.7', '1.0', 1475249220000000000, 1475249221500000000,
                 'offline', 1475249231500000000, 5, 2, 30000000000),
                (2, NULL, '::1', '', 1475249220000000000, 1475249225000000000,
                 'online', 1475249220000000000, 0, 1, 0),
                (4, 'a \u{202e}b', '10.0.0.9', '2', 1475249220000000000, 1475249225000000000,
                 'online', 1475249220000000000, 1, 0, 0);
             UPDATE store SET first_timed = 1475249221500000000;
             INSERT INTO reports VALUES
                (1475249220000000001, 1, '10.0.0.7:4711', 'load 0.5', 7, 1475249220, NULL, NULL),
                (1475249220000000002, 2, '[::1]:4712', 'a \"b\", c' || char(10, 27), -7, 0,
                 NULL, NULL),
                (1475249221500000000, 1, '10.0.0.7:4711', '', 8, 1475249221,
                 1475249221500000000, 1499999999),
                (1475249221500000001, 3, '10.0.0.8:1', 'of a removed agent', 9, 1,
                 1475249222000000000, NULL);
             INSERT INTO events (at, agent, state) VALUES
                (1475249220000000000, 1, 'online'),
                (1475249220000000001, 2, 'online'),
                (1475249220000000002, 3, 'online');
             INSERT INTO events (at, agent, state, name, address, version, last_seen) VALUES
                (1475249231500000000, 1, 'offline', 'web-02', '10.0.0.6', '0.9',
                 1475249221500000000),
                (1475249231600000000, 5, 'offline', NULL, '10.0.0.10', '', 1475249221500000000);",
        )
        .unwrap();
    store
}

#[test]
fn agents_are_a_table_or_lines_of_json() {
    let store_file = StoreFile::new();
    let store = known(&store_file);
    let table = store_file.read(&["agents"]).run().stdout;
    let [head, address, hostile, name] = &table[..] else {
        panic!("{table:#?}");
    };
    let head = cells(head).join("|");
    assert_eq!(head, "AGENT|STATE|VERSION|LAST SEEN|AGO|REPORTS|ADDRESS");
    let [agent, state, version, last_seen, ago, reports, at] = cells(address)[..] else {
        panic!("{table:#?}");
    };
    assert_eq!((agent, state, version), ("::1", "unwatched", "-"));
    assert_eq!(
        (last_seen, reports, at),
        ("2016-09-30T15:27:05Z", "1", "::1")
    );
    assert!(ago.contains("year"), "{ago}");
    assert_eq!(cells(hostile)[0], "\"a \\u{202e}b\"");
    assert_eq!(cells(name)[..3], ["web-02", "offline", "1.0"]);

    let json = store_file
        .read(&["agents", "--json", "--offline"])
        .run()
        .stdout;
    let expected = "{\"id\":1,\"agent\":\"web-02\",\"named\":true,\"address\":\"10.0.0.7\",\
                    \"version\":\"1.0\",\"state\":\"offline\",\
                    \"changed_at\":\"2016-09-30T15:27:11.500000000Z\",\
                    \"first_seen\":\"2016-09-30T15:27:00.000000000Z\",\
                    \"last_seen\":\"2016-09-30T15:27:01.500000000Z\",\
                    \"heartbeats\":5,\"reports\":2,\"interval_ms\":30000,\"report_interval_ms\":0,\"cloned\":false}";
    assert_eq!(json, [expected]);
    drop(store);
}

/// Returns the cells of a line of a table.
fn cells(line: &str) -> Vec<&str> {
    let cells = line.split("  ").map(str::trim);
    cells.filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn reports_are_lines_of_text_of_json_or_of_csv() {
    let store_file = StoreFile::new();
    let _store = known(&store_file);
    let read = |args: &[&str]| store_file.read(&[&["reports"], args].concat()).run().stdout;
    let text = [
        "2016-09-30T15:27:00.000000001Z  web-02  10.0.0.7:4711  rand=7 timestamp=1475249220  \"load 0.5\"",
        "2016-09-30T15:27:00.000000002Z  ::1  [::1]:4712  rand=-7 timestamp=0  \"a \\\"b\\\", c\\n\\u{1b}\"",
        "2016-09-30T15:27:01.500000000Z  web-02  10.0.0.7:4711  rand=8 timestamp=1475249221  \"\"",
        "2016-09-30T15:27:02.000000000Z  #3  10.0.0.8:1  rand=9 timestamp=1  \"of a removed agent\"",
    ];
    assert_eq!(read(&[]), text);
    assert_eq!(read(&["--agent", "web-02"]), [text[0], text[2]]);
    assert_eq!(read(&["--agent", "0:0::1"]), [text[1]]);
    assert_eq!(read(&["--agent", "#3"]), [text[3]]);
    assert_eq!(read(&["--last", "2"]), text[2..]);
    assert_eq!(read(&["--last", "1", "--agent", "web-02"]), [text[2]]);
    assert_eq!(read(&["--last", "0"]), [""; 0]);
    assert_eq!(read(&["--since", "2016-09-30T15:27:01Z"]), text[2..]);
    assert_eq!(read(&["--since", "10m"]), [""; 0]);
    let since = ["--since", "2016-09-30T15:27:00.000000002Z"];
    assert_eq!(read(&[&since[..], &["--last", "9"]].concat()), text[1..]);
    let until = ["--until", "2016-09-30T15:27:02Z"];
    assert_eq!(read(&until), text[..3]);
    assert_eq!(read(&[since, until].concat()), text[1..3]);
    assert_eq!(read(&[&until[..], &["--last", "1"]].concat()), [text[2]]);

    let json = "{\"received_at\":\"2016-09-30T15:27:00.000000002Z\",\"agent\":\"::1\",\
                \"peer\":\"[::1]:4712\",\"content\":\"a \\\"b\\\", c\\n\\u001b\",\
                \"rand\":-7,\"timestamp\":0,\"seq\":\"1475249220000000002\",\"named\":false}";
    assert_eq!(read(&["--json", "--agent", "::1"]), [json]);
    let csv = [
        "received_at,agent,peer,content,rand,timestamp,seq,named",
        "2016-09-30T15:27:00.000000002Z,::1,[::1]:4712,\"a \"\"b\"\", c",
        "\u{1b}\",-7,0,1475249220000000002,false",
    ];
    assert_eq!(read(&["--csv", "--agent", "::1"]), csv);
}

#[test]
fn events_are_lines_of_text_or_of_json() {
    let store_file = StoreFile::new();
    let _store = known(&store_file);
    let read = |args: &[&str]| store_file.read(&[&["events"], args].concat()).run().stdout;
    let text = [
        "2016-09-30T15:27:00.000000000Z  online   web-02  10.0.0.7",
        "2016-09-30T15:27:00.000000001Z  online   ::1  ::1",
        "2016-09-30T15:27:00.000000002Z  online   #3  -",
        "2016-09-30T15:27:11.500000000Z  offline  web-02  10.0.0.6",
        "2016-09-30T15:27:11.600000000Z  offline  10.0.0.10  10.0.0.10",
    ];
    assert_eq!(read(&[]), text);
    assert_eq!(read(&["--agent", "web-02"]), [text[0], text[3]]);
    assert_eq!(read(&["--since", "2016-09-30 15:27:01"]), text[3..]);
    assert_eq!(read(&["--until", "2016-09-30 15:27:01"]), text[..3]);
    assert_eq!(read(&["--since", "2016-09-30 15:27:12"]), [""; 0]);
    let json = [
        "{\"id\":3,\"at\":\"2016-09-30T15:27:00.000000002Z\",\"agent\":\"#3\",\"named\":false,\
          \"address\":null,\"version\":null,\"state\":\"online\",\"seq\":\"3\"}",
        "{\"id\":4,\"at\":\"2016-09-30T15:27:11.500000000Z\",\"agent\":\"web-02\",\"named\":true,\
          \"address\":\"10.0.0.6\",\"version\":\"0.9\",\"state\":\"offline\",\"seq\":\"4\"}",
        "{\"id\":5,\"at\":\"2016-09-30T15:27:11.600000000Z\",\"agent\":\"10.0.0.10\",\"named\":false,\
          \"address\":\"10.0.0.10\",\"version\":\"\",\"state\":\"offline\",\"seq\":\"5\"}",
    ];
    assert_eq!(read(&["--json", "--last", "3"]), json);
}

#[test]
fn a_note_says_when_no_server_is_writing() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    agent.exchange(&heartbeat(), HEARTBEAT);
    agent.exchange(&report("hello"), REPORT);
    drop(agent);
    for command in ["agents", "reports"] {
        assert!(!shown(store_file.read(&[command])).is_empty());
    }
    server.signal(Signal::TERM);
    server.wait_exit();
    for command in ["agents", "events", "reports"] {
        let exit = store_file.read(&[command]).run();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        assert!(!exit.stdout.is_empty(), "{exit:?}");
        let [note] = &exit.stderr[..] else {
            panic!("not one note: {exit:?}");
        };
        assert!(note.contains("no server is writing it"), "{note}");
    }
    // Also after a kill, with reports in the log.
    let server = store_file.serve(&[]);
    server.connect().exchange(&report("again"), REPORT);
    server.signal(Signal::KILL);
    server.wait_exit();
    assert_eq!(store_file.read(&["reports"]).run().stdout.len(), 2);
}

#[test]
fn an_unreadable_store_is_refused_in_one_line() {
    let store_file = StoreFile::new();
    refused(store_file.read(&["agents"]), &["hawk.db", "hawk serve"]);
    refused(
        Launch::hawk(&["events", "--store", "/nowhere/hawk.db"]),
        &["there is no folder /nowhere"],
    );
    refused(
        Launch::hawk(&["reports", "--store", "none"]),
        &["none", "--store PATH"],
    );
    refused(
        Launch::hawk(&["reports", "--store", "/"]),
        &["/ is no regular file", "another --store"],
    );
    fs::write(store_file.store(), "").unwrap();
    refused(store_file.read(&["agents"]), &["empty", "hawk serve"]);
    fs::write(
        store_file.store(),
        "something else altogether, and quite long",
    )
    .unwrap();
    refused(
        store_file.read(&["agents"]),
        &["not a database (give another --store, or move this file away)"],
    );
    fs::remove_file(store_file.store()).unwrap();
    let other = Connection::open(store_file.store()).unwrap();
    other.execute_batch("CREATE TABLE t (x)").unwrap();
    refused(store_file.read(&["agents"]), &["another program"]);
    other.execute_batch("DROP TABLE t").unwrap();
    drop(other);
    fs::remove_file(store_file.store()).unwrap();
    let store = known(&store_file);
    let exit = store_file.read(&["reports", "--agent", "x\ny"]).run();
    let last = exit.stderr.last().unwrap();
    assert!(last.contains("no agent \"x\\ny\""), "{exit:?}");
    let newer = schema::VERSION + 1;
    store.pragma_update(None, "user_version", newer).unwrap();
    refused(store_file.read(&["agents"]), &["version 3", "newer hawk"]);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let store_file = StoreFile::new();
    let store = known(&store_file);
    // More than a pipe holds.
    store
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
             INSERT INTO reports SELECT i, 1, 'peer', 'some text', i, i, i, NULL FROM n",
        )
        .unwrap();
    let mut reader = Command::new(env!("CARGO_BIN_EXE_hawk"))
        .args(["reports", "--json", "--store"])
        .arg(store_file.store())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut pipe = BufReader::new(reader.stdout.take().unwrap());
    pipe.read_line(&mut line).unwrap();
    assert!(line.contains("\"rand\":1,"), "{line}");
    drop(pipe);
    let output = reader.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said.lines().count(), 1, "the note alone: {said}");
}
