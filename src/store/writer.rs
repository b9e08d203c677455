//! The writer: one thread that commits batches, one after the other.
//!
//! Start at [`Writer::serve`]. It commits until something fails; [`Writer::recover`] then
//! discards batches until the store can be written again, and the next `serve` begins.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};

use super::clock_guard::UnsavedPause;
use super::delivery::{Deliveries, Delivery};
use super::files::{FileChange, Files};
use super::open::{LOCK_PATIENCE, OpenError, explain, open, wal_pages};
use super::producer::{BatchSlot, Next, Stop};
use super::retention::{Added, RemovalLog, Retainer, Retention};
use super::schema::{self, Fitness, VERSION};
use super::statements::Statements;
use super::{AgentIndex, Batch, BatchProducer, Health, Lock};
use crate::stats::StoreCounters;
use hawk_time::{Clock, Throttle, UnixNanos, log_limited};

/// Pages in the log at which they are moved into the file: 8 MiB. The log is then written from
/// its start again, over pages that are on disk already: a sync is then several times as fast as
/// a sync that makes the file longer.
const CHECKPOINT_PAGES: u32 = 1000;

/// Pages in the log at which another program must be holding it: 256 MiB.
const SWOLLEN_PAGES: u32 = 32 * CHECKPOINT_PAGES;

/// Interval of housekeeping without batches.
const IDLE: Duration = Duration::from_secs(1);

/// How long the writer waits for a batch when rows must be removed.
const IDLE_BEHIND: Duration = Duration::from_millis(10);

/// Interval of attempts while the store is down.
const RETRY: Duration = Duration::from_secs(1);

/// Interval of the log line while the store is down.
const REMIND: Duration = Duration::from_secs(60);

/// Maximum number of events of discarded batches that are kept until the store can be
/// written: some 10 MB of memory, or 30 MB if all names and versions have their maximum length.
const MAX_UNWRITTEN: usize = 100_000;

/// Maximum number of transactions of retention alone, after a write failed for want of space.
const ROOM_STEPS: u32 = 16;

/// Log lines in 10 s that say that the store is down, and that it is back.
const CHANGES: u32 = 5;

/// The writer without its connection.
pub(super) struct Writer {
    path: PathBuf,
    retention: Retention,
    pub(super) slot: Arc<BatchSlot>,
    /// The right to write.
    lock: Arc<Lock>,
    pub(super) clock: Clock,
    counters: StoreCounters,
    unwritten: Unwritten,
    removals: RemovalLog,
    /// A pause of expiry by age, or its end, that the file may not have: it goes with the
    /// transaction that saves it, and outlasts the connection.
    unsaved_pause: Option<UnsavedPause>,
    /// Agents with the last packet before this time are removed if they are offline and not
    /// established.
    pub(super) surplus: Option<UnixNanos>,
    pub(super) delivery: Arc<Delivery>,
    /// The open files; `None` before they are watched.
    files: Option<Files>,
    /// The file lacks agents of the roster until a rewrite of them is complete.
    is_rewriting: bool,
    /// Keeps the file in use until it is open for writing; see [`super::StandbyStore`].
    witness: Option<Connection>,
    /// The files have been usable since the last attempt to recover.
    was_usable: bool,
    /// The last failure was for want of space.
    was_full: bool,
    /// The log line about a log that has grown too long was written.
    is_swollen: bool,
    /// A store that fails with each batch, and not in between, changes its health as often as
    /// agents send reports.
    complaints: Throttle,
    recoveries: Throttle,
}

/// Waits for the next task, at most for the given time.
type Wait<'w> = dyn FnMut(&BatchSlot, Duration) -> Next + 'w;

/// Agents, events and removals of discarded batches. They are written before the next batch, so
/// that events keep their order.
#[derive(Default)]
struct Unwritten {
    batch: Batch,
    /// Index of each agent by its reference.
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

    /// Empties it after its commit.
    fn clear(&mut self) {
        for (what, lost) in [
            ("events", self.lost_events),
            ("changes of agents", self.lost_changes),
        ] {
            if lost > 0 {
                log::warn!("{what} lost while the store was unavailable: {lost}");
            }
        }
        if !self.batch.is_empty() || self.lost_events + self.lost_changes > 0 {
            *self = Self::default();
        }
    }
}

