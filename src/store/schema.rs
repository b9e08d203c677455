//! The tables, their migration, and the check of a file that may have others.
//!
//! `docs/store.md` describes each column.

use std::path::Path;
use std::sync::OnceLock;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Row};

use super::OpenError;

/// Marks a file as a store (`PRAGMA application_id`): "hawk" in ASCII.
pub const APPLICATION_ID: i32 = 0x6861_776b;

/// The version of the tables below (`PRAGMA user_version`).
pub const VERSION: i32 = 2;

/// Whether a file can be used as a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// It has the tables of this version.
    Ready,
    /// It is empty.
    Empty,
    /// It has the tables of an older version, which [`migrate`] changes to this one.
    Older(i32),
    /// It has the tables of a newer version.
    Newer(i32),
    /// It is another program's database.
    Foreign,
}

impl Fitness {
    /// Returns the error for a file that this program must not use.
    pub(super) fn refusal(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::Newer(found) => OpenError::Newer {
                path,
                found,
                known: VERSION,
            },
            _ => OpenError::Foreign(path),
        }
    }
}

/// Examines the file of `connection` without changing it.
///
/// # Errors
/// The error of SQLite, most often that the file is no database or is locked.
pub fn examine(connection: &Connection) -> rusqlite::Result<Fitness> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get(0));
    let application: i32 = number("application_id")?;
    let version: i32 = number("user_version")?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application, version) {
        (0, 0) if tables == 0 => Fitness::Empty,
        (APPLICATION_ID, VERSION) => Fitness::Ready,
        (APPLICATION_ID, older @ 0..VERSION) => Fitness::Older(older),
        (APPLICATION_ID, newer) if newer > VERSION => Fitness::Newer(newer),
        _ => Fitness::Foreign,
    })
}

/// Returns the first object by which the file's schema differs from that of `version`, in words;
/// `None` if there is none.
///
/// A changed table, a trigger, an index with an expression or a CHECK could run code of the
/// file's author without end. Ordinary tables under other names are allowed: this program does
/// not read them.
///
/// # Errors
/// The error of SQLite, most often that the schema is damaged.
pub fn difference(connection: &Connection, version: i32) -> rusqlite::Result<Option<String>> {
    let expected = expected(version)?;
    let mut left: Vec<&Object> = expected.iter().collect();
    for found in objects(connection)? {
        let place = left
            .iter()
            .position(|object| (&object.kind, &object.name) == (&found.kind, &found.name));
        match place.map(|place| left.swap_remove(place)) {
            Some(object) if object.text == found.text => {}
            Some(_) => return Ok(Some(format!("another {}", found.in_words()))),
            None if found.is_harmless() => {}
            None => return Ok(Some(format!("the {}", found.in_words()))),
        }
    }
    Ok(left
        .first()
        .map(|object| format!("no {}", object.in_words())))
}

/// An entry of the schema.
#[derive(Debug)]
struct Object {
    kind: String,
    name: String,
    /// Its CREATE statement without blanks and quotation marks, which ALTER TABLE may change.
    text: String,
}

impl Object {
    /// Returns its kind and name for a message. The name may be any text.
    fn in_words(&self) -> String {
        let name: String = self.name.chars().take(64).collect();
        let kind = match self.kind.as_str() {
            "table" if self.text.starts_with("CREATEVIRTUAL") => "virtual table",
            kind @ ("table" | "index" | "trigger" | "view") => kind,
            _ => "entry",
        };
        format!("{kind} {name:?}")
    }

    /// Whether it is an ordinary table of an operator, or the index that SQLite creates for
    /// one.
    fn is_harmless(&self) -> bool {
        match self.kind.as_str() {
            "table" => self.text.starts_with("CREATETABLE"),
            "index" => self.text.is_empty() && self.name.starts_with("sqlite_autoindex_"),
            _ => false,
        }
    }
}

/// Returns all entries of the schema.
fn objects(connection: &Connection) -> rusqlite::Result<Vec<Object>> {
    let mut objects = connection.prepare("SELECT type, name, sql FROM sqlite_schema")?;
    let read = |row: &Row<'_>| {
        let sql: Option<String> = row.get(2)?;
        Ok(Object {
            kind: row.get(0)?,
            name: row.get(1)?,
            text: sql
                .unwrap_or_default()
                .replace(|char: char| char.is_whitespace() || char == '"', ""),
        })
    };
    objects.query_map([], read)?.collect()
}

