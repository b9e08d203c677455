//! Retention: what is too old, or too much, is removed, a little with each batch.
//!
//! Reports, agents and events have bounds of their own: many rows of one kind remove none
//! of another kind.

use std::ops::AddAssign;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, Statement};

use super::Batch;
use super::clock_guard::ClockGuard;
use super::pages::{Pages, besides_reports};
use super::surplus::Surplus;
use hawk_time::{Clock, Moment, UnixNanos};

/// How much is stored, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Nothing older than this is kept.
    pub age: Duration,
    /// The oldest reports are removed when reports take more bytes of the file than this.
    pub size: u64,
    /// The oldest reports are removed when the file system has less free space than this.
    pub free: FreeSpace,
}

impl Retention {
    /// Keeps everything.
    pub const UNLIMITED: Self = Self {
        age: Duration::MAX,
        size: u64::MAX,
        free: FreeSpace::Bytes(0),
    };
}

/// Free space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeSpace {
    /// So many hundredths of its size.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

/// Between two looks at whether anything is to go. A look takes some
/// microseconds; at a million reports a second 100 MB come in within one.
const INTERVAL: Duration = Duration::from_millis(50);

/// Between two looks at some agents and at the age of events, which come slowly.
const SLOW_INTERVAL: Duration = Duration::from_secs(10);

/// Reports that are removed before the size is looked at again: some pages full.
const PORTION: u64 = 256;

/// Reports that are looked at in one go for how old they are: a millisecond's work.
const LOOK: u64 = 4096;

/// Agents that a step looks at, and events that it removes beside those that came in, at
/// most: less than a millisecond's work, since replies wait for it. All of 100,000 agents
/// are looked at within a quarter of an hour.
const SLOW_STEP: i64 = 1000;

/// Surplus agents that a step examines, at most: by itself, and together with a batch, which
/// delays that batch's replies.
const SURPLUS_STEP: i64 = 256;
const SURPLUS_STEP_WITH_BATCH: i64 = 32;

/// Events of established agents, at most: some 80 MB, or 350 MB with the longest names and
/// versions.
const MAX_EVENTS: i64 = 1_000_000;

/// Events of other agents, at most: 35 MB with the longest names and versions.
const MAX_OTHER_EVENTS: i64 = 100_000;

/// While the disk is short of space, this part of the file is kept free for what comes
/// next, but [`LEAST_REUSABLE`] bytes at least. No more: another program may have filled
/// the disk, and removing all reports would not change that.
const REUSABLE_PART: i64 = 8;
const LEAST_REUSABLE: u64 = 1 << 20;

/// What the log takes beside the file.
const LOG_SIZE: u64 = 16 << 20;

/// What a transaction has added.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Added {
    pub(super) reports: u64,
    /// Pages that these reports took.
    pub(super) report_pages: i64,
    /// Events of established agents, and of others.
    pub(super) events: i64,
    pub(super) other_events: i64,
}

impl Added {
    /// What a batch adds, but for the pages.
    pub(super) fn of(batch: &Batch) -> Self {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let events = batch.events.iter();
        let other_events = number(events.filter(|event| !event.established).count());
        Self {
            reports: batch.reports.len() as u64,
            report_pages: 0,
            events: number(batch.events.len()) - other_events,
            other_events,
        }
    }
}

impl AddAssign for Added {
    fn add_assign(&mut self, other: Self) {
        self.reports += other.reports;
        self.report_pages += other.report_pages;
        self.events += other.events;
        self.other_events += other.other_events;
    }
}

/// What a step has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Removed {
    /// Reports.
    pub(super) reports: u64,
    /// Of these, reports that were not older than the limit.
    pub(super) early: u64,
    /// Events beyond their number.
    pub(super) events: u64,
    /// Agents beyond their number.
    pub(super) agents: u64,
}

/// Why reports are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Age,
    Size,
    FreeSpace,
}

