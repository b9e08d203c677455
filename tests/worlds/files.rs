//! The store's files, and what becomes of them.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hawk::store::{Cursor, Reader, ReportRow, Selection};
use hawk_time::UnixNanos;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

/// What is known of a file that was the store's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is.
    Live,
    /// It has this name now, and the server has noticed.
    Renamed(PathBuf),
    /// It is gone, or what it had in memory is.
    Gone,
}

/// A row of `reports`.
#[derive(Debug)]
pub struct Row {
    pub seq: i64,
    pub time: i64,
    pub agent: i64,
    pub previous: Option<i64>,
    /// The name or address of its agent, if that has a row.
    pub owner: Option<String>,
    pub content: String,
}

/// A row of `agents`.
#[derive(Debug)]
pub struct State {
    /// The agent's name or, without one, its address.
    pub owner: String,
    pub online: bool,
    /// Whether its silence is judged.
    pub watched: bool,
    /// Whether its last event says that it is online; `None` if it has no event.
    pub last_event: Option<bool>,
}

/// `hawk reports --follow`, as far as the store has a part in it.
struct Follower {
    reader: Reader,
    all: Selection,
    next: Cursor,
    /// The numbers of the reports it has shown.
    shown: Vec<u64>,
}

pub struct Files {
    folder: TempDir,
    pub fates: Vec<Fate>,
    /// The live file was renamed or replaced, and the server has not written since.
    pub unnoticed: bool,
    /// A copy that can be put in the place of the store, and the reports in it.
    backup: Option<(PathBuf, HashSet<u64>)>,
    /// Another program's long transaction.
    reader: Option<Connection>,
    follower: Option<Follower>,
    copies: usize,
    unlimited: Rlimit,
}

impl Files {
    pub fn new() -> Self {
        // A limit that is met is an error then, and not the end of the process.
        let noted = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(libc_sigxfsz(), noted).unwrap();
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        Self {
            folder: folder.unwrap(),
            fates: vec![Fate::Live],
            unnoticed: false,
            backup: None,
            reader: None,
            follower: None,
            copies: 0,
            unlimited: getrlimit(Resource::Fsize),
        }
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("hawk.db")
    }

    /// The number of the file that is the store's.
    pub fn live(&self) -> usize {
        self.fates.len() - 1
    }

    fn beside(&self, ending: &str) -> PathBuf {
        self.folder.path().join(format!("hawk.db{ending}"))
    }

    fn next_copy(&mut self) -> PathBuf {
        self.copies += 1;
        self.folder.path().join(format!("copy-{}", self.copies))
    }

    fn replaced(&mut self, fate: Fate) {
        self.follower = None;
        let live = self.live();
        self.fates[live] = fate;
        self.fates.push(Fate::Live);
        self.unnoticed = true;
    }

    /// Renames the file alone.
    pub fn rename(&mut self) -> bool {
        self.reader = None;
        let copy = self.next_copy();
        let renamed = fs::rename(self.store(), &copy).is_ok();
        if renamed {
            self.replaced(Fate::Renamed(copy));
        }
        renamed
    }

    /// Removes it, with what belongs to it or without.
    pub fn remove(&mut self, all: bool) {
        self.reader = None;
        let _absent = fs::remove_file(self.store());
        if all {
            let _absent = fs::remove_file(self.beside("-wal"));
            let _absent = fs::remove_file(self.beside("-shm"));
        }
        self.replaced(Fate::Gone);
    }

    /// Makes a copy of all that is committed.
    pub fn back_up(&mut self) {
        let copy = self.next_copy();
        let Ok(connection) = self.connect(&self.store()) else {
            return;
        };
        if connection
            .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
            .is_err()
        {
            return;
        }
        let numbers = self.numbers(&copy);
        self.backup = Some((copy, numbers));
    }

    /// Puts the copy in the place of the store, if there is one; the reports in it.
    pub fn restore(&mut self) -> Option<HashSet<u64>> {
        let (copy, numbers) = self.backup.take()?;
        self.reader = None;
        let _absent = fs::remove_file(self.beside("-wal"));
        let _absent = fs::remove_file(self.beside("-shm"));
        fs::rename(copy, self.store()).unwrap();
        self.replaced(Fate::Gone);
        Some(numbers)
    }

    /// Another program begins to read, or ends.
    pub fn read_long(&mut self, reads: bool) {
        self.reader = None;
        if reads && let Ok(connection) = self.connect(&self.store()) {
            let begun = connection.execute_batch("BEGIN; SELECT count(*) FROM reports;");
            self.reader = begun.is_ok().then_some(connection);
        }
    }

    /// No file may grow beyond what the largest has now, and a little; or it may again.
    pub fn limit(&self, full: bool) {
        let limit = if full {
            let sizes = ["", "-wal"]
                .map(|ending| fs::metadata(self.beside(ending)).map_or(0, |found| found.len()));
            Rlimit {
                current: Some(sizes.into_iter().max().unwrap_or(0)),
                ..self.unlimited
            }
        } else {
            self.unlimited
        };
        setrlimit(Resource::Fsize, limit).unwrap();
    }

