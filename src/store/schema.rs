//! The tables, and what it takes to use a file that may have others.
//!
//! `docs/store.md` tells users what each column means.

use rusqlite::Connection;

/// Marks a file as one of ours (`PRAGMA application_id`): "hawk" in ASCII.
pub const APPLICATION_ID: i32 = 0x6861_776b;

/// The version of the tables below (`PRAGMA user_version`).
pub const VERSION: i32 = 1;

/// What the file holds, and whether it can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Our tables, in the present version.
    Ready,
    /// Nothing yet.
    Empty,
    /// Our tables in an older version, which [`migrate`] brings up to date.
    Older(i32),
    /// Our tables in a version that only a newer program understands.
    Newer(i32),
    /// Some other program's database.
    Foreign,
}

/// Looks at the file behind `connection` without changing it.
///
/// # Errors
/// Whatever SQLite says, most often that the file is no database or is locked.
pub fn examine(connection: &Connection) -> rusqlite::Result<Fitness> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get(0));
    let application: i32 = number("application_id")?;
    let version: i32 = number("user_version")?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application, version) {
        (0, 0) if tables == 0 => Fitness::Empty,
        (APPLICATION_ID, VERSION) => Fitness::Ready,
        (APPLICATION_ID, older) if older < VERSION => Fitness::Older(older),
        (APPLICATION_ID, newer) => Fitness::Newer(newer),
        _ => Fitness::Foreign,
    })
}

/// Brings a file that [`examine`] found empty or older up to date, in one
/// transaction: whoever opens it sees the old tables or the new.
///
/// # Errors
/// Whatever SQLite says; the file is then as it was.
pub fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let version: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for step in STEPS
        .iter()
        .skip(usize::try_from(version).unwrap_or(usize::MAX))
    {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// What makes each version out of the one before; the first out of nothing.
/// A released step is never changed.
const STEPS: &[&str] = &[VERSION_1];

const VERSION_1: &str = "
CREATE TABLE reports (
    received_at INTEGER PRIMARY KEY,
    agent       INTEGER NOT NULL,
    peer        TEXT NOT NULL,
    content     TEXT NOT NULL,
    rand        INTEGER NOT NULL,
    timestamp   INTEGER NOT NULL
) STRICT;

-- AUTOINCREMENT: a number that reports refer to is never given to another.
CREATE TABLE agents (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT,
    address     TEXT NOT NULL,
    version     TEXT NOT NULL,
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('online', 'offline')),
    changed_at  INTEGER NOT NULL,
    heartbeats  INTEGER NOT NULL,
    reports     INTEGER NOT NULL,
    interval    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX agents_by_name ON agents (name) WHERE name IS NOT NULL;
CREATE UNIQUE INDEX agents_by_address ON agents (address) WHERE name IS NULL;

CREATE TABLE events (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    at    INTEGER NOT NULL,
    agent INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('online', 'offline'))
) STRICT;
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_step_to_every_version() {
        assert_eq!(i32::try_from(STEPS.len()), Ok(VERSION));
    }

    #[test]
    fn a_new_file_is_brought_up_to_date_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(examine(&connection), Ok(Fitness::Empty));
        migrate(&mut connection).unwrap();
        assert_eq!(examine(&connection), Ok(Fitness::Ready));
        migrate(&mut connection).unwrap();
        assert_eq!(examine(&connection), Ok(Fitness::Ready));
    }

    #[test]
    fn what_we_cannot_use_is_told_apart() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        assert_eq!(examine(&connection), Ok(Fitness::Foreign));
        let set = |pragma, value: i32| connection.pragma_update(None, pragma, value).unwrap();
        set("application_id", APPLICATION_ID);
        set("user_version", VERSION + 1);
        assert_eq!(examine(&connection), Ok(Fitness::Newer(VERSION + 1)));
        set("user_version", VERSION - 1);
        assert_eq!(examine(&connection), Ok(Fitness::Older(VERSION - 1)));
        set("application_id", 7);
        assert_eq!(examine(&connection), Ok(Fitness::Foreign));
    }
}