/// Returns the schema of a version, made by the same steps in memory.
fn expected(version: i32) -> rusqlite::Result<&'static [Object]> {
    static EXPECTED: [OnceLock<Vec<Object>>; STEPS.len() + 1] =
        [const { OnceLock::new() }; STEPS.len() + 1];
    let Some(expected) = usize::try_from(version)
        .ok()
        .and_then(|at| EXPECTED.get(at))
    else {
        return Ok(&[]);
    };
    if let Some(made) = expected.get() {
        return Ok(made);
    }
    let mut connection = Connection::open_in_memory()?;
    run_steps(&mut connection, version)?;
    let made = objects(&connection)?;
    Ok(expected.get_or_init(|| made))
}

/// Migrates an empty or older file to this version in one transaction: other programs see the
/// old tables or the new ones.
///
/// The time that it takes does not depend on the number of rows.
///
/// # Errors
/// The error of SQLite; the file is then unchanged.
pub fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    // A step may edit `sqlite_schema`, which defensive mode forbids.
    let defensive = connection.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    let outcome = run_steps(connection, VERSION);
    // Loads the new tables, and forbids edits again.
    let reset = connection.execute_batch("PRAGMA writable_schema = RESET");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, defensive)?;
    outcome.and(reset)
}

/// Runs the steps to version `to`.
fn run_steps(connection: &mut Connection, to: i32) -> rusqlite::Result<()> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Another process may have migrated it first.
    let version: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let number = |version| usize::try_from(version).unwrap_or(usize::MAX);
    for step in STEPS.iter().take(number(to)).skip(number(version)) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", to)?;
    transaction.commit()
}

/// The step to each version from the version before, beginning with an empty file. A released
/// step is never changed.
const STEPS: &[&str] = &[VERSION_1, VERSION_2];

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

/// Sequence numbers: the primary key of `reports` and `events` is the order of
/// arrival, and the time is a column.
///
/// `ALTER TABLE … ADD COLUMN` reads every row of a STRICT table, so the texts of the
/// tables are replaced instead, which has the same effect on the file
/// (<https://sqlite.org/lang_altertable.html>, "Making Other Kinds Of Table Schema
/// Changes"): columns are added at the end only, and a row that was written before has
/// their default. `CREATE TABLE` makes every connection read the texts again.
const VERSION_2: &str = "
CREATE TABLE store (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    store_id    BLOB NOT NULL,
    opened      INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    reserved    INTEGER NOT NULL,
    first_timed INTEGER NOT NULL,
    paused_at   INTEGER
) STRICT;
INSERT INTO store
    SELECT 1, randomblob(16), 0, 0, coalesce(max(received_at), 0),
           coalesce(max(received_at), 0) + 1, NULL
    FROM reports;

CREATE TABLE times (
    first    INTEGER PRIMARY KEY,
    last     INTEGER NOT NULL,
    earliest INTEGER NOT NULL,
    latest   INTEGER NOT NULL
) STRICT;

CREATE TABLE other_events (
    seq INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE producers (
    agent    INTEGER NOT NULL,
    producer BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    window   BLOB NOT NULL,
    used_at  INTEGER NOT NULL,
    PRIMARY KEY (agent, producer)
) STRICT, WITHOUT ROWID;

CREATE TABLE cursors (
    consumer TEXT NOT NULL,
    lane     TEXT NOT NULL,
    seq      INTEGER NOT NULL,
    PRIMARY KEY (consumer, lane)
) STRICT, WITHOUT ROWID;

CREATE TABLE retries (
    consumer TEXT NOT NULL,
    event    INTEGER NOT NULL,
    since    INTEGER NOT NULL,
    PRIMARY KEY (consumer, event)
) STRICT, WITHOUT ROWID;

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = 'CREATE TABLE reports (
    seq         INTEGER PRIMARY KEY,
    agent       INTEGER NOT NULL,
    peer        TEXT NOT NULL,
    content     TEXT NOT NULL,
    rand        INTEGER NOT NULL,
    timestamp   INTEGER NOT NULL,
    received_at INTEGER,
    back        INTEGER
) STRICT' WHERE type = 'table' AND name = 'reports';

UPDATE sqlite_schema SET sql = 'CREATE TABLE agents (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    name            TEXT,
    address         TEXT NOT NULL,
    version         TEXT NOT NULL,
    first_seen      INTEGER NOT NULL,
    last_seen       INTEGER NOT NULL,
    state           TEXT NOT NULL CHECK (state IN (''online'', ''offline'')),
    changed_at      INTEGER NOT NULL,
    heartbeats      INTEGER NOT NULL,
    reports         INTEGER NOT NULL,
    interval        INTEGER NOT NULL,
    last_report     INTEGER,
    hours           INTEGER,
    last_hour       INTEGER NOT NULL DEFAULT 0,
    watched         INTEGER NOT NULL DEFAULT 1,
    report_interval INTEGER NOT NULL DEFAULT 0,
    cloned_at       INTEGER NOT NULL DEFAULT 0
) STRICT' WHERE type = 'table' AND name = 'agents';