/// Removes what is too old or too much.
pub(super) struct Retainer<'c> {
    connection: &'c Connection,
    limits: Retention,
    clock: Clock,
    page_size: i64,
    pages: Pages<'c>,
    disk: Option<PathBuf>,
    guard: ClockGuard<'c>,
    first: Statement<'c>,
    next_times: Statement<'c>,
    oldest: Statement<'c>,
    delete_reports: Statement<'c>,
    delete_times: Statement<'c>,
    next_agents: Statement<'c>,
    delete_agents: Statement<'c>,
    next_events: Statement<'c>,
    delete_old_events: Statement<'c>,
    delete_events: Statement<'c>,
    delete_other_events: Statement<'c>,
    forget_other_events: Statement<'c>,
    /// Events that were removed and not asked for: their numbers, and whether their agents
    /// were established.
    removed_events: Vec<(i64, bool)>,
    next_look: Moment,
    next_slow_look: Moment,
    /// The agent that was looked at last; those with higher numbers are next.
    looked_at: i64,
    /// Reports up to this sequence number are too old.
    old_until: i64,
    /// Reports up to this one are too old or have a time that was still to come.
    looked_until: i64,
    /// Reports and pages that were added since the last look, or are still to be made up for.
    added: u64,
    added_pages: i64,
    /// There is more to remove than the last step did.
    behind: bool,
    /// Pages that reports take; `None` until that matters.
    report_pages: Option<i64>,
    events: i64,
    other_events: i64,
    /// Established agents' events have greater numbers than this.
    events_from: i64,
    /// Events up to this sequence number are too old.
    old_events_until: i64,
    /// Events up to this one are too old or have a time that was still to come.
    events_looked_until: i64,
    surplus: Option<Surplus<'c>>,
    /// The disk had too little free space at the last look.
    short_of_space: bool,
    bytes: u64,
}

