//! The writer: one thread that commits batches, one after the other.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};

use super::delivery::{Deliveries, Delivery};
use super::drops::Drops;
use super::files::{Change, Files};
use super::open::{LOCK_PATIENCE, OpenError, explain, open, wal_pages};
use super::retention::{Added, Retainer, Retention};
use super::schema::{self, Fitness, VERSION};
use super::slot::{BatchSlot, Next, Stop};
use super::statements::Statements;
use super::{AgentIndex, Batch, BatchProducer, Health, Lock};
use crate::stats::StoreCounters;
use hawk_time::{Clock, Throttle, UnixNanos, log_limited};

/// Pages in the log at which they are moved into the file: 8 MiB. The log is
/// then written from its start again, over pages that are on disk already, which
/// makes a sync several times as fast as one that makes a file longer.
const CHECKPOINT_PAGES: u32 = 1000;

/// Pages in the log at which something must be holding it: 256 MiB.
const SWOLLEN_PAGES: u32 = 32 * CHECKPOINT_PAGES;

/// Without batches, how often the writer looks for something else to do.
const IDLE: Duration = Duration::from_secs(1);

/// When there is something to remove, how long the writer waits for a batch
/// with which to do it.
const IDLE_BEHIND: Duration = Duration::from_millis(10);

/// While the store is down, the time between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// While the store is down, how often that is logged again.
const REMIND: Duration = Duration::from_secs(60);

/// Maximum number of events of discarded batches that are kept until the store can be
/// written: some 10 MB of memory, or 30 MB if all names and versions have their maximum length.
const MAX_UNWRITTEN: usize = 100_000;

/// Transactions of retention alone, at most, after a write failed for want of space.
const ROOM_STEPS: u32 = 16;

/// How often in 10 s it is told that the store is down, and that it is back: each time
/// while that is news.
const CHANGES: u32 = 5;

/// All that the writer's thread has but for its connection.
pub(super) struct Writer {
    path: PathBuf,
    retention: Retention,
    slot: Arc<BatchSlot>,
    /// The right to write, held until this ends.
    lock: Arc<Lock>,
    clock: Clock,
    counters: StoreCounters,
    unwritten: Unwritten,
    drops: Drops,
    /// Agents that were heard last before this are too many.
    surplus: Option<UnixNanos>,
    delivery: Arc<Delivery>,
    /// The files that are open.
    files: Option<Files>,
    /// Keeps the file in use until it is open for writing; see [`super::StandbyStore`].
    witness: Option<Connection>,
    /// The files have been usable since they were last tried again.
    was_usable: bool,
    /// The last failure was for want of space.
    was_full: bool,
    /// It was said that the log has grown too long.
    swollen: bool,
    /// A store that fails with each batch, and not in between, goes down and comes
    /// back as often as agents like.
    complaints: Throttle,
    recoveries: Throttle,
}

/// How the writer waits for its next task, at most for a given time.
type Wait<'w> = dyn FnMut(&BatchSlot, Duration) -> Next + 'w;

/// What discarded batches had of agents and events. It is written before the next batch,
/// so that events keep their order.
#[derive(Default)]
struct Unwritten {
    batch: Batch,
    /// The indices of the agents' rows, by their references.
    rows: HashMap<u64, AgentIndex>,
    /// Events, and other changes of agents, that there was no room for.
    lost_events: u64,
    lost_changes: u64,
}

impl Unwritten {
    fn take_over(&mut self, discarded: &Batch) {
        let (events, changes) = self
            .batch
            .take_over(discarded, &mut self.rows, MAX_UNWRITTEN);
        self.lost_events += events;
        self.lost_changes += changes;
    }

    /// All of it is in the file.
    fn clear(&mut self) {
        if !self.batch.is_empty() {
            *self = Self {
                lost_events: self.lost_events,
                lost_changes: self.lost_changes,
                ..Self::default()
            };
        }
        for (what, lost) in [
            ("events", &mut self.lost_events),
            ("changes of agents", &mut self.lost_changes),
        ] {
            let lost = std::mem::take(lost);
            if lost > 0 {
                log::warn!("{what} lost while the store was unavailable: {lost}");
            }
        }
    }
}

/// What is in the log.
struct Log {
    /// Pages in it at which the next checkpoint is due.
    checkpoint_at: u32,
    /// Another program reads, so that the last checkpoint was not complete.
    is_held: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            checkpoint_at: CHECKPOINT_PAGES,
            is_held: false,
        }
    }
}