UPDATE sqlite_schema SET sql = 'CREATE TABLE events (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    agent       INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN (''online'', ''offline'')),
    name        TEXT,
    address     TEXT,
    version     TEXT,
    last_seen   INTEGER,
    established INTEGER NOT NULL DEFAULT 1
) STRICT' WHERE type = 'table' AND name = 'events';
";

/// Creates the tables of version 1 with rows, for tests of the migration.
#[cfg(test)]
pub(super) fn older(connection: &Connection, rows: &str) {
    connection.execute_batch(VERSION_1).unwrap();
    connection.execute_batch(rows).unwrap();
    connection
        .pragma_update(None, "application_id", APPLICATION_ID)
        .unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn there_is_a_step_to_every_version() {
        assert_eq!(i32::try_from(STEPS.len()), Ok(VERSION));
    }

    #[test]
    fn a_new_file_is_migrated_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(examine(&connection), Ok(Fitness::Empty));
        migrate(&mut connection).unwrap();
        assert_eq!(examine(&connection), Ok(Fitness::Ready));
        migrate(&mut connection).unwrap();
        assert_eq!(examine(&connection), Ok(Fitness::Ready));
    }

    /// Returns the difference after `sql` was run on a file of this version.
    fn difference_after(version: i32, sql: &str) -> Option<String> {
        let mut connection = Connection::open_in_memory().unwrap();
        run_steps(&mut connection, version).unwrap();
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)
            .unwrap();
        // Loads the tables that the steps have written.
        connection
            .execute_batch("PRAGMA writable_schema = RESET")
            .unwrap();
        connection.execute_batch(sql).unwrap();
        difference(&connection, version).unwrap()
    }

    #[test]
    fn the_schema_of_every_version_is_as_expected() {
        for version in 0..=VERSION {
            assert_eq!(difference_after(version, ""), None, "{version}");
        }
        let mut migrated = Connection::open_in_memory().unwrap();
        older(&migrated, ROWS_OF_VERSION_1);
        assert_eq!(difference(&migrated, 1), Ok(None));
        migrate(&mut migrated).unwrap();
        assert_eq!(difference(&migrated, VERSION), Ok(None));
    }

    #[test]
    fn an_operators_table_and_statistics_are_allowed() {
        for sql in ["CREATE TABLE mine (name TEXT PRIMARY KEY)", "ANALYZE"] {
            assert_eq!(difference_after(VERSION, sql), None, "{sql}");
        }
    }

    #[test]
    fn objects_that_could_run_code_are_named() {
        for (sql, expected) in [
            (
                "CREATE TRIGGER t AFTER INSERT ON reports BEGIN DELETE FROM reports; END",
                "the trigger \"t\"",
            ),
            ("CREATE VIEW v AS SELECT 1", "the view \"v\""),
            ("CREATE INDEX i ON reports (abs(rand))", "the index \"i\""),
            (
                "CREATE VIRTUAL TABLE f USING fts5 (x)",
                "the virtual table \"f\"",
            ),
            ("DROP INDEX agents_by_name", "no index \"agents_by_name\""),
            (
                "ALTER TABLE reports ADD COLUMN x INTEGER CHECK (x > 1)",
                "another table \"reports\"",
            ),
            (
                "DROP TABLE events; CREATE VIEW events AS SELECT 1",
                "the view \"events\"",
            ),
        ] {
            assert_eq!(difference_after(VERSION, sql).as_deref(), Some(expected));
        }
    }

    #[test]
    fn unusable_files_are_distinguished() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        assert_eq!(examine(&connection), Ok(Fitness::Foreign));
        let set = |pragma, value: i32| connection.pragma_update(None, pragma, value).unwrap();
        set("application_id", APPLICATION_ID);
        set("user_version", VERSION + 1);
        assert_eq!(examine(&connection), Ok(Fitness::Newer(VERSION + 1)));
        set("user_version", VERSION - 1);
        assert_eq!(examine(&connection), Ok(Fitness::Older(VERSION - 1)));
        set("user_version", -1);
        assert_eq!(examine(&connection), Ok(Fitness::Foreign));
        set("application_id", 7);
        assert_eq!(examine(&connection), Ok(Fitness::Foreign));
    }

    const ROWS_OF_VERSION_1: &str = "
        INSERT INTO reports VALUES (1475249220000000001, 7, '10.0.0.7:4711', 'hello', 8, 9);
        INSERT INTO agents VALUES (7, 'web-01', '10.0.0.7', '1.0', 1, 2, 'online', 3, 4, 5, 6);
        INSERT INTO events VALUES (11, 12, 7, 'online');";

    #[test]
    fn a_file_of_version_1_keeps_its_rows() {
        let mut connection = Connection::open_in_memory().unwrap();
        older(&connection, ROWS_OF_VERSION_1);
        assert_eq!(examine(&connection), Ok(Fitness::Older(1)));
        migrate(&mut connection).unwrap();
        assert_eq!(examine(&connection), Ok(Fitness::Ready));
        let text =
            |query: &str| -> String { connection.query_row(query, [], |row| row.get(0)).unwrap() };
        let report = "SELECT seq || ' ' || agent || ' ' || content || ' ' || timestamp || ' ' || \
                      coalesce(received_at, 'unknown') || ' ' || coalesce(back, 'unknown') \
                      FROM reports";
        assert_eq!(
            text(report),
            "1475249220000000001 7 hello 9 unknown unknown"
        );
        let agent = "SELECT id || ' ' || name || ' ' || interval || ' ' || last_hour || ' ' || \
                     watched || ' ' || coalesce(hours, 'unknown') FROM agents";
        assert_eq!(text(agent), "7 web-01 6 0 1 unknown");
        let event = "SELECT seq || ' ' || at || ' ' || established FROM events";
        assert_eq!(text(event), "11 12 1");
        let store = "SELECT reserved || ' ' || first_timed || ' ' || length(store_id) FROM store";
        assert_eq!(text(store), "1475249220000000001 1475249220000000002 16");
        assert_eq!(text("PRAGMA integrity_check"), "ok");
        // A number of an event is not given twice.
        connection
            .execute_batch(
                "DELETE FROM events; INSERT INTO events (at, agent, state) VALUES (1, 2, 'offline')",
            )
            .unwrap();
        assert_eq!(text("SELECT seq || '' FROM events"), "12");
    }

    #[test]
    fn a_migrated_file_has_the_tables_of_a_new_one() {
        let tables = |connection: &Connection| -> Vec<(String, String)> {
            let mut tables = connection
                .prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
                .unwrap();
            let rows = tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
            rows.unwrap().map(Result::unwrap).collect()
        };
        let mut migrated = Connection::open_in_memory().unwrap();
        older(&migrated, ROWS_OF_VERSION_1);
        let mut new = Connection::open_in_memory().unwrap();
        new.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)
            .unwrap();
        migrate(&mut migrated).unwrap();
        migrate(&mut new).unwrap();
        assert_eq!(tables(&migrated), tables(&new));
        assert_eq!(tables(&new).len(), 12);
        let defensive = new.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE);
        assert_eq!(defensive, Ok(true));
        let edit = "UPDATE sqlite_schema SET sql = '' WHERE name = 'reports'";
        for connection in [migrated, new] {
            assert!(connection.execute_batch(edit).is_err());
        }
    }

    /// Another connection may have the file open: a reader, or the witness of a hand-over.
    #[test]
    fn another_connection_sees_the_tables_as_they_are_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hawk.db");
        let other = Connection::open(&path).unwrap();
        older(&other, ROWS_OF_VERSION_1);
        let count = |query: &str| other.query_row(query, [], |row| row.get::<_, i64>(0));
        assert_eq!(count("SELECT count(received_at) FROM reports"), Ok(1));
        migrate(&mut Connection::open(&path).unwrap()).unwrap();
        assert_eq!(count("SELECT count(received_at) FROM reports"), Ok(0));
        assert_eq!(count("SELECT count(seq) FROM reports"), Ok(1));
    }

    #[test]
    fn the_time_of_a_migration_does_not_depend_on_the_number_of_rows() {
        let steps = |rows: u32| {
            let mut connection = Connection::open_in_memory().unwrap();
            older(
                &connection,
                &format!(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                     INSERT INTO reports SELECT i, 1, '', '', 0, 0 FROM n"
                ),
            );
            let steps = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&steps);
            let handler = move || {
                count.fetch_add(1, Ordering::Relaxed);
                false
            };
            connection.progress_handler(100, Some(handler)).unwrap();
            migrate(&mut connection).unwrap();
            steps.load(Ordering::Relaxed)
        };
        let (few, many) = (steps(10), steps(100_000));
        assert!(many <= few + 2, "{few} and {many} hundred instructions");
    }
}
