//! The store on the disk of a guest that is switched off.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use rusqlite::{Connection, types::FromSql};
use tempfile::TempDir;

use super::load::Log;
use hawk_testkit::emulated::run;
use hawk_testkit::store_file::open;

/// A copy of the store.
pub(crate) struct Table {
    store: Connection,
    // Removed after the store is closed.
    _folder: TempDir,
}

impl Table {
    /// Copies the store from `disk`, which stays unchanged: the file system's journal and
    /// the store's log are replayed in the copy. Fails if the disk has no store.
    pub(crate) fn take(disk: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let copy = folder.path().join("disk");
        run(Command::new("cp")
            .arg("--sparse=always")
            .args([disk, &copy]))?;
        run(Command::new("e2fsck")
            .args(["-y", "-E", "journal_only"])
            .arg(&copy))?;
        for name in ["hawk.db", "hawk.db-wal"] {
            run(Command::new("debugfs")
                .args(["-R", &format!("dump /{name} {name}"), "disk"])
                .current_dir(&folder))?;
        }
        let store = folder.path().join("hawk.db");
        anyhow::ensure!(store.exists(), "there is no store on the disk");
        Ok(Self {
            store: open(&store),
            _folder: folder,
        })
    }

    /// Returns acknowledged reports that are missing.
    pub(crate) fn lost(&self, log: &Log) -> anyhow::Result<Vec<String>> {
        let mut lost = Vec::new();
        for (name, record) in log.agents() {
            let query =
                format!("SELECT rand FROM reports JOIN agents ON id = agent WHERE name = '{name}'");
            let stored: HashSet<i64> = self.column(&query)?.into_iter().collect();
            let acknowledged = record.acknowledged.iter().cloned().flatten();
            let missing = acknowledged.filter(|rand| !stored.contains(rand));
            lost.extend(missing.map(|rand| format!("{name} {rand}")));
        }
        Ok(lost)
    }

    /// Asserts that the store is intact and has no report twice.
    #[track_caller]
    pub(crate) fn expect_sound(&self) {
        let texts = |query| self.column::<String>(query).unwrap();
        assert_eq!(texts("PRAGMA integrity_check"), ["ok"]);
        let twice = "SELECT content FROM reports GROUP BY content HAVING count(*) > 1";
        assert_eq!(texts(twice), [""; 0], "stored twice");
        let uneven = "SELECT name FROM agents JOIN (SELECT agent, count(*) AS rows FROM reports \
                      GROUP BY agent) ON agent = id WHERE rows <> reports";
        assert_eq!(texts(uneven), [""; 0], "counts that are not the table's");
    }

    fn column<T: FromSql>(&self, query: &str) -> anyhow::Result<Vec<T>> {
        let mut statement = self.store.prepare(query)?;
        let rows = statement.query_map([], |row| row.get(0))?;
        rows.collect::<Result<_, _>>().context("reading the store")
    }
}