    fn connect(&self, path: &Path) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(path, flags)
    }

    fn numbers(&self, path: &Path) -> HashSet<u64> {
        let rows = self.rows(path).unwrap_or_default();
        rows.iter().filter_map(|row| number(&row.content)).collect()
    }

    /// Another program shows the reports that have come since it looked last.
    pub fn follow(&mut self) -> Result<(), String> {
        let is_there = |follower: &Follower| follower.reader.is_in_place();
        if !self.follower.as_ref().is_some_and(is_there) {
            // There may be no file just now, or one without tables.
            let Ok(reader) = Reader::open(self.store()) else {
                self.follower = None;
                return Ok(());
            };
            let all = reader.select::<ReportRow>(None, None, None);
            self.follower = Some(Follower {
                all: all.map_err(|error| error.to_string())?,
                reader,
                next: Cursor::START,
                shown: Vec::new(),
            });
        }
        let Some(follower) = &mut self.follower else {
            return Ok(());
        };
        let before = follower.shown.len();
        follower.next = read(
            &follower.reader,
            &follower.all,
            follower.next,
            &mut follower.shown,
        )?;
        let new = &follower.shown[before.saturating_sub(1)..];
        match new.is_sorted_by(|one, next| one < next) {
            true => Ok(()),
            false => Err(format!(
                "--follow shows reports out of their order: {new:?}"
            )),
        }
    }

    /// Whether `rows` are what the commands show of the store.
    pub fn commands_agree(&mut self, rows: &[Row], time: i64) -> Result<(), String> {
        self.follow()?;
        let Some(follower) = &self.follower else {
            return Ok(());
        };
        let shown: HashSet<_> = follower.shown.iter().collect();
        let numbers = |rows: &mut dyn Iterator<Item = &Row>| -> Vec<u64> {
            rows.filter_map(|row| number(&row.content)).collect()
        };
        for number in numbers(&mut rows.iter()) {
            if !shown.contains(&number) {
                return Err(format!("--follow has not shown report {number}"));
            }
        }
        let reader = &follower.reader;
        let told = |error: hawk::store::OpenError| error.to_string();
        let at = UnixNanos::from_nanos(time);
        let halves = [(Some(at), None), (None, Some(at))];
        for (half, (since, until)) in halves.into_iter().enumerate() {
            let selection = reader
                .select::<ReportRow>(None, since, until)
                .map_err(told)?;
            let mut found = Vec::new();
            read(reader, &selection, Cursor::START, &mut found)?;
            let is_in = |row: &&Row| (row.time >= time) == (half == 0);
            if found != numbers(&mut rows.iter().filter(is_in)) {
                let side = ["--since", "--until"][half];
                return Err(format!("{side} {at} shows {} reports", found.len()));
            }
        }
        let last = reader.last::<ReportRow>(1, &follower.all).map_err(told)?;
        let mut found = Vec::new();
        read(reader, &follower.all, last, &mut found)?;
        match found == numbers(&mut rows.last().into_iter()) {
            true => Ok(()),
            false => Err(format!("--last 1 shows {found:?}")),
        }
    }

    /// The reports in a file, in their order.
    pub fn rows(&self, path: &Path) -> rusqlite::Result<Vec<Row>> {
        let connection = self.connect(path)?;
        let mut rows = connection.prepare(
            "SELECT seq, coalesce(received_at, seq), agent, seq - back, coalesce(name, address), \
             content FROM reports LEFT JOIN agents ON agents.id = agent ORDER BY seq",
        )?;
        let rows = rows.query_map([], |row| {
            Ok(Row {
                seq: row.get(0)?,
                time: row.get(1)?,
                agent: row.get(2)?,
                previous: row.get(3)?,
                owner: row.get(4)?,
                content: row.get(5)?,
            })
        })?;
        rows.collect()
    }

    /// What a file says of an agent, for people.
    pub fn story(&self, path: &Path, owner: &str) -> rusqlite::Result<String> {
        let connection = self.connect(path)?;
        let mut told = Vec::new();
        let mut rows = connection.prepare(
            "SELECT 'agent', id, first_seen, last_seen, state || watched, changed_at, interval \
             FROM agents WHERE coalesce(name, address) = ?1 UNION ALL \
             SELECT 'event', seq, agent, last_seen, state, at, established FROM events \
             WHERE coalesce(name, address) = ?1",
        )?;
        let mut rows = rows.query([owner])?;
        while let Some(row) = rows.next()? {
            let cells: Result<Vec<_>, _> = (0..7)
                .map(|at| row.get::<_, rusqlite::types::Value>(at))
                .collect();
            told.push(format!("{:?}", cells?));
        }
        Ok(told.join("\n"))
    }

    /// Returns the agents in a file.
    pub fn states(&self, path: &Path) -> rusqlite::Result<Vec<State>> {
        let connection = self.connect(path)?;
        let mut rows = connection.prepare(
            "SELECT coalesce(name, address), state = 'online', watched, \
             (SELECT state = 'online' FROM events WHERE agent = agents.id \
             ORDER BY seq DESC LIMIT 1) FROM agents ORDER BY id",
        )?;
        let rows = rows.query_map([], |row| {
            Ok(State {
                owner: row.get(0)?,
                online: row.get(1)?,
                watched: row.get(2)?,
                last_event: row.get(3)?,
            })
        })?;
        rows.collect()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.limit(false);
    }
}

/// Reads a selection to its end; where the next look begins.
fn read(
    reader: &Reader,
    selection: &Selection,
    mut after: Cursor,
    numbers: &mut Vec<u64>,
) -> Result<Cursor, String> {
    loop {
        let step = reader.page::<ReportRow>(after, selection);
        let step = step.map_err(|error| error.to_string())?;
        numbers.extend(step.rows.iter().filter_map(|row| number(&row.content)));
        after = step.next;
        if step.is_last {
            return Ok(after);
        }
    }
}

/// The number of SIGXFSZ, which is the same on all machines that hawk is built for.
const fn libc_sigxfsz() -> i32 {
    25
}

/// The number in a report's content.
pub fn number(content: &str) -> Option<u64> {
    content.split('|').nth(1)?.parse().ok()
}