/// How a time of serving ended.
enum End {
    Stopped(Stop),
    Failed,
    /// Nothing could be served: the file is damaged where it is read first.
    Unprepared,
}

/// Why a batch was not kept.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}", explain(.0))]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Changed(#[from] Change),
    #[error("its files cannot be examined: {0}")]
    Watch(#[source] io::Error),
    #[error(
        "its file was moved, and what was committed last cannot be written to it while another \
         program reads it; end that program"
    )]
    Held,
    #[error("{}", whole(.0))]
    Open(#[from] OpenError),
}

impl Failure {
    fn is_want_of_space(&self) -> bool {
        matches!(
            self,
            Self::Sqlite(error) if matches!(
                error.sqlite_error_code(),
                // A write beyond the limit of file sizes is an I/O error.
                Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure)
            )
        )
    }
}

impl Writer {
    pub(super) fn new(path: PathBuf, retention: Retention, lock: Arc<Lock>) -> Self {
        Self {
            path,
            retention,
            slot: Arc::default(),
            lock,
            clock: Clock::System,
            counters: StoreCounters::default(),
            unwritten: Unwritten::default(),
            drops: Drops::default(),
            surplus: None,
            delivery: Arc::default(),
            files: None,
            witness: None,
            was_usable: true,
            was_full: false,
            swollen: false,
            complaints: Throttle::bursts_of(CHANGES),
            recoveries: Throttle::bursts_of(CHANGES),
        }
    }

    /// Removes agents that were heard last before this, if they are offline and not
    /// established.
    pub(super) const fn with_surplus(mut self, heard_before: Option<UnixNanos>) -> Self {
        self.surplus = heard_before;
        self
    }

    /// The reactor's half.
    pub(super) fn producer(&self) -> BatchProducer {
        BatchProducer::new(Arc::clone(&self.slot), Arc::clone(&self.lock))
    }

    pub(super) const fn slot(&self) -> &Arc<BatchSlot> {
        &self.slot
    }

    /// Reads this clock instead of the machine's.
    pub(super) fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Writes down how far events are delivered.
    pub(super) fn with_delivery(mut self, delivery: Arc<Delivery>) -> Self {
        self.delivery = delivery;
        self
    }

    /// Commits what comes until it is told to stop.
    pub(super) fn run(self, connection: Connection) {
        self.write(Some(connection), &mut BatchSlot::take);
    }

    /// Commits batches until a stop is ordered, on the caller's thread:
    /// instead of waiting for a batch it calls `idle` with the time it would wait for. When
    /// that breaks off, the file is left as it is.
    pub(super) fn run_here(
        self,
        connection: Connection,
        mut idle: impl FnMut(Duration) -> ControlFlow<()>,
    ) {
        self.write(
            Some(connection),
            &mut |slot, patience| match idle(patience) {
                ControlFlow::Continue(()) => slot.take(Duration::ZERO),
                ControlFlow::Break(()) => Next::Stop(Stop::Leave),
            },
        );
    }

    /// Waits to be unparked, opens the file, and commits batches until a stop is
    /// ordered. If the file cannot be opened, that is as if it could not be written.
    pub(super) fn open_and_run(mut self, witness: Connection) {
        if !self.slot.park_writer() {
            return;
        }
        // It says which process writes, for people to read.
        if let Err(error) = self.lock.sign() {
            log::warn!("{error}");
        }
        let is_older = matches!(schema::examine(&witness), Ok(Fitness::Older(_)));
        self.witness = Some(witness);
        let opened = self.open().inspect_err(|failure| {
            self.complain(failure);
            self.slot.give_back(None, Health::Down, self.counters);
        });
        if is_older {
            // Rows of older tables say less of an agent than what is known of it.
            self.slot.note_file_replaced();
        }
        self.write(opened.ok(), &mut BatchSlot::take);
    }

