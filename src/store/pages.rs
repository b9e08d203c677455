//! The pages of the file.

use rusqlite::{Connection, Statement};

/// Counts pages, within a transaction as well.
pub(super) struct Pages<'c> {
    all: Statement<'c>,
    free: Statement<'c>,
}

impl<'c> Pages<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            all: connection.prepare("PRAGMA page_count")?,
            free: connection.prepare("PRAGMA freelist_count")?,
        })
    }

    /// Pages of the file.
    pub(super) fn all(&mut self) -> rusqlite::Result<i64> {
        self.all.query_row([], |row| row.get(0))
    }

    /// Pages that hold nothing and are used before the file grows.
    pub(super) fn free(&mut self) -> rusqlite::Result<i64> {
        self.free.query_row([], |row| row.get(0))
    }

    /// Pages that hold something.
    pub(super) fn in_use(&mut self) -> rusqlite::Result<i64> {
        Ok(self.all()? - self.free()?)
    }
}

/// Pages in use by everything but reports. The reports' own are not read: there may be
/// very many.
pub(super) fn besides_reports(connection: &Connection) -> rusqlite::Result<i64> {
    let mut trees = connection.prepare_cached(
        "SELECT 'sqlite_schema' UNION ALL
         SELECT name FROM sqlite_schema WHERE rootpage > 0 AND name <> 'reports'",
    )?;
    let mut pages = connection.prepare_cached("SELECT count(*) FROM dbstat WHERE name = ?1")?;
    let trees = trees.query_map([], |row| row.get::<_, String>(0))?;
    let mut sum = 0;
    for tree in trees {
        let count: i64 = pages.query_row([tree?], |row| row.get(0))?;
        sum += count;
    }
    Ok(sum)
}
