//! The queries in `docs/store.md` run unchanged.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use rusqlite::Connection;
use rustix::process::Signal;

use hawk_testkit::store_file::*;
use hawk_testkit::*;

const DOCUMENT: &str = include_str!("../../docs/store.md");

/// Returns the code blocks of a language, such as `sql`.
fn blocks(language: &str) -> Vec<&'static str> {
    let parts = DOCUMENT.split("\n```");
    let wanted = parts.filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n'));
    wanted.collect()
}

fn rows(store: &Connection, query: &str) -> usize {
    let mut statement = store
        .prepare(query)
        .unwrap_or_else(|error| panic!("{error}:\n{query}"));
    let mut rows = statement.query([]).unwrap();
    let mut count = 0;
    while rows.next().unwrap().is_some() {
        count += 1;
    }
    count
}

#[test]
fn every_documented_query_returns_the_documented_rows() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--offline-after", "300ms", "--start-grace", "1ms"]);
    let mut agent = server.connect();
    for rand in [1, 2, 2] {
        agent.exchange(&report_of("web-01", rand), REPORT);
    }
    let offline = "SELECT 1 FROM agents WHERE state = 'offline'";
    let found = eventually(|| (rows(&store_file.open(), offline) == 1).then_some(()));
    assert!(found.is_some());
    server.signal(Signal::TERM);
    server.wait_exit();
    // The other agent stays online during the test.
    let server = store_file.serve(&["--offline-after", "1h", "--start-grace", "1h"]);
    server.connect().exchange(&report_of("web-02", 1), REPORT);
    let queries = blocks("sql");
    // Reports of the last hour: three of web-01, and each report once.
    let expected: &[(&str, usize)] = &[
        ("r.content", 1),
        ("name = 'web-01'", 3),
        ("AS minute", 1),
        ("silent_s", 1),
        ("AS times", 1),
        ("ahead_s", 2),
        ("GROUP BY agent, rand, timestamp", 3),
    ];
    assert_eq!(queries.len(), expected.len(), "{queries:#?}");
    for (query, (words, count)) in queries.iter().zip(expected) {
        assert!(query.contains(words), "{query}");
        let found = rows(&store_file.open(), query);
        let minutes = query.contains("AS minute") && found == 2;
        assert!(found == *count || minutes, "{found} rows of:\n{query}");
    }
}

#[test]
fn documented_columns_are_those_of_the_tables() {
    let store_file = StoreFile::new();
    drop(store_file.serve(&[]));
    for table in ["reports", "agents", "events", "times", "store"] {
        let (_, text) = DOCUMENT.split_once(&format!("\n**`{table}`**")).unwrap();
        let (_, text) = text.split_once("|---|---|---|\n").unwrap();
        let (text, _) = text.split_once("\n\n").unwrap();
        let first_cells = text.lines().filter_map(|line| line.split('|').nth(1));
        let documented: Vec<String> = first_cells
            .flat_map(|cell| cell.split(','))
            .map(|name| name.trim().trim_matches('`').to_owned())
            .collect();
        let query = format!("SELECT name FROM pragma_table_info('{table}')");
        assert_eq!(documented, store_file.column::<String>(&query), "{table}");
    }
}

#[test]
fn the_documented_application_id_is_right() {
    let store_file = StoreFile::new();
    drop(store_file.serve(&[]));
    let id: i64 = store_file.column("PRAGMA application_id")[0];
    let documented = format!("`PRAGMA application_id` is {id},");
    assert!(DOCUMENT.contains(&documented), "{documented}");
}

/// Runs a documented command in the folder of the store, with Python's SQLite for the shell
/// of SQLite, which may be missing.
#[track_caller]
fn run_documented(store_file: &StoreFile, command: &str) {
    let tools = store_file.folder().join("tools");
    std::fs::create_dir_all(&tools).unwrap();
    let stand_in = tools.join("sqlite3");
    let script = "#!/bin/sh\nexec python3 -c 'import sqlite3, sys\n\
                  sqlite3.connect(sys.argv[1]).execute(sys.argv[2])' \"$@\"\n";
    std::fs::write(&stand_in, script).unwrap();
    std::fs::set_permissions(&stand_in, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-ec", command])
        .current_dir(store_file.folder())
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
}

#[test]
fn a_backup_is_a_store_on_the_second_night_too() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("there is no python3");
    }
    let backup = blocks("sh")
        .into_iter()
        .find(|block| block.contains("VACUUM INTO"))
        .unwrap();
    let restore = blocks("sh")
        .into_iter()
        .find(|block| block.contains("install "))
        .unwrap();
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    agent.exchange(&report("first night"), REPORT);
    run_documented(&store_file, backup);
    agent.exchange(&report("second night"), REPORT);
    // The backup was interrupted.
    std::fs::write(store_file.folder().join("backup.db.new"), "half").unwrap();
    run_documented(&store_file, backup);
    agent.exchange(&report("after the backup"), REPORT);
    drop(agent);
    server.signal(Signal::TERM);
    server.wait_exit();
    // This machine has no user hawk.
    run_documented(&store_file, &restore.replace("-o hawk -g hawk ", ""));
    for file in ["backup.db", "hawk.db"] {
        let mode = std::fs::metadata(store_file.folder().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o600, "{file}");
    }
    let server = store_file.serve(&[]);
    server.connect().exchange(&report("again"), REPORT);
    let mut contents = store_file.column::<String>("SELECT content FROM reports");
    contents.sort();
    assert_eq!(contents, ["again", "first night", "second night"]);
}