    fn write(mut self, mut connection: Option<Connection>, wait: &mut Wait<'_>) {
        if let Some(connection) = &mut connection {
            // The bound on the work of the start: see `Work`.
            let unbounded = connection.progress_handler(0, None::<fn() -> bool>);
            unbounded.unwrap_or_else(|error| log::warn!("{error}"));
        }
        let how = loop {
            let end = connection.as_ref().map_or(End::Failed, |connection| {
                if std::mem::take(&mut self.was_full) {
                    self.make_room(connection);
                }
                self.serve(connection, wait)
            });
            if let End::Stopped(how) = end {
                break how;
            }
            // A file that fails each time it is used may be tried without a failure.
            let at_once = matches!(end, End::Failed) && std::mem::take(&mut self.was_usable);
            if let Err(how) = self.recover(&mut connection, at_once, wait) {
                break how;
            }
        };
        // The witness first: SQLite removes the empty log with the last connection.
        self.witness = None;
        if how == Stop::Finish {
            self.retire_at_stop(&mut connection);
        }
        if let Some(connection) = connection {
            close(connection, how);
        }
    }

    /// Retires the file if another program has moved or replaced it or its log. SQLite would
    /// remove the file at the log's path as it closes: by now another file's log.
    fn retire_at_stop(&mut self, connection: &mut Option<Connection>) {
        if let Some(present) = connection
            && let Err(failure) = self.look(present)
            && self.retire(connection, &failure).is_err()
        {
            // The moved file lacks a part of its log.
            abandon(connection.take());
            if let Some(files) = self.files.as_ref().filter(|files| files.has_log()) {
                files.set_log_aside();
            }
        }
    }

