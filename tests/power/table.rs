//! What is in the store on the disk of a guest that is off.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use rusqlite::{Connection, types::FromSql};
use tempfile::TempDir;

use super::load::Log;
use hawk_testkit::emulated::run;
use hawk_testkit::place::open;

/// A copy of the store.
pub(crate) struct Table {
    store: Connection,
    // Goes after the store is closed.
    _folder: TempDir,
}

impl Table {
    /// Takes the store off `disk`, which stays as it is: the file system's journal
    /// and the store's log are gone through in the copy. Fails if there is no
    /// store on it.
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

    /// The reports that were acknowledged and are not in it.
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

    /// Nothing is wrong with it, and nothing in it twice.
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
