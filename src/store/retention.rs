//! Retention: removes what is too old or too much, a little with each batch.
//!
//! Reports, agents and events have separate bounds: rows of one kind never displace rows of
//! another kind. Start at [`Retainer::step`].

use std::ops::AddAssign;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, Params};

use super::Batch;
use super::clock_guard::{ClockGuard, UnsavedPause};
use crate::stats::StoreCounters;
use hawk_time::{Clock, Moment, Throttle, UnixNanos, log_limited};

/// How much is stored, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Maximum age of reports, events and offline agents.
    pub age: Duration,
    /// Bytes of the file that reports may take; beyond it the oldest are removed.
    pub size: u64,
    /// Free space of the file system below which the oldest reports are removed.
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
    /// Hundredths of its size.
    Percent(u8),
    /// Bytes.
    Bytes(u64),
}

/// Interval of checks whether reports must be removed. A check takes some microseconds; at a
/// million reports a second 100 MB arrive in one interval.
const INTERVAL: Duration = Duration::from_millis(50);

/// Interval of checks of some agents and of the age of events.
const SLOW_INTERVAL: Duration = Duration::from_secs(10);

/// Reports that are removed between two checks of the size: some pages.
const PORTION: u64 = 256;

/// Reports that are checked for their age at a time: a millisecond of work.
const AGE_CHECK: i64 = 4096;

/// Maximum number of agents that a step checks, and of events that it removes beside those
/// that the batch added: less than a millisecond of work, since replies wait for it. 100,000
/// agents are checked within a quarter of an hour.
const SLOW_STEP: i64 = 1000;

/// Maximum number of surplus agents that a step checks: alone, and together with a batch, since
/// it delays the batch's replies.
const SURPLUS_STEP: i64 = 256;
const SURPLUS_STEP_WITH_BATCH: i64 = 32;

/// Maximum number of events of established agents: some 80 MB, or 350 MB with the longest names
/// and versions.
const MAX_EVENTS: i64 = 1_000_000;

/// Maximum number of events of other agents: 35 MB with the longest names and versions.
const MAX_OTHER_EVENTS: i64 = 100_000;

/// While the disk is short of space, this part of the file is kept free for new rows, at least
/// [`LEAST_REUSABLE`] bytes. Not more: if another program filled the disk, removing all reports
/// would not change that.
const REUSABLE_PART: i64 = 8;
const LEAST_REUSABLE: u64 = 1 << 20;

/// Bytes of the log beside the file.
const LOG_SIZE: u64 = 16 << 20;

/// Interval of the log lines about each bound.
const REMOVALS_LOGGED: Duration = Duration::from_secs(3600);

/// Number of different hours with a packet that makes an agent established.
pub(super) const ESTABLISHED_HOURS: u32 = 3;

/// Whether a row is of an established agent: it sent packets in three different hours, or again
/// a day or more after the first packet. In a row without counted hours (version 1), an agent is
/// established if it sent three packets or more, over two hours or more.
pub(super) const ESTABLISHED: &str = "CASE WHEN hours IS NULL \
    THEN heartbeats + reports >= 3 AND last_seen - first_seen >= 7200000000000 \
    ELSE hours >= 3 OR last_seen - first_seen >= 86400000000000 END";

/// Whether the silence of a row's agent is judged. In a row of version 1 it is if the agent has
/// sent a heartbeat.
pub(super) const JUDGED: &str = "watched AND (heartbeats > 0 OR report_interval > 0)";

/// Number of rows that a transaction adds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Added {
    pub(super) reports: u64,
    /// Pages that these reports take.
    pub(super) report_pages: i64,
    /// Events of established agents, and of others.
    pub(super) events: i64,
    pub(super) other_events: i64,
}