    /// Commits what comes for as long as that succeeds.
    fn serve(&mut self, connection: &Connection, wait: &mut Wait<'_>) -> End {
        if self.files.is_none()
            && let Err(failure) = self.watch(connection)
        {
            self.complain(&failure);
            self.slot.give_back(None, Health::Down, self.counters);
            return End::Failed;
        }
        let (mut statements, mut retainer) = match self.prepare(connection) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.complain(&error.into());
                self.slot.give_back(None, Health::Down, self.counters);
                return End::Unprepared;
            }
        };
        let mut log = Log::default();
        loop {
            if self.slot.take_confirmation() {
                retainer.confirm_clock();
            }
            let progress_due = statements.progress_due_in(self.clock.now());
            let patience = if retainer.is_behind() {
                IDLE_BEHIND
            } else {
                progress_due.map_or(IDLE, |due| due.min(IDLE))
            };
            let (batch, outcome) = match wait(&self.slot, patience) {
                Next::Stop(how) => {
                    if how == Stop::Finish {
                        if (!self.unwritten.batch.is_empty() || statements.has_progress())
                            && let Err(failure) =
                                self.commit(connection, &mut statements, &mut retainer, None)
                        {
                            self.complain(&failure);
                        }
                        self.slot.all_committed();
                        self.empty_log(connection);
                    }
                    return End::Stopped(how);
                }
                Next::Park if self.unwritten.batch.is_empty() && !statements.has_progress() => {
                    self.slot.park_writer();
                    continue;
                }
                Next::Nothing
                    if !retainer.is_behind()
                        && self.unwritten.batch.is_empty()
                        && !statements
                            .progress_due_in(self.clock.now())
                            .is_some_and(|due| due.is_zero()) =>
                {
                    let outcome = self.look(connection).and_then(|()| {
                        if log.is_held && self.checkpoint(connection, &mut log)? {
                            self.empty_log(connection);
                            self.note_log();
                        }
                        Ok(())
                    });
                    match outcome {
                        Ok(()) => {
                            self.was_usable = true;
                            self.slot.give_back(None, Health::Up, self.counters);
                        }
                        Err(failure) => return self.fail(&failure),
                    }
                    continue;
                }
                Next::Park | Next::Nothing => {
                    let outcome = self.commit(connection, &mut statements, &mut retainer, None);
                    (None, outcome)
                }
                Next::Batch(mut batch) => {
                    let batch_at_hand = Some(&mut batch);
                    let outcome =
                        self.commit(connection, &mut statements, &mut retainer, batch_at_hand);
                    batch.kept = outcome.is_ok();
                    if !batch.kept {
                        self.unwritten.take_over(&batch);
                    }
                    self.count(&batch);
                    (Some(batch), outcome)
                }
            };
            self.counters.bytes = retainer.bytes();
            self.counters.expiry_paused = u64::from(retainer.is_paused());
            self.note_log();
            self.was_usable |= outcome.is_ok();
            let health = if outcome.is_ok() {
                Health::Up
            } else {
                Health::Down
            };
            // The replies first, whatever else there is to do.
            self.slot.give_back(batch, health, self.counters);
            let outcome = outcome.and_then(|()| {
                let checkpoint_at_once = retainer.is_short_of_space() && wal_pages() > 0;
                if wal_pages() >= log.checkpoint_at || checkpoint_at_once {
                    self.checkpoint(connection, &mut log)?;
                }
                Ok(())
            });
            if let Err(failure) = outcome {
                self.was_full = failure.is_want_of_space();
                self.complain(&failure);
                return End::Failed;
            }
        }
    }

    /// Removes old reports in transactions of their own. Together with the rows that did not
    /// fit on the disk they would be rolled back, and the disk would stay full.
    fn make_room(&mut self, connection: &Connection) {
        let unwritten = std::mem::take(&mut self.unwritten);
        if let Err(failure) = self.retain_alone(connection) {
            log::debug!("retention cannot make room: {failure}");
        }
        self.unwritten = unwritten;
    }

    fn retain_alone(&mut self, connection: &Connection) -> Result<(), Failure> {
        let (mut statements, mut retainer) = self.prepare(connection)?;
        let mut log = Log::default();
        for _ in 0..ROOM_STEPS {
            self.commit(connection, &mut statements, &mut retainer, None)?;
            // The log is then written from its start again, in the space that it has.
            self.checkpoint(connection, &mut log)?;
            if !retainer.is_behind() {
                break;
            }
        }
        Ok(())
    }

    /// One transaction, in files that are still the store's afterwards. A commit into a
    /// file that was moved meanwhile does not count: what the writer holds of discarded
    /// batches is written to the next file again.
    fn commit(
        &mut self,
        connection: &Connection,
        statements: &mut Statements<'_>,
        retainer: &mut Retainer<'_>,
        batch: Option<&mut Batch>,
    ) -> Result<(), Failure> {
        self.look(connection)?;
        self.transact(statements, retainer, batch)?;
        match self.look_at_commit() {
            // Only the open descriptor still leads to the log. Once all of it is in the file,
            // the commit counts: as a discarded batch it would be stored, and sent again.
            Err(Failure::Changed(Change::LogMoved)) if copy_log(connection).unwrap_or(false) => {}
            outcome => outcome?,
        }
        self.unwritten.clear();
        Ok(())
    }

    /// One transaction: the batch, if there is one, and a step of retention. If
    /// any of it fails, nothing of it has happened.
    fn transact(
        &mut self,
        statements: &mut Statements<'_>,
        retainer: &mut Retainer<'_>,
        batch: Option<&mut Batch>,
    ) -> Result<(), Failure> {
        statements.begin()?;
        let mut added = Added::of(&self.unwritten.batch);
        if let Some(batch) = &batch {
            added += Added::of(batch);
        }
        let unwritten = match self.unwritten.batch.is_empty() {
            true => Ok(()),
            false => statements.write(&mut self.unwritten.batch),
        };
        let written = unwritten.and_then(|()| match batch {
            Some(batch) => statements.write(batch),
            None => Ok(()),
        });
        let outcome = written
            .and_then(|()| {
                added.report_pages = statements.report_pages();
                retainer.step(added)
            })
            .and_then(|removed| {
                let events = retainer.take_removed_events();
                statements.write_progress(&events, self.clock.wall())?;
                statements.commit().map(|()| removed)
            });
        match outcome {
            Ok(removed) => {
                let now = self.clock.now();
                self.drops.count(removed, &mut self.counters, now);
                statements.committed(now);
                Ok(())
            }
            Err(error) => {
                // Some errors have rolled back already; then this is one too.
                statements.rollback().ok();
                drop(retainer.take_removed_events());
                Err(error.into())
            }
        }
    }

    fn count(&mut self, batch: &Batch) {
        let reports = batch.reports.len() as u64;
        if batch.kept {
            self.counters.commits += 1;
            self.counters.reports += reports;
        } else {
            self.counters.failed += 1;
            self.counters.discarded += reports;
        }
    }

    /// Tries again and again until the store can be written, or until there is no
    /// more need to; the first time `at_once` or after [`RETRY`]. What lies ready meanwhile is
    /// discarded.
    fn recover(
        &mut self,
        connection: &mut Option<Connection>,
        mut at_once: bool,
        wait: &mut Wait<'_>,
    ) -> Result<(), Stop> {
        let down_since = self.clock.now();
        let mut reminded = down_since;
        loop {
            let outcome = match std::mem::replace(&mut at_once, true) {
                true => Some(self.try_again(connection)),
                false => None,
            };
            match outcome {
                None => {}
                Some(Ok(())) => {
                    self.slot.give_back(None, Health::Up, self.counters);
                    let down =
                        humantime::format_duration(round(self.clock.now().since(down_since)));
                    log_limited!(info, self.recoveries, self.clock.now(), left_out =>
                        "store available again after {down} store={:?} discarded={} \
                         left_out={left_out}",
                        self.path,
                        self.counters.discarded);
                    return Ok(());
                }
                Some(Err(failure)) if self.clock.now().since(reminded) >= REMIND => {
                    reminded = self.clock.now();
                    self.complain(&failure);
                }
                Some(Err(failure)) => log::debug!("store still unavailable: {failure}"),
            }
            let retry_at = self.clock.now().after(RETRY);
            loop {
                self.slot.give_back(None, Health::Down, self.counters);
                let left = retry_at.since(self.clock.now());
                match wait(&self.slot, left) {
                    Next::Nothing if self.clock.now() >= retry_at => break,
                    Next::Nothing => {}
                    Next::Park => {
                        self.slot.park_writer();
                    }
                    Next::Stop(how) => return Err(how),
                    Next::Batch(batch) => {
                        self.unwritten.take_over(&batch);
                        self.count(&batch);
                        self.slot
                            .give_back(Some(batch), Health::Down, self.counters);
                    }
                }
            }
        }
    }

    /// Sees whether the store can be written.
    ///
    /// A commit whose sync has failed leaves its pages in the log, whole. This
    /// connection knows that they do not count, and writes over them; another
    /// one would take them for a commit, and bring back what was discarded. So
    /// the file is opened anew only if it is another one, or useless as it is.
    fn try_again(&mut self, connection: &mut Option<Connection>) -> Result<(), Failure> {
        if self.files.is_none() {
            // They could not be watched: they may have been moved since they were opened.
            abandon(connection.take());
        }
        if let Some(present) = connection
            && let Err(failure) = self.look(present)
        {
            self.retire(connection, &failure)?;
        }
        let present = match connection {
            Some(present) => present,
            None => {
                let opened = self.open()?;
                self.slot.note_file_replaced();
                connection.insert(opened)
            }
        };
        let probed = probe(present);
        self.note_checkpoint();
        if let Err(error) = &probed
            && let Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) =
                error.sqlite_error_code()
        {
            abandon(connection.take());
            *connection = Some(self.open()?);
        }
        Ok(probed?)
    }

    /// Prepares what serves a file, which reads some of it.
    fn prepare<'c>(
        &self,
        connection: &'c Connection,
    ) -> rusqlite::Result<(Statements<'c>, Retainer<'c>)> {
        let mut statements = Statements::prepare(connection)?;
        let delivery = Arc::clone(&self.delivery);
        let file = self.files.as_ref().map_or((0, 0), Files::store_id);
        statements.deliver(Deliveries::begin(connection, delivery, file, &self.slot)?);
        let clock = self.clock.clone();
        let mut retainer = Retainer::prepare(connection, self.retention, clock)?;
        if let Some(heard_before) = self.surplus {
            retainer.remove_agents(heard_before)?;
        }
        Ok((statements, retainer))
    }

    /// Opens the file at our path, whichever it is.
    fn open(&mut self) -> Result<Connection, Failure> {
        let renewed = self.lock.renew();
        renewed.map_err(|error| OpenError::Lock(self.path.clone(), error))?;
        let connection = open(&self.path)?;
        self.watch(&connection)?;
        self.witness = None;
        Ok(connection)
    }

    /// Watches the files that `connection` has opened.
    fn watch(&mut self, connection: &Connection) -> Result<(), Failure> {
        let before = self.files.take();
        let files = Files::watch(&self.path, connection, before).map_err(Failure::Watch)?;
        self.files = Some(files);
        Ok(())
    }

    /// Closes a file that is not the store any more, so that nothing of it gets into the file
    /// that is at its path now, or that will be. What was committed goes into the file itself
    /// first, wherever that was moved to.
    ///
    /// # Errors
    /// [`Failure::Held`] if that is not possible yet; the file then stays open.
    fn retire(
        &mut self,
        connection: &mut Option<Connection>,
        why: &Failure,
    ) -> Result<(), Failure> {
        let Some(present) = connection else {
            return Ok(());
        };
        let files = self.files.as_ref();
        match why {
            Failure::Changed(Change::Moved | Change::LogMoved) => {
                let is_moved = copy_log(present).unwrap_or(false);
                if !is_moved && files.is_some_and(Files::has_name) {
                    return Err(Failure::Held);
                }
                abandon(connection.take());
                match why {
                    Failure::Changed(Change::LogMoved) => {
                        // Whichever is there now was never this file's.
                        files.inspect(|files| files.set_log_aside());
                    }
                    _ => {
                        files.inspect(|files| files.remove_log());
                    }
                }
            }
            Failure::Changed(Change::Overwritten) => {
                abandon(connection.take());
                files.inspect(|files| files.set_log_aside());
            }
            _ => abandon(connection.take()),
        }
        Ok(())
    }

    /// Whether the files are as this process left them, and its lock holds.
    fn look(&mut self, connection: &Connection) -> Result<(), Failure> {
        if let Some(files) = &mut self.files {
            files.check(connection)?;
        }
        let renewed = self.lock.renew();
        renewed.map_err(|error| OpenError::Lock(self.path.clone(), error).into())
    }

    /// Whether what was just committed is in the store's files.
    fn look_at_commit(&mut self) -> Result<(), Failure> {
        match &mut self.files {
            Some(files) => Ok(files.check_commit(wal_pages())?),
            None => Ok(()),
        }
    }

    /// Moves the log into the file; true if that was all of it.
    fn checkpoint(&mut self, connection: &Connection, log: &mut Log) -> Result<bool, Failure> {
        self.look(connection)?;
        let pages = wal_pages();
        let all = checkpoint(connection, "PASSIVE")?;
        self.note_checkpoint();
        log.is_held = !all;
        log.checkpoint_at = if all { 0 } else { pages } + CHECKPOINT_PAGES;
        self.warn_if_swollen(pages, all);
        Ok(all)
    }

    /// Moves the log into the file and empties it, unless another program reads: it is then
    /// left for the next opening. Waits for no lock.
    fn empty_log(&mut self, connection: &Connection) {
        if self.look(connection).is_ok() {
            let emptied = without_waiting(connection, || checkpoint(connection, "TRUNCATE"));
            if let Err(error) = emptied {
                log::debug!("the store's log is left: {error}");
            }
            self.note_checkpoint();
        }
    }

    fn note_checkpoint(&mut self) {
        if let Some(files) = &mut self.files {
            files.note_checkpoint();
        }
    }

    fn note_log(&mut self) {
        self.counters.wal_bytes = self.files.as_ref().map_or(0, Files::log_bytes);
    }

    /// Logs why the store is down, and tells the reactor.
    fn fail(&mut self, failure: &Failure) -> End {
        self.complain(failure);
        self.slot.give_back(None, Health::Down, self.counters);
        End::Failed
    }

    fn complain(&mut self, failure: &Failure) {
        log_limited!(warn, self.complaints, self.clock.now(), left_out =>
            "store unavailable, reports are answered busy: {failure} store={:?} \
             left_out={left_out}",
            self.path);
    }

    /// A log that cannot be moved into the file grows with every commit.
    fn warn_if_swollen(&mut self, pages: u32, emptied: bool) {
        let swollen = !emptied && pages >= SWOLLEN_PAGES;
        if swollen && !self.swollen {
            log::warn!(
                "the store's log has grown to {pages} pages, because some other program has been \
                 reading for long; end its transaction store={:?}",
                self.path
            );
        }
        self.swollen = swollen;
    }
}

