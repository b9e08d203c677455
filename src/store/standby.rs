//! A store that another process still writes, for the one that goes on with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};

use super::location;
use super::open::check_tables;
use super::reader;
use super::schema::Fitness;
use super::{BatchProducer, Delivery, Lock, OpenError, Retention, Store, Writer};

/// A store that was looked at, and that this process can go on writing.
///
/// It is open for reading, and stays so until it is open for writing: then the other
/// process does not have it open last when it ends. Whoever does would move the log
/// into the file and remove it (<https://sqlite.org/wal.html>, "The WAL File"). Its
/// descriptor is there as long as the other one: to close it would give up the locks of
/// both (`fcntl(2)`, "Record locking"), and SQLite waits with it.
#[derive(Debug)]
pub struct StandbyStore {
    path: PathBuf,
    connection: Connection,
    delivery: Arc<Delivery>,
}

impl Store {
    /// Sees whether this process can go on writing the store at `path`, without
    /// changing anything: whether its tables are in a version that it knows, or in an
    /// older one, and whether it may write the file and its folder.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do about it. A file that is not there, though
    /// the other process writes it, was moved or removed.
    pub fn open_standby(path: &Path) -> Result<StandbyStore, OpenError> {
        let path = location::resolve(path)?;
        reader::file_id(&path).map_err(|error| match error {
            OpenError::Missing(path) => OpenError::Vanished(path),
            other => other,
        })?;
        location::check_access(&path)?;
        let (connection, fitness) = reader::connect(&path, OpenFlags::empty())
            .map_err(|error| OpenError::Sqlite(path.clone(), error))?;
        check_tables(&path, &connection, fitness)?;
        match fitness {
            Fitness::Ready | Fitness::Empty | Fitness::Older(_) => Ok(StandbyStore {
                path,
                connection,
                delivery: Arc::default(),
            }),
            Fitness::Newer(_) | Fitness::Foreign => Err(fitness.refusal(&path)),
        }
    }
}

impl StandbyStore {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the writer store the progress of delivery.
    #[must_use]
    pub fn with_delivery(mut self, delivery: Arc<Delivery>) -> Self {
        self.delivery = delivery;
        self
    }

    /// Starts the writer, parked: [`BatchProducer::unpark`] is to be called when the other
    /// process writes no more. It then opens the file and brings its tables up to date
    /// by itself; nobody waits for that but the first reports. A file that cannot be
    /// opened is tried again and again, as one that fails later is, and no report is
    /// taken meanwhile.
    ///
    /// # Errors
    /// If the kernel refuses a thread.
    pub fn start(self, lock: Lock, retention: Retention) -> std::io::Result<BatchProducer> {
        let writer = Writer::new(self.path, retention, Arc::new(lock)).with_delivery(self.delivery);
        writer.slot().park();
        let witness = self.connection;
        super::spawn(writer, move |writer| writer.open_and_run(witness))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::store::schema;
    use crate::store::{AgentRecord, Health, ReportRecord, State};
    use hawk_time::{Moment, UnixNanos};

    const PATIENCE: Duration = Duration::from_secs(60);

    const KEEP_ALL: Retention = Retention {
        age: Duration::from_secs(1000 * 86_400),
        ..Retention::UNLIMITED
    };

    /// A folder, and where in it a store is to be.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hawk.db");
        (folder, path)
    }