impl<'c> Retainer<'c> {
    pub(super) fn prepare(
        connection: &'c Connection,
        limits: Retention,
        clock: Clock,
    ) -> rusqlite::Result<Self> {
        let now = clock.now();
        let mut pages = Pages::prepare(connection)?;
        let page_size: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let all = pages.all()?;
        let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0));
        let other_events = number("SELECT count(*) FROM other_events")?;
        // A count reads all of them: not as long as there cannot be too many.
        let range = number("SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM events")?;
        let events = match range > MAX_EVENTS {
            true => number("SELECT count(*) FROM events")? - other_events,
            false => range - other_events,
        };
        let path = connection.path().filter(|path| !path.is_empty());
        Ok(Self {
            connection,
            limits,
            page_size,
            pages,
            disk: path.map(PathBuf::from),
            guard: ClockGuard::prepare(connection, clock.clone(), limits.age)?,
            first: connection.prepare("SELECT min(seq) FROM reports")?,
            // A row of version 1 has its time in its key.
            next_times: connection.prepare(
                "SELECT seq, coalesce(received_at, seq) FROM reports \
                 WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            )?,
            oldest: connection
                .prepare("SELECT seq, octet_length(content) FROM reports ORDER BY seq LIMIT ?1")?,
            delete_reports: connection.prepare("DELETE FROM reports WHERE seq < ?1")?,
            delete_times: connection.prepare("DELETE FROM times WHERE last < ?1")?,
            next_agents: connection.prepare(
                "SELECT max(id) FROM (SELECT id FROM agents WHERE id > ?1 ORDER BY id LIMIT ?2)",
            )?,
            delete_agents: connection.prepare(
                "DELETE FROM agents WHERE id > ?1 AND id <= ?2 \
                 AND last_seen < ?3 AND state = 'offline'",
            )?,
            next_events: connection
                .prepare("SELECT seq, at FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2")?,
            delete_old_events: connection.prepare(
                "DELETE FROM events WHERE seq IN \
                 (SELECT seq FROM events WHERE seq <= ?1 ORDER BY seq LIMIT ?2) \
                 RETURNING established, seq",
            )?,
            delete_events: connection.prepare(
                "DELETE FROM events WHERE seq IN (SELECT seq FROM events \
                 WHERE seq > ?1 AND established ORDER BY seq LIMIT ?2) RETURNING seq",
            )?,
            delete_other_events: connection.prepare(
                "DELETE FROM events WHERE seq IN \
                 (SELECT seq FROM other_events ORDER BY seq LIMIT ?1) RETURNING seq",
            )?,
            forget_other_events: connection.prepare(
                "DELETE FROM other_events WHERE seq IN \
                 (SELECT seq FROM other_events ORDER BY seq LIMIT ?1)",
            )?,
            removed_events: Vec::new(),
            next_look: now,
            next_slow_look: now,
            looked_at: 0,
            old_until: i64::MIN,
            looked_until: i64::MIN,
            added: 0,
            added_pages: 0,
            behind: false,
            report_pages: None,
            events,
            other_events,
            events_from: i64::MIN,
            old_events_until: i64::MIN,
            events_looked_until: i64::MIN,
            surplus: None,
            short_of_space: false,
            bytes: (all * page_size).cast_unsigned(),
            clock,
        })
    }

    /// Removes agents that were heard last before `heard_before` as well, if they are
    /// offline and not established.
    pub(super) fn remove_agents(&mut self, heard_before: UnixNanos) -> rusqlite::Result<()> {
        self.surplus = Some(Surplus::of(self.connection, heard_before)?);
        Ok(())
    }

    /// Bytes of the file that hold something, as of the last look.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the disk is short of space: the log is then to stay short.
    pub(super) const fn is_short_of_space(&self) -> bool {
        self.short_of_space
    }

    /// Whether there is something to remove that need not wait for a batch.
    pub(super) fn is_behind(&self) -> bool {
        let now = self.clock.now();
        self.behind
            || self.surplus.is_some()
            || self.events > MAX_EVENTS
            || self.other_events > MAX_OTHER_EVENTS
            || now >= self.next_slow_look
            || (self.added > 0 && now >= self.next_look)
    }

    /// Events that were removed since the last call: their numbers, and whether their agents
    /// were established.
    pub(super) fn take_removed_events(&mut self) -> Vec<(i64, bool)> {
        std::mem::take(&mut self.removed_events)
    }

    /// Takes a step, within the transaction at hand, in which `added` was added.
    ///
    /// It removes more than was added if there is so much to remove, by the number of
    /// rows and by their pages, and so it keeps up with any rate.
    pub(super) fn step(&mut self, added: Added) -> rusqlite::Result<Removed> {
        self.added += added.reports;
        self.added_pages += added.report_pages;
        if let Some(pages) = &mut self.report_pages {
            *pages += added.report_pages;
        }
        let mut removed = Removed {
            events: self.remove_events(added)?,
            ..Removed::default()
        };
        let now = self.clock.now();
        if !self.behind && self.surplus.is_none() && now < self.next_look {
            return Ok(removed);
        }
        self.next_look = now.after(INTERVAL);
        let horizon = match self.guard.allows_expiry()? {
            true => self.clock.wall().before(self.limits.age).as_nanos(),
            // Nothing is from before.
            false => i64::MIN,
        };
        if now >= self.next_slow_look {
            self.next_slow_look = now.after(SLOW_INTERVAL);
            self.look_at_agents(horizon)?;
            self.remove_old_events(horizon)?;
        }
        if let Some(surplus) = &mut self.surplus {
            let is_alone = added.reports == 0 && added.events + added.other_events == 0;
            let most = if is_alone {
                SURPLUS_STEP
            } else {
                SURPLUS_STEP_WITH_BATCH
            };
            match surplus.step(most)? {
                Some(agents) => removed.agents = agents,
                None => self.surplus = None,
            }
        }
        self.remove_reports(horizon, &mut removed)?;
        Ok(removed)
    }

    fn remove_reports(&mut self, horizon: i64, removed: &mut Removed) -> rusqlite::Result<()> {
        // A quarter more than came in: what is over gets less.
        let most = (self.added + self.added / 4).max(PORTION);
        let most_pages = self.added_pages + self.added_pages / 4;
        let mut freed = 0;
        while removed.reports < most || freed < most_pages {
            let before = self.pages.in_use()?;
            let Some((bound, reason)) = self.bound(horizon, before)? else {
                self.behind = false;
                (self.added, self.added_pages) = (0, 0);
                return Ok(());
            };
            let count = self.delete_reports.execute([bound])? as u64;
            self.delete_times.execute([bound])?;
            if count == 0 {
                // The highest number there is, which no bound is above, or a damaged table.
                self.behind = false;
                (self.added, self.added_pages) = (0, 0);
                return Ok(());
            }
            removed.reports += count;
            if reason != Reason::Age {
                removed.early += count;
            }
            let pages = before - self.pages.in_use()?;
            freed += pages;
            if let Some(taken) = &mut self.report_pages {
                *taken -= pages;
            }
        }
        self.behind = true;
        self.added = self.added.saturating_sub(removed.reports);
        self.added_pages = (self.added_pages - freed).max(0);
        Ok(())
    }

    /// Removes the oldest events of a kind of which there are too many: as many as came in
    /// and some more.
    fn remove_events(&mut self, added: Added) -> rusqlite::Result<u64> {
        self.events += added.events;
        self.other_events += added.other_events;
        let mut removed = 0;
        let too_many = self.other_events - MAX_OTHER_EVENTS;
        if too_many > 0 {
            let most = too_many.min(added.other_events + SLOW_STEP);
            let rows = self
                .delete_other_events
                .query_map([most], |row| row.get(0))?;
            for seq in rows {
                self.removed_events.push((seq?, false));
                removed += 1;
            }
            let forgotten = self.forget_other_events.execute([most])?;
            self.other_events -= i64::try_from(forgotten).unwrap_or(0);
        }
        let too_many = self.events - MAX_EVENTS;
        if too_many > 0 {
            let most = too_many.min(added.events + SLOW_STEP);
            let mut rows = self.delete_events.query((self.events_from, most))?;
            let mut count = 0;
            while let Some(row) = rows.next()? {
                let seq = row.get(0)?;
                self.removed_events.push((seq, true));
                self.events_from = self.events_from.max(seq);
                count += 1;
            }
            if count == 0 {
                // There are none: the count was too high.
                self.events = 0;
            }
            self.events -= count;
            removed += usize::try_from(count).unwrap_or(0);
        }
        Ok(removed as u64)
    }

    /// Removes some events that are older than the horizon, in the order of arrival: the
    /// last event that is left of an agent is its last one. An event whose time is still to
    /// come goes with the first behind it that is too old.
    fn remove_old_events(&mut self, horizon: i64) -> rusqlite::Result<()> {
        if horizon == i64::MIN {
            (self.old_events_until, self.events_looked_until) = (i64::MIN, i64::MIN);
            return Ok(());
        }
        let now = self.clock.wall().as_nanos();
        let mut rows = self
            .next_events
            .query((self.events_looked_until, SLOW_STEP))?;
        while let Some(row) = rows.next()? {
            let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
            if at < horizon {
                self.old_events_until = seq;
            } else if at <= now {
                break;
            }
            self.events_looked_until = seq;
        }
        drop(rows);
        let bound = self.old_events_until;
        let mut rows = self.delete_old_events.query((bound, SLOW_STEP))?;
        let (mut events, mut others) = (0, 0);
        while let Some(row) = rows.next()? {
            let established: bool = row.get(0)?;
            self.removed_events.push((row.get(1)?, established));
            *(if established {
                &mut events
            } else {
                &mut others
            }) += 1;
        }
        drop(rows);
        self.events -= events;
        if others > 0 {
            // They were the first of them.
            let forgotten = self.forget_other_events.execute([others])?;
            self.other_events -= i64::try_from(forgotten).unwrap_or(0);
        }
        Ok(())
    }

    /// Removes those of the next agents that have been silent since the horizon; after the
    /// last it begins with the first again, the next time.
    fn look_at_agents(&mut self, horizon: i64) -> rusqlite::Result<()> {
        let from = self.looked_at;
        let next = (from, SLOW_STEP);
        let to: Option<i64> = self.next_agents.query_row(next, |row| row.get(0))?;
        if let Some(to) = to {
            self.delete_agents.execute((from, to, horizon))?;
        }
        self.looked_at = to.unwrap_or(0);
        Ok(())
    }

    /// Why reports are to go that are not too old, and how many bytes of them, if any are;
    /// given the pages in use.
    fn too_much(&mut self, in_use: i64) -> rusqlite::Result<Option<(Reason, u64)>> {
        self.bytes = (in_use * self.page_size).cast_unsigned();
        if self.bytes > self.limits.size {
            let pages = match self.report_pages {
                Some(pages) => pages,
                None => in_use - besides_reports(self.connection)?,
            };
            self.report_pages = Some(pages);
            let taken = (pages * self.page_size).max(0).cast_unsigned();
            if taken > self.limits.size {
                return Ok(Some((Reason::Size, taken - self.limits.size)));
            }
        }
        let lacking = self.lacking_space()?;
        self.short_of_space = lacking.is_some();
        Ok(lacking.map(|bytes| (Reason::FreeSpace, bytes)))
    }

    /// How many bytes more are to be free in the file, because the disk has too little free
    /// space, the file's free pages included.
    fn lacking_space(&mut self) -> rusqlite::Result<Option<u64>> {
        if let FreeSpace::Bytes(0) | FreeSpace::Percent(0) = self.limits.free {
            return Ok(None);
        }
        let disk = self.disk.as_ref();
        let Some(disk) = disk.and_then(|path| rustix::fs::statvfs(path).ok()) else {
            return Ok(None);
        };
        let wanted = match self.limits.free {
            FreeSpace::Bytes(bytes) => bytes,
            FreeSpace::Percent(percent) => {
                let size = u128::from(disk.f_blocks) * u128::from(disk.f_frsize);
                u64::try_from(size * u128::from(percent) / 100).unwrap_or(u64::MAX)
            }
        };
        // No more than the file may still grow.
        let growth = self.limits.size.saturating_sub(self.bytes);
        let wanted = wanted.min(growth.saturating_add(LOG_SIZE));
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let reusable = (self.pages.free()? * self.page_size).cast_unsigned();
        let part = (self.pages.all()? * self.page_size / REUSABLE_PART).cast_unsigned();
        let enough = part.max(LEAST_REUSABLE);
        let lacking = wanted.saturating_sub(free.saturating_add(reusable));
        let lacking = lacking.min(enough.saturating_sub(reusable));
        Ok((lacking > 0).then_some(lacking))
    }

    /// Reports with a lower sequence number than this are the next portion to go, and why.
    fn bound(&mut self, horizon: i64, in_use: i64) -> rusqlite::Result<Option<(i64, Reason)>> {
        let too_much = self.too_much(in_use)?;
        let Some(first) = self.first.query_row([], |row| row.get(0))? else {
            return Ok(None);
        };
        self.look_for_old(first, horizon)?;
        let mut rows = self.oldest.query([PORTION + 1])?;
        let (mut seen, mut bound, mut reason, mut bytes) = (0, None, Reason::Age, 0_u64);
        while let Some(row) = rows.next()? {
            let (seq, length): (i64, i64) = (row.get(0)?, row.get(1)?);
            if seen == PORTION {
                bound = bound.map(|_| seq);
                break;
            }
            seen += 1;
            if seq <= self.old_until {
                bound = Some(seq.saturating_add(1));
            } else if let Some((too_much, excess)) = too_much {
                bound = Some(seq.saturating_add(1));
                reason = too_much;
                bytes += length.cast_unsigned();
                if bytes >= excess {
                    break;
                }
            } else {
                break;
            }
        }
        Ok(bound.map(|bound| (bound, reason)))
    }

    /// Looks how far reports are too old, in the order of arrival, from the `first` on.
    ///
    /// A clock that was ahead has left times that are still to come: such a report goes
    /// with the first behind it that is too old, and does not hold that one up.
    fn look_for_old(&mut self, first: i64, horizon: i64) -> rusqlite::Result<()> {
        if horizon == i64::MIN {
            (self.old_until, self.looked_until) = (i64::MIN, i64::MIN);
            return Ok(());
        }
        if first <= self.old_until {
            return Ok(());
        }
        let now = self.clock.wall().as_nanos();
        let mut rows = self.next_times.query((self.looked_until, LOOK))?;
        while let Some(row) = rows.next()? {
            let (seq, received_at): (i64, i64) = (row.get(0)?, row.get(1)?);
            if received_at < horizon {
                self.old_until = seq;
            } else if received_at <= now {
                break;
            }
            self.looked_until = seq;
        }
        Ok(())
    }

    /// Whether expiry by age is paused until the clock is confirmed.
    pub(super) const fn is_paused(&self) -> bool {
        self.guard.is_paused()
    }

    /// The operator says that the clock is right.
    pub(super) fn confirm_clock(&mut self) {
        self.guard.confirm();
        self.next_look = self.clock.now();
        self.behind = true;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::schema;
    use hawk_time::ManualClock;

    fn open() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
    }

    fn count(connection: &Connection, table: &str) -> i64 {
        let query = format!("SELECT count(*) FROM {table}");
        connection.query_row(&query, [], |row| row.get(0)).unwrap()
    }

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    #[test]
    fn old_reports_go_in_steps_and_young_ones_stay() {
        let connection = open();
        let old = UnixNanos::now().before(2 * YEAR).as_nanos();
        connection
            .execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
                 INSERT INTO reports SELECT i, 1, '', '', 0, 0, ?1 + i, NULL FROM n",
                [old],
            )
            .unwrap();
        let now = UnixNanos::now().as_nanos();
        connection
            .execute(
                "INSERT INTO reports VALUES (NULL, 1, '', '', 0, 0, ?1, NULL)",
                [now],
            )
            .unwrap();
        let limits = Retention {
            age: YEAR,
            size: u64::MAX,
            ..Retention::UNLIMITED
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        let mut steps = Vec::new();
        while steps.last() != Some(&0) {
            steps.push(retainer.step(Added::default()).unwrap().reports);
        }
        assert_eq!(steps, [256, 256, 256, 232, 0]);
        assert_eq!(count(&connection, "reports"), 1);
        assert!(!retainer.is_behind());
    }

    #[test]
    fn no_more_goes_than_is_too_much_however_much_was_added() {
        let connection = open();
        let now = UnixNanos::now().as_nanos();
        connection
            .execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
                 INSERT INTO reports SELECT i, 1, '', hex(zeroblob(500)), 0, 0, ?1, NULL FROM n",
                [now],
            )
            .unwrap();
        let limits = Retention {
            age: YEAR,
            size: 8 << 20,
            ..Retention::UNLIMITED
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        let removed = retainer
            .step(Added {
                reports: 10_000,
                ..Added::default()
            })
            .unwrap();
        assert!(!retainer.is_behind());
        let taken = retainer.report_pages.unwrap() * retainer.page_size;
        assert!(taken <= 8 << 20);
        // One portion is 256 KB.
        assert!(taken > (8 << 20) - (300 << 10));
        assert_eq!(
            count(&connection, "reports"),
            10_000 - removed.reports.cast_signed()
        );
    }

    /// Fills a table from 1 to `count`: `row` may use `i`.
    fn fill(connection: &Connection, table: &str, count: i64, row: &str) {
        let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?1)";
        let fill = format!("{numbers} INSERT INTO {table} SELECT {row} FROM n");
        connection.execute(&fill, [count]).unwrap();
    }

    const EVENT: &str = "NULL, 900000000000000000, 1, 'online', 'x', '10.0.0.7', '1', 0";

    #[test]
    fn agents_and_events_push_no_reports_out() {
        let connection = open();
        let now = UnixNanos::now().as_nanos();
        fill(&connection, "events", 30_000, &format!("{EVENT}, 1"));
        let agent = "i, hex(zeroblob(60)) || i, '', '', 0, 9000000000000000000, 'offline', 0, 0, 0, 0, \
                     NULL, 1, 0, 1, 0, 0";
        fill(&connection, "agents", 5000, agent);
        fill(
            &connection,
            "reports",
            100,
            &format!("i, 1, '', 'x', 0, 0, {now}, NULL"),
        );
        let limits = Retention {
            size: 1 << 20,
            ..Retention::UNLIMITED
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        let removed = retainer.step(Added::default()).unwrap();
        assert!(retainer.bytes() > limits.size);
        assert_eq!(removed, Removed::default());
        assert!(!retainer.is_behind());
    }

    #[test]
    fn expiry_keeps_up_with_reports_that_are_longer_than_those_it_removes() {
        let connection = open();
        let now = UnixNanos::now().as_nanos();
        fill(
            &connection,
            "reports",
            50_000,
            &format!("i, 1, '', 'x', 0, 0, {now}, NULL"),
        );
        let limits = Retention {
            size: 1 << 20,
            ..Retention::UNLIMITED
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        while retainer.behind || retainer.report_pages.is_none() {
            retainer.step(Added::default()).unwrap();
        }
        let mut pages = Pages::prepare(&connection).unwrap();
        let reports = |connection: &Connection| {
            let pages = "SELECT count(*) FROM dbstat WHERE name = 'reports'";
            connection
                .query_row(pages, [], |row| row.get::<_, i64>(0))
                .unwrap()
        };
        assert_eq!(retainer.report_pages, Some(reports(&connection)));
        for round in 0..20 {
            let before = pages.in_use().unwrap();
            let row = "NULL, 1, '', hex(zeroblob(4000)), 0, 0, 0, NULL";
            fill(
                &connection,
                "reports",
                50,
                &row.replace("0, NULL", &format!("{now}, NULL")),
            );
            retainer.next_look = Moment::now();
            let added = Added {
                reports: 50,
                report_pages: pages.in_use().unwrap() - before,
                ..Added::default()
            };
            let removed = retainer.step(added).unwrap();
            assert_eq!(removed.early, removed.reports);
            assert_eq!(retainer.report_pages, Some(reports(&connection)), "{round}");
            let bytes = reports(&connection) * retainer.page_size;
            assert!(bytes <= 1 << 20, "{round}: {bytes}");
        }
        // Of long reports no more than necessary is removed.
        assert!(reports(&connection) * retainer.page_size > 900 << 10);
    }

    #[test]
    fn events_of_agents_that_are_not_established_have_a_bound_of_their_own() {
        let connection = open();
        fill(&connection, "events", 500, &format!("{EVENT}, 1"));
        fill(
            &connection,
            "events",
            MAX_OTHER_EVENTS + 3000,
            &format!("{EVENT}, 0"),
        );
        connection
            .execute(
                "INSERT INTO other_events SELECT seq FROM events WHERE NOT established",
                [],
            )
            .unwrap();
        let mut retainer =
            Retainer::prepare(&connection, Retention::UNLIMITED, Clock::System).unwrap();
        let mut removed = 0;
        while retainer.is_behind() {
            removed += retainer.step(Added::default()).unwrap().events;
        }
        assert_eq!(removed, 3000);
        let others = "events WHERE NOT established";
        assert_eq!(count(&connection, others), MAX_OTHER_EVENTS);
        assert_eq!(count(&connection, "other_events"), MAX_OTHER_EVENTS);
        assert_eq!(count(&connection, "events WHERE established"), 500);
        // Of established agents as well, however many others come between.
        retainer.events = MAX_EVENTS + 20;
        let removed = retainer.step(Added::default()).unwrap().events;
        assert_eq!(removed, 20);
        assert_eq!(count(&connection, "events WHERE established"), 480);
        let oldest = "SELECT min(seq) FROM events WHERE established";
        let oldest: i64 = connection.query_row(oldest, [], |row| row.get(0)).unwrap();
        assert_eq!(oldest, 21);
    }

    #[test]
    fn events_that_are_too_old_go_from_both_tables() {
        let connection = open();
        for established in ["0", "1"] {
            let event = EVENT.replace("900000000000000000", "1");
            fill(
                &connection,
                "events",
                10,
                &format!("{event}, {established}"),
            );
        }
        fill(&connection, "events", 2, &format!("{EVENT}, 0"));
        connection
            .execute(
                "INSERT INTO other_events SELECT seq FROM events WHERE NOT established",
                [],
            )
            .unwrap();
        let limits = Retention {
            age: 100 * YEAR,
            ..Retention::UNLIMITED
        };
        connection
            .execute(
                "UPDATE events SET at = -9000000000000000000 WHERE at = 1",
                [],
            )
            .unwrap();
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        let removed = retainer.step(Added::default()).unwrap();
        assert_eq!(removed, Removed::default(), "age is not counted");
        assert_eq!(
            (
                count(&connection, "events"),
                count(&connection, "other_events")
            ),
            (2, 2)
        );
        assert_eq!((retainer.events, retainer.other_events), (0, 2));
    }

    #[test]
    fn events_are_removed_by_age_in_their_order() {
        let day = 86_400_000_000_000;
        // What is left of events of these ages in days.
        let left = |ages: &[i64]| -> Vec<i64> {
            let connection = open();
            let now = UnixNanos::now().as_nanos();
            for age in ages {
                let event = EVENT.replace("900000000000000000", &(now - age * day).to_string());
                fill(&connection, "events", 1, &format!("{event}, 1"));
            }
            let limits = Retention {
                age: YEAR,
                ..Retention::UNLIMITED
            };
            let clock = Arc::new(ManualClock::new(Moment::from_nanos(1), UnixNanos::now()));
            let manual = Clock::Manual(Arc::clone(&clock));
            let mut retainer = Retainer::prepare(&connection, limits, manual).unwrap();
            for _ in 0..20 {
                retainer.step(Added::default()).unwrap();
                clock.advance(SLOW_INTERVAL);
            }
            let mut rows = connection
                .prepare("SELECT at FROM events ORDER BY seq")
                .unwrap();
            let rows = rows.query_map([], |row| row.get::<_, i64>(0)).unwrap();
            rows.map(|at| (now - at.unwrap()) / day).collect()
        };
        // The clock was ahead, and then set right or back.
        assert_eq!(left(&[-50, 400, 20]), [20]);
        assert_eq!(left(&[400, -50, 399, -60, 20]), [-60, 20]);
        assert_eq!(left(&[-50, 20]), [-50, 20]);
        // An agent's last event does not go before an earlier one.
        assert_eq!(left(&[20, 400, 19]), [20, 400, 19]);
        let mut many = vec![-50; 1000];
        many.push(400);
        assert_eq!(left(&many), [0; 0]);
    }

    /// What is left of reports of these times, as ages in days, with the last received now.
    fn left(ages: &[i64]) -> Vec<i64> {
        let connection = open();
        let now = UnixNanos::now().as_nanos();
        for age in ages.iter().chain([&0]) {
            let time = now - age * 86_400_000_000_000;
            let insert = "INSERT INTO reports VALUES (NULL, 1, '', '', ?2, 0, ?1, NULL)";
            connection.execute(insert, (time, age)).unwrap();
        }
        let limits = Retention {
            age: YEAR,
            ..Retention::UNLIMITED
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        while retainer.step(Added::default()).unwrap().reports > 0 {}
        let mut rows = connection
            .prepare("SELECT rand FROM reports ORDER BY seq")
            .unwrap();
        let rows = rows.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn a_time_that_is_still_to_come_holds_up_no_expiry() {
        assert_eq!(left(&[-50, 400, 399, 20]), [20, 0]);
        assert_eq!(left(&[400, -50, 399, -60, 20]), [-60, 20, 0]);
        assert_eq!(left(&[-50, 20]), [-50, 20, 0]);
        // More of them than a portion.
        let mut many = vec![-50; 1000];
        many.push(400);
        assert_eq!(left(&many), [0]);
        // What arrived behind a younger report is not removed before it.
        assert_eq!(left(&[20, 400, 19]), [20, 400, 19, 0]);
    }

    #[test]
    fn a_clock_that_jumped_ahead_removes_nothing_until_it_is_confirmed() {
        let connection = open();
        let start = UnixNanos::from_nanos(1_475_249_220_000_000_000);
        let manual = Arc::new(ManualClock::new(Moment::from_nanos(1), start));
        let insert = "INSERT INTO reports VALUES (NULL, 1, '', '', 0, 0, ?1, NULL)";
        connection.execute(insert, [start.as_nanos()]).unwrap();
        let limits = Retention {
            age: YEAR,
            ..Retention::UNLIMITED
        };
        let clock = Clock::Manual(Arc::clone(&manual));
        let mut retainer = Retainer::prepare(&connection, limits, clock).unwrap();
        let step = |retainer: &mut Retainer<'_>| retainer.step(Added::default()).unwrap().reports;
        assert_eq!(step(&mut retainer), 0);
        manual.set(manual.now(), start.after(2 * YEAR));
        manual.advance(SLOW_INTERVAL);
        assert_eq!(step(&mut retainer), 0);
        assert!(retainer.is_paused());
        retainer.confirm_clock();
        assert_eq!(step(&mut retainer), 1);
        assert!(!retainer.is_paused());
    }

    #[test]
    fn agents_that_are_silent_for_long_go_unless_they_are_online() {
        let connection = open();
        let old = UnixNanos::now().before(2 * YEAR).as_nanos();
        for (state, seen) in [("offline", old), ("online", old), ("offline", i64::MAX)] {
            connection
                .execute(
                    "INSERT INTO agents VALUES
                        (NULL, ?1, '', '', 0, ?2, ?3, 0, 0, 0, 0, NULL, 1, 0, 1, 0, 0)",
                    (format!("{state} {seen}"), seen, state),
                )
                .unwrap();
        }
        let limits = Retention {
            age: YEAR,
            size: u64::MAX,
            ..Retention::UNLIMITED
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        retainer.step(Added::default()).unwrap();
        assert_eq!(count(&connection, "agents"), 2);
        assert_eq!(count(&connection, "agents WHERE last_seen < 9e18"), 1);
    }

    #[test]
    fn a_look_at_agents_takes_no_longer_because_there_are_many() {
        let connection = open();
        connection
            .execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
                 INSERT INTO agents SELECT
                    3 * i, i, '', '', 0, 0, 'offline', 0, 0, 0, 0, NULL, 1, 0, 1, 0, 0 FROM n",
                [],
            )
            .unwrap();
        // The newest time in the store says that the clock is right.
        connection
            .execute(
                "INSERT INTO reports VALUES (NULL, 1, '', '', 0, 0, ?1, NULL)",
                [UnixNanos::now().as_nanos()],
            )
            .unwrap();
        let limits = Retention {
            age: YEAR,
            size: u64::MAX,
            ..Retention::UNLIMITED
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        let mut left = Vec::new();
        for _ in 0..5 {
            let now = Moment::now();
            (retainer.next_look, retainer.next_slow_look) = (now, now);
            retainer.step(Added::default()).unwrap();
            left.push(count(&connection, "agents"));
            if left.len() == 3 {
                // It comes in behind those that were looked at: after the last.
                let add = "INSERT INTO agents VALUES
                    (1, 'x', '', '', 0, 0, 'offline', 0, 0, 0, 0, NULL, 1, 0, 1, 0, 0)";
                connection.execute(add, []).unwrap();
            }
        }
        assert_eq!(left, [1500, 500, 0, 1, 0]);
    }
}