/// Closes the file. Whoever has it open last moves the log into it and removes that,
/// which is for the other process to do if we leave it the file
/// (<https://sqlite.org/c3ref/c_dbconfig_defensive.html>, "NO_CKPT_ON_CLOSE").
fn close(connection: Connection, how: Stop) {
    if how == Stop::Leave {
        let off = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        if let Err(error) = off {
            log::warn!("the store is closed as if nobody else had it open: {error}");
        }
    }
    drop(connection);
}

/// Closes a file and leaves its log as it is.
fn abandon(connection: Option<Connection>) {
    if let Some(connection) = connection {
        close(connection, Stop::Leave);
    }
}

/// Copies all of the log into the file; whether that was possible. Waits for no lock.
fn copy_log(connection: &Connection) -> rusqlite::Result<bool> {
    without_waiting(connection, || {
        checkpoint(connection, "PASSIVE")?;
        // It also empties the log, if no other program reads.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            let (log, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok(log == moved)
        })
    })
}

/// Runs `work`, in which a lock of another program is an error at once.
fn without_waiting<T>(
    connection: &Connection,
    work: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.busy_timeout(Duration::ZERO)?;
    let outcome = work();
    connection.busy_timeout(LOCK_PATIENCE)?;
    outcome
}

/// Writes something, although it is the same: a page, the log and a sync.
fn probe(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let written = connection
        .pragma_update(None, "user_version", VERSION)
        .and_then(|()| connection.execute_batch("COMMIT"));
    if let Err(error) = written {
        // Some errors have rolled back already; then this is one too.
        connection.execute_batch("ROLLBACK").ok();
        return Err(error);
    }
    checkpoint(connection, "PASSIVE").map(drop)
}