impl Added {
    /// Returns the rows of a batch, without pages.
    pub(super) fn of(batch: &Batch) -> Self {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let events = batch.events.iter();
        let other_events = number(events.filter(|event| !event.record.established).count());
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

/// Number of rows that a step removes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Removed {
    /// Reports.
    pub(super) reports: u64,
    /// Of these, reports that were younger than the age limit.
    pub(super) early: u64,
    /// Events beyond their maximum number.
    pub(super) events: u64,
    /// Agents beyond their maximum number.
    pub(super) agents: u64,
}

/// Log lines about what bounds remove, each once an hour.
pub(super) struct RemovalLog([Throttle; 3]);

impl Default for RemovalLog {
    fn default() -> Self {
        Self([(); 3].map(|()| Throttle::every(REMOVALS_LOGGED)))
    }
}

impl RemovalLog {
    /// Counts and logs what a committed step has removed.
    pub(super) fn count(&mut self, removed: Removed, counters: &mut StoreCounters, now: Moment) {
        counters.expired += removed.reports;
        counters.expired_early += removed.early;
        counters.dropped_events += removed.events;
        counters.dropped_agents += removed.agents;
        let lines = [
            (
                removed.early,
                "reports are removed before they are older than --retain, because of \
                 --retain-size or --retain-free expired_early",
                counters.expired_early,
            ),
            (
                removed.events,
                "events are removed before they are older than --retain, because there are too \
                 many dropped_events",
                counters.dropped_events,
            ),
            (
                removed.agents,
                "agents that are not established are removed from the store, because there are \
                 more than --max-agents dropped_agents",
                counters.dropped_agents,
            ),
        ];
        for ((count, text, all), throttle) in lines.into_iter().zip(&mut self.0) {
            if count > 0 {
                log_limited!(warn, throttle, now, _left_out => "{text}={all}");
            }
        }
    }
}

/// Returns the number of pages of the file, also within a transaction.
fn pages(connection: &Connection) -> rusqlite::Result<i64> {
    let mut all = connection.prepare_cached("PRAGMA page_count")?;
    all.query_row([], |row| row.get(0))
}

/// Returns the number of free pages, which are used before the file grows.
fn free_pages(connection: &Connection) -> rusqlite::Result<i64> {
    let mut free = connection.prepare_cached("PRAGMA freelist_count")?;
    free.query_row([], |row| row.get(0))
}

/// Returns the number of pages in use.
pub(super) fn pages_in_use(connection: &Connection) -> rusqlite::Result<i64> {
    Ok(pages(connection)? - free_pages(connection)?)
}

/// Returns the number of pages in use by everything but reports. Does not read the pages of
/// reports: there may be very many.
fn besides_reports(connection: &Connection) -> rusqlite::Result<i64> {
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

/// The rows of a journal that are too old, in the order of arrival.
///
/// A row with a future time, because the clock was ahead, does not keep later rows: it is
/// removed together with the first row after it that is too old.
struct AgeLimit {
    /// Selects sequence number and time of at most `?2` rows after `?1`, in order.
    next: &'static str,
    /// Rows up to this sequence number are too old.
    old_until: i64,
    /// Rows up to this sequence number are too old or have a future time.
    checked_until: i64,
}

impl AgeLimit {
    const fn new(next: &'static str) -> Self {
        Self {
            next,
            old_until: i64::MIN,
            checked_until: i64::MIN,
        }
    }

    /// Checks at most `most` further rows against the horizon; [`i64::MIN`] keeps all rows.
    fn check(
        &mut self,
        connection: &Connection,
        horizon: i64,
        now: UnixNanos,
        most: i64,
    ) -> rusqlite::Result<()> {
        if horizon == i64::MIN {
            (self.old_until, self.checked_until) = (i64::MIN, i64::MIN);
            return Ok(());
        }
        let mut next = connection.prepare_cached(self.next)?;
        let mut rows = next.query((self.checked_until, most))?;
        while let Some(row) = rows.next()? {
            let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
            if at < horizon {
                self.old_until = seq;
            } else if at <= now.as_nanos() {
                break;
            }
            self.checked_until = seq;
        }
        Ok(())
    }
}

/// Why reports are removed.
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
    disk: Option<PathBuf>,
    guard: ClockGuard<'c>,
    /// Events that the open transaction removes: sequence number, and whether the agent was
    /// established.
    pub(super) removed_events: Vec<(i64, bool)>,
    next_check: Moment,
    next_slow_check: Moment,
    /// The agent that was checked last.
    checked_agent: i64,
    old_reports: AgeLimit,
    old_events: AgeLimit,
    /// Reports and pages that were added and not yet compensated.
    added: u64,
    added_pages: i64,
    /// More must be removed than the last step removed.
    is_behind: bool,
    /// Pages that reports take; `None` until the size matters.
    report_pages: Option<i64>,
    events: i64,
    other_events: i64,
    /// Events of established agents have greater numbers than this.
    events_from: i64,
    surplus: Option<SurplusAgents>,
    /// The disk had too little free space at the last check. The log must then stay short.
    pub(super) is_short_of_space: bool,
    /// Bytes of the file in use, as of the last check.
    pub(super) bytes: u64,
}

impl<'c> Retainer<'c> {
    pub(super) fn prepare(
        connection: &'c Connection,
        limits: Retention,
        clock: Clock,
        unsaved: Option<UnsavedPause>,
    ) -> rusqlite::Result<Self> {
        let now = clock.now();
        let page_size: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0));
        let other_events = number("SELECT count(*) FROM other_events")?;
        // A count reads all rows: only if there may be too many.
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
            disk: path.map(PathBuf::from),
            guard: ClockGuard::prepare(connection, clock.clone(), limits.age, unsaved)?,
            removed_events: Vec::new(),
            next_check: now,
            next_slow_check: now,
            checked_agent: 0,
            // The key of a report of version 1 is its time.
            old_reports: AgeLimit::new(
                "SELECT seq, coalesce(received_at, seq) FROM reports \
                 WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            ),
            old_events: AgeLimit::new(
                "SELECT seq, at FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            ),
            added: 0,
            added_pages: 0,
            is_behind: false,
            report_pages: None,
            events,
            other_events,
            events_from: i64::MIN,
            surplus: None,
            is_short_of_space: false,
            bytes: (pages(connection)? * page_size).cast_unsigned(),
            clock,
        })
    }

    /// Also removes agents with the last packet before `seen_before` that are offline and not
    /// established.
    pub(super) fn remove_agents(&mut self, seen_before: UnixNanos) -> rusqlite::Result<()> {
        self.surplus = Some(SurplusAgents::new(self.connection, seen_before)?);
        Ok(())
    }

    /// Returns the pause of expiry by age, or its end, that may not be in the file.
    pub(super) fn unsaved_pause(&self) -> Option<UnsavedPause> {
        self.guard.unsaved()
    }

    /// Whether expiry by age is paused until the clock is confirmed.
    pub(super) const fn is_paused(&self) -> bool {
        self.guard.is_paused()
    }

    /// Resumes expiry by age: the operator confirms the clock.
    pub(super) fn confirm_clock(&mut self) {
        self.guard.confirm();
        self.next_check = self.clock.now();
        self.is_behind = true;
    }

    /// Whether a step is due without a batch.
    pub(super) fn is_behind(&self) -> bool {
        let now = self.clock.now();
        self.is_behind
            || self.surplus.is_some()
            || self.events > MAX_EVENTS
            || self.other_events > MAX_OTHER_EVENTS
            || now >= self.next_slow_check
            || (self.added > 0 && now >= self.next_check)
    }

    /// Takes a step within the open transaction, which has `added` rows.
    ///
    /// If there is so much to remove, it removes more rows and more pages than were added. So
    /// it keeps up with any rate.
    pub(super) fn step(&mut self, added: Added) -> rusqlite::Result<Removed> {
        self.added += added.reports;
        self.added_pages += added.report_pages;
        if let Some(pages) = &mut self.report_pages {
            *pages += added.report_pages;
        }
        let mut removed = Removed {
            events: self.remove_surplus_events(added)?,
            ..Removed::default()
        };
        let now = self.clock.now();
        if !self.is_behind && self.surplus.is_none() && now < self.next_check {
            return Ok(removed);
        }
        self.next_check = now.after(INTERVAL);
        let horizon = match self.guard.allows_expiry()? {
            true => self.clock.wall().before(self.limits.age).as_nanos(),
            // No time is earlier.
            false => i64::MIN,
        };
        if now >= self.next_slow_check {
            self.next_slow_check = now.after(SLOW_INTERVAL);
            self.remove_old_agents(horizon)?;
            self.remove_old_events(horizon)?;
        }
        if let Some(surplus) = &mut self.surplus {
            let is_alone = added.reports == 0 && added.events + added.other_events == 0;
            let most = if is_alone {
                SURPLUS_STEP
            } else {
                SURPLUS_STEP_WITH_BATCH
            };
            match surplus.step(self.connection, most)? {
                Some(agents) => removed.agents = agents,
                None => self.surplus = None,
            }
        }
        self.remove_reports(horizon, &mut removed)?;
        Ok(removed)
    }

    fn remove_reports(&mut self, horizon: i64, removed: &mut Removed) -> rusqlite::Result<()> {
        // A quarter more than was added: the excess shrinks.
        let most = (self.added + self.added / 4).max(PORTION);
        let most_pages = self.added_pages + self.added_pages / 4;
        let mut freed = 0;
        while removed.reports < most || freed < most_pages {
            let before = pages_in_use(self.connection)?;
            let Some((bound, reason)) = self.bound(horizon, before)? else {
                return self.keep_up();
            };
            let count = self.execute("DELETE FROM reports WHERE seq < ?1", [bound])?;
            self.execute("DELETE FROM times WHERE last < ?1", [bound])?;
            if count == 0 {
                // The greatest number, which no bound is above, or a damaged table.
                return self.keep_up();
            }
            removed.reports += count as u64;
            if reason != Reason::Age {
                removed.early += count as u64;
            }
            let pages = before - pages_in_use(self.connection)?;
            freed += pages;
            if let Some(taken) = &mut self.report_pages {
                *taken -= pages;
            }
        }
        self.is_behind = true;
        self.added = self.added.saturating_sub(removed.reports);
        self.added_pages = (self.added_pages - freed).max(0);
        Ok(())
    }

    /// Notes that no more reports must be removed.
    const fn keep_up(&mut self) -> rusqlite::Result<()> {
        self.is_behind = false;
        (self.added, self.added_pages) = (0, 0);
        Ok(())
    }

    /// Removes the oldest events of a kind beyond its maximum number: as many as were added,
    /// and some more.
    fn remove_surplus_events(&mut self, added: Added) -> rusqlite::Result<u64> {
        self.events += added.events;
        self.other_events += added.other_events;
        let before = self.removed_events.len();
        let surplus = self.other_events - MAX_OTHER_EVENTS;
        if surplus > 0 {
            let most = surplus.min(added.other_events + SLOW_STEP);
            self.delete_events(
                "DELETE FROM events WHERE seq IN \
                 (SELECT seq FROM other_events ORDER BY seq LIMIT ?1) RETURNING seq, 0",
                [most],
            )?;
            self.unlist_other_events(most)?;
        }
        let surplus = self.events - MAX_EVENTS;
        if surplus > 0 {
            let most = surplus.min(added.events + SLOW_STEP);
            let deleted = self.delete_events(
                "DELETE FROM events WHERE seq IN (SELECT seq FROM events \
                 WHERE seq > ?1 AND established ORDER BY seq LIMIT ?2) RETURNING seq, 1",
                (self.events_from, most),
            )?;
            let last = deleted.iter().map(|(seq, _)| *seq).max();
            let count = i64::try_from(deleted.len()).unwrap_or(0);
            self.events = match last {
                Some(_) => self.events - count,
                // The table has none: the count was too high.
                None => 0,
            };
            self.events_from = last.map_or(self.events_from, |last| self.events_from.max(last));
        }
        Ok((self.removed_events.len() - before) as u64)
    }

    /// Removes the first `count` rows of `other_events`.
    fn unlist_other_events(&mut self, count: i64) -> rusqlite::Result<()> {
        let unlisted = self.execute(
            "DELETE FROM other_events WHERE seq IN \
             (SELECT seq FROM other_events ORDER BY seq LIMIT ?1)",
            [count],
        )?;
        self.other_events -= i64::try_from(unlisted).unwrap_or(0);
        Ok(())
    }

    /// Runs a DELETE of events that returns their sequence number, and whether their agent was
    /// established. Returns these events, which are the last of `removed_events`.
    fn delete_events(
        &mut self,
        delete: &str,
        bounds: impl Params,
    ) -> rusqlite::Result<&[(i64, bool)]> {
        let before = self.removed_events.len();
        let mut delete = self.connection.prepare_cached(delete)?;
        let rows = delete.query_map(bounds, |row| Ok((row.get(0)?, row.get(1)?)))?;
        for event in rows {
            self.removed_events.push(event?);
        }
        Ok(&self.removed_events[before..])
    }

    fn execute(&self, delete: &str, bounds: impl Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(delete)?.execute(bounds)
    }

    /// Removes some events before the horizon, in the order of arrival: the last event that is
    /// left of an agent is its last one.
    fn remove_old_events(&mut self, horizon: i64) -> rusqlite::Result<()> {
        let now = self.clock.wall();
        self.old_events
            .check(self.connection, horizon, now, SLOW_STEP)?;
        if horizon == i64::MIN {
            return Ok(());
        }
        let deleted = self.delete_events(
            "DELETE FROM events WHERE seq IN \
             (SELECT seq FROM events WHERE seq <= ?1 ORDER BY seq LIMIT ?2) \
             RETURNING seq, established",
            (self.old_events.old_until, SLOW_STEP),
        )?;
        let all = i64::try_from(deleted.len()).unwrap_or(0);
        let others = deleted.iter().filter(|(_, established)| !established);
        let others = i64::try_from(others.count()).unwrap_or(0);
        self.events -= all - others;
        if others > 0 {
            // They were the first rows of that table.
            self.unlist_other_events(others)?;
        }
        Ok(())
    }

    /// Checks the next agents, and removes those that are offline and silent since the horizon.
    /// Begins with the first agent again after the last.
    fn remove_old_agents(&mut self, horizon: i64) -> rusqlite::Result<()> {
        let from = self.checked_agent;
        let to = next_agents(self.connection, from, SLOW_STEP)?;
        if let Some(to) = to {
            let delete = "DELETE FROM agents WHERE id > ?1 AND id <= ?2 \
                          AND last_seen < ?3 AND state = 'offline'";
            self.execute(delete, (from, to, horizon))?;
        }
        self.checked_agent = to.unwrap_or(0);
        Ok(())
    }

    /// Returns the bound of the next portion of reports to remove, exclusive, and why.
    fn bound(&mut self, horizon: i64, in_use: i64) -> rusqlite::Result<Option<(i64, Reason)>> {
        let excess = self.excess(in_use)?;
        let connection = self.connection;
        let mut first = connection.prepare_cached("SELECT min(seq) FROM reports")?;
        let Some(first) = first.query_row([], |row| row.get::<_, Option<i64>>(0))? else {
            return Ok(None);
        };
        if horizon == i64::MIN || first > self.old_reports.old_until {
            let now = self.clock.wall();
            self.old_reports
                .check(connection, horizon, now, AGE_CHECK)?;
        }
        let mut oldest = connection.prepare_cached(
            "SELECT seq, octet_length(content) FROM reports ORDER BY seq LIMIT ?1",
        )?;
        let mut rows = oldest.query([PORTION + 1])?;
        let (mut seen, mut bound, mut reason, mut bytes) = (0, None, Reason::Age, 0_u64);
        while let Some(row) = rows.next()? {
            let (seq, length): (i64, i64) = (row.get(0)?, row.get(1)?);
            if seen == PORTION {
                bound = bound.map(|_| seq);
                break;
            }
            seen += 1;
            if seq <= self.old_reports.old_until {
                bound = Some(seq.saturating_add(1));
            } else if let Some((why, excess)) = excess {
                bound = Some(seq.saturating_add(1));
                reason = why;
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

    /// Returns why reports that are not too old must be removed, and how many bytes of them;
    /// `None` if none must.
    fn excess(&mut self, in_use: i64) -> rusqlite::Result<Option<(Reason, u64)>> {
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
        self.is_short_of_space = lacking.is_some();
        Ok(lacking.map(|bytes| (Reason::FreeSpace, bytes)))
    }

    /// Returns how many bytes more must be free in the file; `None` if the disk has enough
    /// free space, including the free pages of the file.
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
        // Not more than the file may still grow.
        let growth = self.limits.size.saturating_sub(self.bytes);
        let wanted = wanted.min(growth.saturating_add(LOG_SIZE));
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let reusable = (free_pages(self.connection)? * self.page_size).cast_unsigned();
        let part = (pages(self.connection)? * self.page_size / REUSABLE_PART).cast_unsigned();
        let enough = part.max(LEAST_REUSABLE);
        let lacking = wanted.saturating_sub(free.saturating_add(reusable));
        let lacking = lacking.min(enough.saturating_sub(reusable));
        Ok((lacking > 0).then_some(lacking))
    }
}

/// Returns the last of the next `most` agents after `from`; `None` after the last agent.
fn next_agents(connection: &Connection, from: i64, most: i64) -> rusqlite::Result<Option<i64>> {
    let mut next = connection.prepare_cached(
        "SELECT max(id) FROM (SELECT id FROM agents WHERE id > ?1 ORDER BY id LIMIT ?2)",
    )?;
    next.query_row((from, most), |row| row.get(0))
}

/// Marks online agents beyond `most` offline, with an event for each agent that is judged; the
/// others become unwatched. There are such agents in a store of an older version, or after
/// the limit was lowered.
pub(super) fn mark_surplus_offline(connection: &Connection, most: i64) -> rusqlite::Result<()> {
    let count = "SELECT count(*) FROM agents WHERE state = 'online'";
    let online: i64 = connection.query_row(count, [], |row| row.get(0))?;
    if online <= most {
        return Ok(());
    }
    let transaction = connection.unchecked_transaction()?;
    let last = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'";
    let last: i64 = transaction.query_row(last, [], |row| row.get(0))?;
    let now = UnixNanos::now().as_nanos();
    let beyond = format!(
        "SELECT id FROM agents WHERE state = 'online'
         ORDER BY {ESTABLISHED} DESC, last_seen DESC, id LIMIT -1 OFFSET ?2"
    );
    transaction.execute(
        &format!(
            "INSERT INTO events (at, agent, state, name, address, version, last_seen, established)
             SELECT ?1, id, 'offline', name, address, version, last_seen, {ESTABLISHED}
             FROM agents WHERE id IN ({beyond}) AND {JUDGED}
             ORDER BY {ESTABLISHED} DESC, last_seen DESC, id"
        ),
        (now, most),
    )?;
    transaction.execute(
        "INSERT INTO other_events SELECT seq FROM events WHERE seq > ?1 AND NOT established",
        [last],
    )?;
    let marked = transaction.execute(
        &format!(
            "UPDATE agents SET state = 'offline', changed_at = ?1, watched = ({JUDGED})
             WHERE id IN ({beyond})"
        ),
        (now, most),
    )?;
    transaction.commit()?;
    log::warn!(
        "{marked} agents that were online are now offline: there are more than --max-agents \
         {most}"
    );
    Ok(())
}

/// Removes agents that are offline, not established, and silent for longer than all agents that
/// [`Store::agents`](super::Store::agents) returns.
struct SurplusAgents {
    /// Rows up to this number are checked.
    at: i64,
    /// The last row to check.
    end: i64,
    /// Agents with the last packet before this time are removed.
    seen_before: i64,
}

impl SurplusAgents {
    fn new(connection: &Connection, seen_before: UnixNanos) -> rusqlite::Result<Self> {
        let end = "SELECT coalesce(max(id), 0) FROM agents";
        Ok(Self {
            at: 0,
            end: connection.query_row(end, [], |row| row.get(0))?,
            seen_before: seen_before.as_nanos(),
        })
    }

    /// Checks at most `most` rows, and returns how many it removed; `None` after the last row.
    ///
    /// `most` must be small: names are in no order, so each removed row is on another page of
    /// their index.
    fn step(&mut self, connection: &Connection, most: i64) -> rusqlite::Result<Option<u64>> {
        let next = next_agents(connection, self.at, most)?;
        let Some(to) = next.filter(|_| self.at < self.end) else {
            return Ok(None);
        };
        let mut delete = connection.prepare_cached(&format!(
            "DELETE FROM agents WHERE id > ?1 AND id <= ?2 AND state = 'offline'
             AND last_seen < ?3 AND NOT ({ESTABLISHED})"
        ))?;
        let removed = delete.execute((self.at, to, self.seen_before))?;
        self.at = to;
        Ok(Some(removed as u64))
    }
}

#[cfg(test)]
mod tests;