    /// A store of another program or version, in use by whoever has the connection.
    fn other(path: &Path, pragmas: &str) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch(&format!("PRAGMA journal_mode = wal; {pragmas}"))
            .unwrap();
        connection
    }

    /// One of hawk's, without tables yet.
    fn older(path: &Path) -> Connection {
        let pragma = format!("PRAGMA application_id = {}", schema::APPLICATION_ID);
        other(path, &pragma)
    }

    /// The same lock, as another process has it.
    fn shared(lock: &Lock, path: &Path) -> Lock {
        Lock::adopt(lock.share().try_clone().unwrap().into(), path).unwrap()
    }

    fn version(connection: &Connection) -> i32 {
        connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap()
    }

    /// The names of the files there, and their bytes but for the log's index, in which
    /// every reader leaves its mark.
    fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|file| {
                let name = file.unwrap().file_name().into_string().unwrap();
                let bytes = match name.ends_with("-shm") {
                    true => Vec::new(),
                    false => fs::read(folder.join(&name)).unwrap(),
                };
                (name, bytes)
            })
            .collect();
        files.sort();
        files
    }

    /// Has a report written; whether it was.
    fn write(producer: &mut BatchProducer, nanos: i64) -> bool {
        offer(producer, nanos);
        until(producer, BatchProducer::next_completed).is_committed()
    }

    fn offer(producer: &mut BatchProducer, nanos: i64) {
        let time = UnixNanos::from_nanos(nanos);
        let batch = producer.batch();
        let index = batch.add_agent(
            1,
            &AgentRecord {
                name: Some("web-01"),
                address: [10, 0, 0, 7].into(),
                version: "",
                first_seen: time,
                last_seen: time,
                online: true,
                changed_at: time,
                interval: 0,
                hours: Some(1),
                last_hour: 0,
                watched: true,
                report_interval: 0,
                cloned_at: 0,
            },
        );
        let report = ReportRecord {
            received_at: time,
            content: "",
            rand: 0,
            timestamp: 0,
        };
        batch.add_report(index, ([10, 0, 0, 7], 1).into(), &report);
        producer.submit(Moment::now());
    }

    fn until<T>(
        producer: &mut BatchProducer,
        mut look: impl FnMut(&mut BatchProducer) -> Option<T>,
    ) -> T {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            producer.collect(Moment::now());
            match look(producer) {
                Some(found) => return found,
                None => assert!(std::time::Instant::now() < deadline, "it comes to that"),
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_older_store_is_brought_up_to_date_by_who_goes_on_and_not_before() {
        let (folder, path) = place();
        let present = older(&path);
        let lock = Lock::take(&path).unwrap();
        let before = contents(folder.path());
        let examined = Store::open_standby(&path).unwrap();
        let mut producer = examined.start(shared(&lock, &path), KEEP_ALL).unwrap();
        until(&mut producer, |producer| producer.is_parked().then_some(()));
        assert_eq!(contents(folder.path()), before, "nothing was written");
        assert_eq!(version(&present), 0);
        producer.unpark();
        assert!(write(&mut producer, 1));
        assert_eq!(version(&present), schema::VERSION);
        drop((present, lock));
        assert!(producer.finish(Moment::now(), PATIENCE));
        let reader = super::super::Reader::open(path).unwrap();
        assert_eq!(reader.agents().unwrap()[0].state, State::Online);
    }

    #[test]
    fn who_is_told_to_end_before_it_was_to_begin_touches_nothing() {
        let (folder, path) = place();
        let present = older(&path);
        let lock = Lock::take(&path).unwrap();
        let before = contents(folder.path());
        let ends: [fn(BatchProducer) -> bool; 2] = [
            |producer| producer.leave(PATIENCE),
            |producer| producer.finish(Moment::now(), PATIENCE),
        ];
        for end in ends {
            let examined = Store::open_standby(&path).unwrap();
            let adopted = shared(&lock, &path);
            assert!(end(examined.start(adopted, KEEP_ALL).unwrap()));
            assert_eq!(contents(folder.path()), before);
        }
        assert_eq!(version(&present), 0);
        assert!(Lock::is_held(&path).unwrap());
    }

    #[test]
    fn who_is_to_park_again_before_it_has_begun_writes_what_it_was_given() {
        let (_folder, path) = place();
        drop(Store::open(path.clone()).unwrap());
        for round in 1..20 {
            let examined = Store::open_standby(&path).unwrap();
            let mut producer = examined
                .start(Lock::take(&path).unwrap(), KEEP_ALL)
                .unwrap();
            producer.unpark();
            offer(&mut producer, round);
            producer.park();
            assert!(until(&mut producer, BatchProducer::next_completed).is_committed());
            until(&mut producer, |producer| producer.is_parked().then_some(()));
            assert!(producer.leave(PATIENCE));
        }
    }

    #[test]
    fn what_it_could_not_go_on_with_is_refused_and_left_alone() {
        let (folder, path) = place();
        let refused = |expected: &str| {
            let before = contents(folder.path());
            let error = Store::open_standby(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(contents(folder.path()), before);
        };
        refused("was moved or removed while the server was writing it");
        let foreign = other(&path, "CREATE TABLE t (x)");
        refused("is a database of another program");
        let newer = schema::VERSION + 1;
        let pragmas = format!(
            "PRAGMA application_id = {}; PRAGMA user_version = {newer}",
            schema::APPLICATION_ID
        );
        foreign.execute_batch(&pragmas).unwrap();
        refused(&format!("has tables of version {newer}"));
        drop(foreign);
        fs::write(&path, "not a database, and long enough to be looked at").unwrap();
        refused("file is not a database");
    }

    #[test]
    fn a_store_that_cannot_be_opened_is_down_until_it_can() {
        let (_folder, path) = place();
        drop(Store::open(path.clone()).unwrap());
        let examined = Store::open_standby(&path).unwrap();
        let lock = Lock::take(&path).unwrap();
        let mut producer = examined.start(lock, KEEP_ALL).unwrap();
        // It is replaced after it was looked at.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        producer.unpark();
        until(&mut producer, |producer| {
            (producer.health() == Health::Down).then_some(())
        });
        assert!(!write(&mut producer, 1));
        // It is as still as any other while it is to be.
        producer.park();
        until(&mut producer, |producer| producer.is_parked().then_some(()));
        fs::remove_dir(&path).unwrap();
        assert!(!path.exists());
        producer.unpark();
        until(&mut producer, |producer| {
            (producer.health() == Health::Up).then_some(())
        });
        assert!(write(&mut producer, 2));
        assert!(producer.finish(Moment::now(), PATIENCE));
    }

    #[test]
    fn the_log_stays_when_the_one_before_ends_and_goes_when_the_last_does() {
        let (folder, path) = place();
        let mut first = Store::open(path.clone()).unwrap().start(KEEP_ALL).unwrap();
        assert!(write(&mut first, 1));
        first.park();
        until(&mut first, |producer| producer.is_parked().then_some(()));
        let examined = Store::open_standby(&path).unwrap();
        let adopted = shared(first.lock(), &path);
        let before = contents(folder.path());
        assert!(first.leave(PATIENCE));
        assert_eq!(contents(folder.path()), before);
        let mut second = examined.start(adopted, KEEP_ALL).unwrap();
        second.unpark();
        assert!(write(&mut second, 2));
        assert!(second.finish(Moment::now(), PATIENCE));
        let names: Vec<String> = contents(folder.path())
            .into_iter()
            .map(|file| file.0)
            .collect();
        assert_eq!(names, ["hawk.db", "hawk.db-lock"]);
    }
}