/// Moves the log into the file; whether that was all of it.
fn checkpoint(connection: &Connection, how: &str) -> rusqlite::Result<bool> {
    let pragma = format!("PRAGMA wal_checkpoint({how})");
    connection.query_row(&pragma, [], |row| {
        let (busy, log, moved): (bool, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(!busy && log == moved)
    })
}

/// An error with its causes, in one line.
fn whole(error: &OpenError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        // SQLite's word stands in the text already.
        if !error.is::<rusqlite::Error>() {
            text = format!("{text}: {error}");
        }
        cause = error.source();
    }
    text
}

/// To whole seconds: a span for people to read.
fn round(span: Duration) -> Duration {
    Duration::from_secs(span.as_secs().max(1))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::hooks::Action;

    use super::*;
    use crate::store::{AgentRecord, EventRecord};

    /// A batch with an event of an agent.
    fn batch_with_event(online: bool) -> Batch {
        let now = UnixNanos::from_nanos(7);
        let agent = AgentRecord {
            name: Some("web-01"),
            address: [10, 0, 0, 7].into(),
            version: "1.0",
            first_seen: now,
            last_seen: now,
            online,
            changed_at: now,
            interval: 0,
            hours: Some(1),
            last_hour: 0,
            watched: true,
            report_interval: 0,
            cloned_at: 0,
        };
        let event = EventRecord {
            name: agent.name,
            address: agent.address,
            version: agent.version,
            last_seen: now,
            at: now,
            online,
            established: false,
        };
        let mut batch = Batch::default();
        let index = batch.add_agent(1, &agent);
        batch.add_event(1, Some(index), &event);
        batch
    }

    fn events(connection: &Connection) -> Vec<String> {
        let mut events = connection
            .prepare("SELECT state FROM events ORDER BY seq")
            .unwrap();
        let rows = events.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn writer(folder: &tempfile::TempDir, retention: Retention) -> Writer {
        let path = folder.path().join("hawk.db");
        let lock = Arc::new(Lock::take(&path).unwrap());
        Writer::new(path, retention, lock)
    }

    fn count(connection: &Connection, table: &str) -> i64 {
        let query = format!("SELECT count(*) FROM {table}");
        connection.query_row(&query, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_stop_removes_no_log_of_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder, Retention::UNLIMITED);
        let connection = writer.open().unwrap();
        let log = folder.path().join("hawk.db-wal");
        writer.write(Some(connection), &mut |_, _| {
            fs::rename(&log, folder.path().join("away")).unwrap();
            fs::write(&log, "the log of another file").unwrap();
            Next::Stop(Stop::Finish)
        });
        let contents = fs::read_dir(folder.path()).unwrap();
        let mut contents = contents.map(|file| fs::read(file.unwrap().path()).unwrap());
        assert!(contents.any(|bytes| bytes == b"the log of another file"));
    }

    #[test]
    fn a_batch_whose_log_is_removed_during_its_commit_is_committed_or_not_stored() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder, Retention::UNLIMITED);
        let mut connection = writer.open().unwrap();
        let log = folder.path().join("hawk.db-wal");
        let remove = move |_: Action, _: &str, table: &str, _: i64| {
            if table == "events" {
                fs::remove_file(&log).ok();
            }
        };
        connection.update_hook(Some(remove)).unwrap();
        let (mut statements, mut retainer) = writer.prepare(&connection).unwrap();
        let mut batch = batch_with_event(true);
        let outcome = writer.commit(
            &connection,
            &mut statements,
            &mut retainer,
            Some(&mut batch),
        );
        drop((statements, retainer));
        connection
            .update_hook(None::<fn(Action, &str, &str, i64)>)
            .unwrap();
        let mut connection = Some(connection);
        writer.try_again(&mut connection).unwrap();
        assert!(writer.files.as_ref().is_some_and(Files::has_log));
        let stored = count(&connection.unwrap(), "events");
        assert_eq!(stored, i64::from(outcome.is_ok()));
        assert_eq!(stored, 1, "no other program reads");
    }

    #[test]
    fn retention_makes_room_when_a_batch_does_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        let retention = Retention {
            age: Duration::from_secs(86_400),
            ..Retention::UNLIMITED
        };
        let mut writer = writer(&folder, retention);
        let connection = writer.open().unwrap();
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
            INSERT INTO reports SELECT i, 1, '', hex(zeroblob(500)), 0, 0, 1, NULL FROM n";
        connection.execute(rows, []).unwrap();
        // The newest time in the store says that the clock is right.
        let now = UnixNanos::now().as_nanos();
        let newest = "INSERT INTO reports VALUES (1001, 1, '', '', 0, 0, ?1, NULL)";
        connection.execute(newest, [now]).unwrap();
        let pages: i64 = connection
            .pragma_query_value(None, "page_count", |row| row.get(0))
            .unwrap();
        let limit = format!("PRAGMA max_page_count = {pages}");
        let limited: i64 = connection.query_row(&limit, [], |row| row.get(0)).unwrap();
        assert_eq!(limited, pages);
        let mut batch = batch_with_event(true);
        let event = EventRecord {
            name: Some("web-01"),
            address: [10, 0, 0, 7].into(),
            version: "1.0",
            last_seen: UnixNanos::from_nanos(7),
            at: UnixNanos::now(),
            online: true,
            established: true,
        };
        (0..1000).for_each(|_| batch.add_event(1, None, &event));
        let mut tasks = vec![Next::Stop(Stop::Finish), Next::Nothing, Next::Batch(batch)];
        let slot = Arc::clone(&writer.slot);
        writer.write(Some(connection), &mut |_, _| tasks.pop().unwrap());
        assert!(tasks.is_empty());
        assert_eq!(slot.counters().failed, 1);
        let connection = Connection::open(folder.path().join("hawk.db")).unwrap();
        assert!(count(&connection, "reports") < 1001);
        assert_eq!(count(&connection, "events WHERE established"), 1000);
    }

    #[test]
    fn files_that_cannot_be_watched_are_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder, Retention::UNLIMITED);
        let connection = open(&writer.path).unwrap();
        fs::remove_file(folder.path().join("hawk.db-wal")).unwrap();
        let slot = Arc::clone(&writer.slot);
        let mut tasks = vec![
            Next::Stop(Stop::Finish),
            Next::Batch(batch_with_event(true)),
        ];
        writer.write(Some(connection), &mut |_, _| tasks.pop().unwrap());
        assert_eq!(slot.counters().commits, 1);
    }

    #[test]
    fn events_of_discarded_batches_outlive_a_commit_into_a_file_that_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let [path, away] = ["hawk.db", "away.db"].map(|name| folder.path().join(name));
        let lock = Arc::new(Lock::take(&path).unwrap());
        let mut writer = Writer::new(path.clone(), Retention::UNLIMITED, lock);
        let mut connection = writer.open().unwrap();
        writer.unwritten.take_over(&batch_with_event(false));
        let (from, to) = (path, away);
        let rename = move |_: Action, _: &str, table: &str, _: i64| {
            if table == "events" && !to.exists() {
                fs::rename(&from, &to).unwrap();
            }
        };
        connection.update_hook(Some(rename)).unwrap();
        let mut batch = batch_with_event(true);
        let (mut statements, mut retainer) = writer.prepare(&connection).unwrap();
        let failure = writer
            .commit(
                &connection,
                &mut statements,
                &mut retainer,
                Some(&mut batch),
            )
            .unwrap_err();
        assert!(
            matches!(failure, Failure::Changed(Change::Moved)),
            "{failure}"
        );
        drop((statements, retainer));
        writer.unwritten.take_over(&batch);
        let mut connection = Some(connection);
        writer.try_again(&mut connection).unwrap();
        let connection = connection.unwrap();
        let (mut statements, mut retainer) = writer.prepare(&connection).unwrap();
        writer
            .commit(&connection, &mut statements, &mut retainer, None)
            .unwrap();
        assert!(writer.unwritten.batch.is_empty());
        drop((statements, retainer));
        assert_eq!(events(&connection), ["offline", "online"]);
    }
}