/// A file that is being written.
struct Served<'c> {
    connection: &'c Connection,
    statements: Statements<'c>,
    retainer: Retainer<'c>,
    /// Pages in the log at which the next checkpoint is due.
    checkpoint_at: u32,
    /// Another program reads, so that the last checkpoint was not complete.
    is_log_held: bool,
}

/// Why [`Writer::serve`] returned.
enum End {
    Stopped(Stop),
    Failed,
    /// The file is damaged where it is read first.
    Unprepared,
}

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}", explain(.0))]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Changed(#[from] FileChange),
    #[error("its files cannot be examined: {0}")]
    Watch(#[source] io::Error),
    #[error(
        "its file was moved, and what was committed last cannot be written to it while another \
         program reads it; end that program"
    )]
    Held,
    #[error("{}", with_causes(.0))]
    Open(#[from] OpenError),
}

impl Failure {
    fn is_want_of_space(&self) -> bool {
        let Self::Sqlite(error) = self else {
            return false;
        };
        // A write beyond the limit of file sizes is an I/O error.
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure)
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
            removals: RemovalLog::default(),
            unsaved_pause: None,
            surplus: None,
            delivery: Arc::default(),
            files: None,
            is_rewriting: false,
            witness: None,
            was_usable: true,
            was_full: false,
            is_swollen: false,
            complaints: Throttle::bursts_of(CHANGES),
            recoveries: Throttle::bursts_of(CHANGES),
        }
    }

    /// Returns the reactor's end.
    pub(super) fn producer(&self) -> BatchProducer {
        BatchProducer::new(Arc::clone(&self.slot), Arc::clone(&self.lock))
    }

    /// Commits batches until a stop is ordered.
    pub(super) fn run(self, connection: Connection) {
        self.write(Some(connection), &mut BatchSlot::take);
    }

    /// Commits batches until a stop is ordered, on the caller's thread. Instead of waiting for
    /// a batch it calls `idle` with the time to wait. If `idle` breaks, it leaves the file as
    /// it is.
    pub(super) fn run_inline(
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

    /// Waits until it is resumed, opens the file, and commits batches until a stop is ordered.
    /// A file that cannot be opened is treated as a file that cannot be written.
    pub(super) fn open_and_run(mut self, witness: Connection) {
        if !self.slot.park_writer() {
            return;
        }
        // Operators read the lock file to find the writing process.
        if let Err(error) = self.lock.sign() {
            log::warn!("{error}");
        }
        let is_older = matches!(schema::examine(&witness), Ok(Fitness::Older(_)));
        self.witness = Some(witness);
        let opened = self.open().inspect_err(|failure| self.fail(failure));
        if is_older {
            // Rows of older tables lack columns of their agents: they are written anew.
            self.is_rewriting = true;
            self.slot.request_rewrite();
        }
        self.write(opened.ok(), &mut BatchSlot::take);
    }

    fn write(mut self, mut connection: Option<Connection>, wait: &mut Wait<'_>) {
        if let Some(connection) = &mut connection {
            // Removes the bound on the work of the start: see `Work`.
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
            // A file that fails each time it is used may pass an attempt to recover.
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

    /// Commits batches until a failure or a stop.
    fn serve(&mut self, connection: &Connection, wait: &mut Wait<'_>) -> End {
        if self.files.is_none()
            && let Err(failure) = self.watch(connection)
        {
            self.fail(&failure);
            return End::Failed;
        }
        let mut served = match self.prepare(connection) {
            Ok(served) => served,
            Err(error) => {
                self.fail(&error.into());
                return End::Unprepared;
            }
        };
        loop {
            if self.slot.take_confirmation() {
                served.retainer.confirm_clock();
                self.unsaved_pause = served.retainer.unsaved_pause();
            }
            let progress_due = served.statements.deliveries.due_in(self.clock.now());
            let patience = match served.retainer.is_behind() {
                true => IDLE_BEHIND,
                false => progress_due.map_or(IDLE, |due| due.min(IDLE)),
            };
            let next = wait(&self.slot, patience);
            let has_rest =
                !self.unwritten.batch.is_empty() || served.statements.deliveries.has_progress();
            let outcome = match next {
                Next::Stop(how) => {
                    if how == Stop::Finish {
                        if has_rest && let Err(failure) = self.commit(&mut served, None) {
                            self.complain(&failure);
                        }
                        self.slot.note_committed();
                        self.empty_log(connection);
                    }
                    return End::Stopped(how);
                }
                Next::Park if !has_rest => {
                    self.slot.park_writer();
                    Ok(())
                }
                Next::Nothing if !self.is_commit_due(&served) => self.housekeeping(&mut served),
                Next::Park | Next::Nothing => self.commit_and_complete(&mut served, None),
                Next::Batch(batch) => self.commit_and_complete(&mut served, Some(batch)),
            };
            if let Err(failure) = outcome {
                self.was_full = failure.is_want_of_space();
                self.complain(&failure);
                return End::Failed;
            }
        }
    }

    /// Whether a transaction is due without a batch.
    fn is_commit_due(&self, served: &Served<'_>) -> bool {
        let progress_due = served.statements.deliveries.due_in(self.clock.now());
        served.retainer.is_behind()
            || !self.unwritten.batch.is_empty()
            || progress_due.is_some_and(|due| due.is_zero())
    }

    /// Checks the files, and empties a log that another program has held.
    fn housekeeping(&mut self, served: &mut Served<'_>) -> Result<(), Failure> {
        let outcome = self.check_files(served.connection).and_then(|()| {
            if served.is_log_held && self.checkpoint(served)? {
                self.empty_log(served.connection);
                self.note_log();
            }
            Ok(())
        });
        self.was_usable |= outcome.is_ok();
        self.complete(None, outcome.is_ok());
        outcome
    }

    /// Commits a batch, completes it, and moves a long log into the file.
    fn commit_and_complete(
        &mut self,
        served: &mut Served<'_>,
        mut batch: Option<Batch>,
    ) -> Result<(), Failure> {
        let outcome = self.commit(served, batch.as_mut());
        if let Some(batch) = &mut batch {
            batch.is_committed = outcome.is_ok();
            if let Some((_, rewrite)) = batch.complete_at
                && outcome.is_ok()
                && rewrite == served.statements.rewrite
            {
                self.is_rewriting = false;
            }
            if outcome.is_err() {
                self.unwritten.take_over(batch);
            }
            self.count(batch);
        }
        self.counters.bytes = served.retainer.bytes;
        self.counters.expiry_paused = u64::from(served.retainer.is_paused());
        self.unsaved_pause = served.retainer.unsaved_pause();
        self.note_log();
        self.was_usable |= outcome.is_ok();
        // Replies wait for the batch: it is completed before the checkpoint.
        self.complete(batch, outcome.is_ok());
        outcome?;
        let checkpoint_at_once = served.retainer.is_short_of_space && wal_pages() > 0;
        if wal_pages() >= served.checkpoint_at || checkpoint_at_once {
            self.checkpoint(served)?;
        }
        Ok(())
    }

    /// Commits one transaction into files that are still the store's afterwards. A commit into
    /// a file that another program moved does not count: the rows of discarded
    /// batches are then written to the next file as well.
    fn commit(
        &mut self,
        served: &mut Served<'_>,
        batch: Option<&mut Batch>,
    ) -> Result<(), Failure> {
        self.check_files(served.connection)?;
        self.transact(served, batch)?;
        match self.check_commit() {
            // Only the open descriptor still leads to the log. Once all of it is in the file,
            // the commit counts: as a discarded batch it would be stored, and sent again.
            Err(Failure::Changed(FileChange::LogMoved))
                if copy_log(served.connection).unwrap_or(false) => {}
            outcome => outcome?,
        }
        self.unwritten.clear();
        Ok(())
    }

    /// Writes the rows of discarded batches and a batch, and takes a step of retention, in one
    /// transaction.
    fn transact(
        &mut self,
        served: &mut Served<'_>,
        batch: Option<&mut Batch>,
    ) -> Result<(), Failure> {
        let Served {
            statements,
            retainer,
            ..
        } = served;
        statements.begin()?;
        let step = || {
            let mut added = Added::default();
            let unwritten = Some(&mut self.unwritten.batch).filter(|batch| !batch.is_empty());
            for batch in unwritten.into_iter().chain(batch) {
                added += Added::of(batch);
                statements.write(batch)?;
            }
            added.report_pages = statements.report_pages;
            let removed = retainer.step(added)?;
            let events = std::mem::take(&mut retainer.removed_events);
            statements.deliveries.write(&events, self.clock.wall())?;
            statements.commit().map(|()| removed)
        };
        match step() {
            Ok(removed) => {
                let now = self.clock.now();
                self.removals.count(removed, &mut self.counters, now);
                statements.deliveries.committed(now);
                Ok(())
            }
            Err(error) => {
                // After some errors SQLite has rolled back already; then this fails too.
                statements.rollback().ok();
                retainer.removed_events.clear();
                Err(error.into())
            }
        }
    }

    /// Removes old reports in transactions of their own. Together with rows that do not fit on
    /// the disk they would be rolled back, and the disk would stay full.
    fn make_room(&mut self, connection: &Connection) {
        let unwritten = std::mem::take(&mut self.unwritten);
        if let Err(failure) = self.retain_alone(connection) {
            log::debug!("retention cannot make room: {failure}");
        }
        self.unwritten = unwritten;
    }

    fn retain_alone(&mut self, connection: &Connection) -> Result<(), Failure> {
        let mut served = self.prepare(connection)?;
        for _ in 0..ROOM_STEPS {
            self.commit(&mut served, None)?;
            // The log is then written from its start again, in the space that it has.
            self.checkpoint(&mut served)?;
            if !served.retainer.is_behind() {
                break;
            }
        }
        Ok(())
    }

    fn count(&mut self, batch: &Batch) {
        let reports = batch.reports.len() as u64;
        if batch.is_committed {
            self.counters.commits += 1;
            self.counters.reports += reports;
        } else {
            self.counters.failed += 1;
            self.counters.discarded += reports;
        }
    }

    /// Tries to write the store until that succeeds or a stop is ordered: first at once or
    /// after [`RETRY`], then at this interval. Discards the batches that are submitted
    /// meanwhile.
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
                    if self.is_rewriting {
                        // The statements of the next `serve` know none of the rows.
                        self.slot.request_rewrite();
                    }
                    self.complete(None, true);
                    let down = self.clock.now().since(down_since).as_secs().max(1);
                    let down = humantime::format_duration(Duration::from_secs(down));
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
                self.complete(None, false);
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
                        self.complete(Some(batch), false);
                    }
                }
            }
        }
    }

    /// Tests whether the store can be written.
    ///
    /// After a failed sync the pages of the commit are in the log. The connection of that
    /// commit ignores them and overwrites them; a new connection would read them as a commit, and
    /// bring discarded reports back. So the file is opened anew only if it is another file, or
    /// if its connection is useless.
    fn try_again(&mut self, connection: &mut Option<Connection>) -> Result<(), Failure> {
        if self.files.is_none() {
            // They could not be watched: they may have been moved since they were opened.
            abandon(connection.take());
        }
        if let Some(present) = connection
            && let Err(failure) = self.check_files(present)
        {
            self.retire(connection, &failure)?;
        }
        let present = match connection {
            Some(present) => present,
            None => {
                let opened = self.open()?;
                self.is_rewriting = true;
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

    /// Prepares statements and retention for a file.
    fn prepare<'c>(&self, connection: &'c Connection) -> rusqlite::Result<Served<'c>> {
        let delivery = Arc::clone(&self.delivery);
        let file = self.files.as_ref().map_or((0, 0), Files::store_id);
        let deliveries = Deliveries::begin(connection, delivery, file, &self.slot)?;
        let mut statements = Statements::prepare(connection, deliveries)?;
        statements.rewrite = self.slot.last_rewrite();
        let mut retainer = Retainer::prepare(
            connection,
            self.retention,
            self.clock.clone(),
            self.unsaved_pause,
        )?;
        if let Some(seen_before) = self.surplus {
            retainer.remove_agents(seen_before)?;
        }
        Ok(Served {
            connection,
            statements,
            retainer,
            checkpoint_at: CHECKPOINT_PAGES,
            is_log_held: false,
        })
    }

    /// Opens the file that is at the store's path now.
    fn open(&mut self) -> Result<Connection, Failure> {
        self.renew_lock()?;
        let connection = open(&self.path)?;
        self.watch(&connection)?;
        self.witness = None;
        Ok(connection)
    }

    /// Watches the files of `connection`.
    fn watch(&mut self, connection: &Connection) -> Result<(), Failure> {
        let before = self.files.take();
        let files = Files::watch(&self.path, connection, before).map_err(Failure::Watch)?;
        self.files = Some(files);
        Ok(())
    }

    fn renew_lock(&self) -> Result<(), Failure> {
        let renewed = self.lock.renew();
        renewed.map_err(|error| OpenError::Lock(self.path.clone(), error).into())
    }

    /// Closes a file that is no longer the store, so that none of its pages reach another file
    /// at its path. Moves its log into it first, at its new path.
    ///
    /// # Errors
    /// [`Failure::Held`] while another program prevents the latter; the file stays open.
    fn retire(
        &mut self,
        connection: &mut Option<Connection>,
        why: &Failure,
    ) -> Result<(), Failure> {
        let Some(present) = connection else {
            return Ok(());
        };
        let files = self.files.as_ref();
        let Failure::Changed(change) = why else {
            abandon(connection.take());
            return Ok(());
        };
        if let FileChange::Moved | FileChange::LogMoved = change {
            let is_moved = copy_log(present).unwrap_or(false);
            if !is_moved && files.is_some_and(Files::has_name) {
                return Err(Failure::Held);
            }
        }
        abandon(connection.take());
        if let Some(files) = files {
            match change {
                FileChange::Moved => files.remove_log(),
                // A log at the path never was this file's.
                FileChange::LogMoved | FileChange::Overwritten => files.set_log_aside(),
                FileChange::LogTruncated => {}
            }
        }
        Ok(())
    }

    /// Retires the file if another program has moved or replaced it or its log. SQLite would
    /// remove the file at the log's path as it closes: by now another file's log.
    fn retire_at_stop(&mut self, connection: &mut Option<Connection>) {
        if let Some(present) = connection
            && let Err(failure) = self.check_files(present)
            && self.retire(connection, &failure).is_err()
        {
            // The moved file lacks a part of its log.
            abandon(connection.take());
            if let Some(files) = self.files.as_ref().filter(|files| files.has_log()) {
                files.set_log_aside();
            }
        }
    }

    /// Checks that the files are as this process left them, and takes the lock anew if its file
    /// was removed.
    fn check_files(&mut self, connection: &Connection) -> Result<(), Failure> {
        if let Some(files) = &mut self.files {
            files.check(connection)?;
        }
        self.renew_lock()
    }

    /// Checks that the last commit is in the store's files.
    fn check_commit(&mut self) -> Result<(), Failure> {
        match &mut self.files {
            Some(files) => Ok(files.check_commit(wal_pages())?),
            None => Ok(()),
        }
    }

    /// Moves the log into the file; true if all of it was moved.
    fn checkpoint(&mut self, served: &mut Served<'_>) -> Result<bool, Failure> {
        self.check_files(served.connection)?;
        let pages = wal_pages();
        let all = checkpoint(served.connection, "PASSIVE")?;
        self.note_checkpoint();
        served.is_log_held = !all;
        served.checkpoint_at = if all { 0 } else { pages } + CHECKPOINT_PAGES;
        let is_swollen = !all && pages >= SWOLLEN_PAGES;
        if is_swollen && !self.is_swollen {
            log::warn!(
                "the store's log has grown to {pages} pages, because some other program has been \
                 reading for long; end its transaction store={:?}",
                self.path
            );
        }
        self.is_swollen = is_swollen;
        Ok(all)
    }

    /// Moves the log into the file and empties it, unless another program reads: the next
    /// opening does it then. Waits for no lock.
    fn empty_log(&mut self, connection: &Connection) {
        if self.check_files(connection).is_ok() {
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

    /// Publishes the health and the counters, and completes a batch.
    fn complete(&self, batch: Option<Batch>, is_up: bool) {
        let health = if is_up { Health::Up } else { Health::Down };
        self.slot.complete(batch, health, self.counters);
    }

    /// Logs why the store is down, and publishes that it is.
    fn fail(&mut self, failure: &Failure) {
        self.complain(failure);
        self.complete(None, false);
    }

    fn complain(&mut self, failure: &Failure) {
        log_limited!(warn, self.complaints, self.clock.now(), left_out =>
            "store unavailable, reports are answered busy: {failure} store={:?} \
             left_out={left_out}",
            self.path);
    }
}

/// Closes a file. The last process with the file open moves the log into it and removes the
/// log; with [`Stop::Leave`] that is left to the successor process
/// (<https://sqlite.org/c3ref/c_dbconfig_defensive.html>, "NO_CKPT_ON_CLOSE").
fn close(connection: Connection, how: Stop) {
    if how == Stop::Leave {
        let off = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        if let Err(error) = off {
            log::warn!("the store is closed with a checkpoint: {error}");
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

/// Copies the log into the file; true if all of it was copied. Waits for no lock.
fn copy_log(connection: &Connection) -> rusqlite::Result<bool> {
    without_waiting(connection, || {
        checkpoint(connection, "PASSIVE")?;
        // It also empties the log if no other program reads.
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

/// Writes a page with its present contents, the log and a sync.
fn probe(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let written = connection
        .pragma_update(None, "user_version", VERSION)
        .and_then(|()| connection.execute_batch("COMMIT"));
    if let Err(error) = written {
        // After some errors SQLite has rolled back already; then this fails too.
        connection.execute_batch("ROLLBACK").ok();
        return Err(error);
    }
    checkpoint(connection, "PASSIVE").map(drop)
}

/// Moves the log into the file; true if all of it was moved.
fn checkpoint(connection: &Connection, how: &str) -> rusqlite::Result<bool> {
    let pragma = format!("PRAGMA wal_checkpoint({how})");
    connection.query_row(&pragma, [], |row| {
        let (busy, log, moved): (bool, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(!busy && log == moved)
    })
}

/// Returns the text of an error with its causes, in one line.
fn with_causes(error: &OpenError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        // The text has SQLite's message already.
        if !error.is::<rusqlite::Error>() {
            text = format!("{text}: {error}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rusqlite::hooks::Action;

    use super::*;
    use crate::store::{AgentRecord, EventRecord, ReportRecord};

    /// A batch with an event of an agent.
    fn batch_with_event(online: bool) -> Batch {
        let now = UnixNanos::from_nanos(7);
        let agent = AgentRecord {
            online,
            ..AgentRecord::sample(Some("web-01"), now)
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
        let mut served = writer.prepare(&connection).unwrap();
        let mut batch = batch_with_event(true);
        let outcome = writer.commit(&mut served, Some(&mut batch));
        drop(served);
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
    fn agents_that_were_rewritten_before_a_failure_stay_online() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder, Retention::UNLIMITED);
        let mut connection = writer.open().unwrap();
        let has_report = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&has_report);
        let see = move |_: Action, _: &str, table: &str, _: i64| {
            seen.fetch_or(table == "reports", Ordering::Relaxed);
        };
        connection.update_hook(Some(see)).unwrap();
        let fail = move || has_report.swap(false, Ordering::Relaxed);
        connection.commit_hook(Some(fail)).unwrap();
        writer.is_rewriting = true;
        writer.slot.request_rewrite();
        let now = UnixNanos::from_nanos(7);
        let agent = AgentRecord::sample(None, now);
        let report = ReportRecord::sample(now);
        let batches = [1, 2, 3].map(|reference| {
            let mut batch = Batch::default();
            let name = format!("web-{reference}");
            let index = batch.add_agent(
                reference,
                &AgentRecord {
                    name: Some(&*name),
                    ..agent
                },
            );
            match reference {
                2 => batch.add_report(index, "10.0.0.7:1".parse().unwrap(), &report),
                3 => batch.complete_agents(now, 1),
                _ => {}
            }
            Next::Batch(batch)
        });
        let slot = Arc::clone(&writer.slot);
        let mut tasks: Vec<_> = batches
            .into_iter()
            .chain([Next::Stop(Stop::Finish)])
            .collect();
        tasks.reverse();
        writer.write(Some(connection), &mut |_, _| tasks.pop().unwrap());
        assert_eq!((slot.counters().failed, slot.last_rewrite()), (1, 2));
        let connection = Connection::open(folder.path().join("hawk.db")).unwrap();
        assert_eq!(count(&connection, "agents WHERE state = 'online'"), 3);
        assert_eq!(count(&connection, "events"), 0);
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
        let mut served = writer.prepare(&connection).unwrap();
        let failure = writer.commit(&mut served, Some(&mut batch)).unwrap_err();
        assert!(
            matches!(failure, Failure::Changed(FileChange::Moved)),
            "{failure}"
        );
        drop(served);
        writer.unwritten.take_over(&batch);
        let mut connection = Some(connection);
        writer.try_again(&mut connection).unwrap();
        let connection = connection.unwrap();
        let mut served = writer.prepare(&connection).unwrap();
        writer.commit(&mut served, None).unwrap();
        assert!(writer.unwritten.batch.is_empty());
        drop(served);
        assert_eq!(events(&connection), ["offline", "online"]);
    }
}
