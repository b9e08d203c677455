//! A store file in a folder of its own, the server on it and queries of its tables.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use hawk_wire::{AgentName, Encoding, Packet, Report, encode_packet};
use rusqlite::{Connection, OpenFlags, types::FromSql};
use tempfile::TempDir;

use crate::{Agent, Launch, PATIENCE, REPORT, Server, eventually};

/// A store file in a temporary folder. Each test has its own.
pub struct StoreFile {
    folder: TempDir,
}

impl StoreFile {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("faults"), "").unwrap();
        Self { folder }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn store(&self) -> PathBuf {
        self.folder().join("hawk.db")
    }

    /// `hawk serve` with its store here.
    pub fn launch(&self, args: &[&str]) -> Launch {
        let store = self.store();
        let path = store.to_str().unwrap();
        Launch::serve(&[&["--store", path], args].concat())
    }

    /// One of the commands that read, of the store here.
    pub fn read(&self, args: &[&str]) -> Launch {
        let store = self.store();
        Launch::hawk(&[args, &["--store", store.to_str().unwrap()]].concat())
    }

    #[track_caller]
    pub fn serve(&self, args: &[&str]) -> Server {
        self.launch(args).start()
    }

    /// As [`serve`](Self::serve), with injectable faults of the store's files.
    #[track_caller]
    pub fn serve_faulty(&self, args: &[&str]) -> Server {
        let control = self.folder().join("faults");
        self.launch(args)
            .env("LD_PRELOAD", shim().to_str().unwrap())
            .env("HAWK_FAULTS", control.to_str().unwrap())
            .start()
    }

    /// What is to go wrong from now on; see `shim.c`.
    pub fn fault(&self, words: &str) {
        // In one step: it is read at any time.
        let next = self.folder().join("faults.next");
        std::fs::write(&next, words).unwrap();
        std::fs::rename(next, self.folder().join("faults")).unwrap();
    }

    pub fn open(&self) -> Connection {
        open(&self.store())
    }

    /// The first column of all rows.
    #[track_caller]
    pub fn column<T: FromSql>(&self, query: &str) -> Vec<T> {
        column(&self.open(), query)
    }

    /// The contents of all reports, in the order of receipt.
    #[track_caller]
    pub fn contents(&self) -> Vec<String> {
        self.column("SELECT content FROM reports ORDER BY seq")
    }

    /// Nothing is wrong with the file.
    #[track_caller]
    pub fn expect_sound(&self) {
        assert_eq!(self.column::<String>("PRAGMA integrity_check"), ["ok"]);
    }
}

/// Opens a store for reading, as any other program would.
#[track_caller]
pub fn open(path: &Path) -> Connection {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection
}

#[track_caller]
pub fn column<T: FromSql>(connection: &Connection, query: &str) -> Vec<T> {
    let mut statement = connection.prepare(query).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// A report that no other is like.
pub fn report_of(agent: &str, rand: i64) -> Vec<u8> {
    let packet = Packet::Report(Report {
        content: format!("{agent} {rand}").into(),
        rand,
        timestamp: 1_475_249_220,
        agent: Some(AgentName::new(agent).unwrap()),
    });
    let mut frame = Vec::new();
    encode_packet(&packet, Encoding::Compact, &mut frame).unwrap();
    frame
}

/// Sends a report, and expects `busy: store unavailable`.
#[track_caller]
pub fn expect_busy(agent: &mut Agent, report: &[u8]) {
    agent.exchange(report, BUSY);
}

/// Sends a report repeatedly until it is taken, as agents do.
#[track_caller]
pub fn insist(agent: &mut Agent, report: &[u8]) {
    let taken = eventually(|| {
        agent.send(report);
        match agent.line().as_str() {
            REPORT => Some(()),
            BUSY => None,
            other => panic!("not an answer: {other}"),
        }
    });
    assert!(taken.is_some(), "it stays busy");
}

pub const BUSY: &str = "busy: store unavailable";

/// The library that makes files fail, built once.
pub fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let folder = crate::scratch_folder();
        let built = folder.join(format!("hawk-shim-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/shim.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&built, &source])
            .status()
            .expect("there is a C compiler, as Rust links with it");
        assert!(compiled.success());
        built
    })
}
