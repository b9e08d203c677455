//! What is too old, or too much, goes: a little with each batch.

use std::time::Duration;

use rusqlite::{Connection, Statement};

use crate::time::{Clock, Moment};

/// How long what is stored is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Nothing older than this is kept.
    pub age: Duration,
    /// The oldest reports go when the file holds more bytes than this.
    pub size: u64,
}

/// Between two looks at whether anything is to go. A look takes some
/// microseconds; at a million reports a second 100 MB come in within one.
const INTERVAL: Duration = Duration::from_millis(50);

/// Between two looks at some agents and events, which come slowly.
const SLOW_INTERVAL: Duration = Duration::from_secs(10);

/// Reports that are removed before the size is looked at again: some pages full.
const PORTION: u64 = 256;

/// Reports that a step removes at most, to the next portion: enough to catch up
/// with what was added, few enough that a commit is some milliseconds longer.
const LONGEST_STEP: u64 = 8 * 1024;

/// Agents that a step looks at, and events that it removes, at most: less than a
/// millisecond's work, since whoever waits for the commit waits for this as well. All of
/// 100,000 agents are looked at within a quarter of an hour.
const SLOW_STEP: i64 = 1000;

/// Events beyond this many go, the oldest first: a fleet of agents that come
/// and go all the time is not to fill the file. It takes some 50 MB.
const MAX_EVENTS: i64 = 1_000_000;

/// Removes what is too old or too much.
pub(super) struct Retainer<'c> {
    limits: Retention,
    clock: Clock,
    page_size: u64,
    pages: Statement<'c>,
    free_pages: Statement<'c>,
    oldest: Statement<'c>,
    delete_reports: Statement<'c>,
    delete_times: Statement<'c>,
    next_agents: Statement<'c>,
    delete_agents: Statement<'c>,
    delete_events: Statement<'c>,
    next_look: Moment,
    next_slow_look: Moment,
    /// The agent that was looked at last; those with higher numbers are next.
    looked_at: i64,
    /// Reports that were added since the last look, or are still to be made up for.
    added: u64,
    /// There is more to remove than the last step did.
    behind: bool,
    bytes: u64,
}

impl<'c> Retainer<'c> {
    pub(super) fn prepare(
        connection: &'c Connection,
        limits: Retention,
        clock: Clock,
    ) -> rusqlite::Result<Self> {
        let now = clock.now();
        let mut pages = connection.prepare("PRAGMA page_count")?;
        let page_size: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let all: u64 = pages.query_row([], |row| row.get(0))?;
        Ok(Self {
            limits,
            clock,
            page_size,
            pages,
            free_pages: connection.prepare("PRAGMA freelist_count")?,
            // A row of version 1 has its time in its key.
            oldest: connection.prepare(
                "SELECT seq, coalesce(received_at, seq) FROM reports ORDER BY seq LIMIT ?1",
            )?,
            delete_reports: connection.prepare("DELETE FROM reports WHERE seq < ?1")?,
            delete_times: connection.prepare("DELETE FROM times WHERE last < ?1")?,
            next_agents: connection.prepare(
                "SELECT max(id) FROM (SELECT id FROM agents WHERE id > ?1 ORDER BY id LIMIT ?2)",
            )?,
            delete_agents: connection.prepare(
                "DELETE FROM agents WHERE id > ?1 AND id <= ?2 \
                 AND last_seen < ?3 AND state = 'offline'",
            )?,
            delete_events: connection.prepare(
                "DELETE FROM events WHERE seq IN (SELECT seq FROM events ORDER BY seq LIMIT ?3) \
                 AND (at < ?1 OR seq <= (SELECT max(seq) FROM events) - ?2)",
            )?,
            next_look: now,
            next_slow_look: now,
            looked_at: 0,
            added: 0,
            behind: false,
            bytes: all * page_size,
        })
    }

    /// Bytes of the file that hold something, as of the last look.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Whether there is something to remove that need not wait for a batch.
    pub(super) fn is_behind(&self) -> bool {
        let now = self.clock.now();
        self.behind || now >= self.next_slow_look || (self.added > 0 && now >= self.next_look)
    }

    /// Takes a step, within the transaction at hand, in which `added` reports
    /// were added; how many it removed.
    pub(super) fn step(&mut self, added: usize) -> rusqlite::Result<u64> {
        self.added += added as u64;
        let now = self.clock.now();
        if !self.behind && now < self.next_look {
            return Ok(0);
        }
        self.next_look = now.after(INTERVAL);
        let horizon = self.clock.wall().before(self.limits.age).as_nanos();
        if now >= self.next_slow_look {
            self.next_slow_look = now.after(SLOW_INTERVAL);
            self.look_at_agents(horizon)?;
            self.delete_events
                .execute((horizon, MAX_EVENTS, SLOW_STEP))?;
        }
        // A quarter more than came in: what is over gets less.
        let most = (self.added + self.added / 4).clamp(PORTION, LONGEST_STEP);
        let mut removed = 0;
        while removed < most {
            let Some(bound) = self.bound(horizon)? else {
                self.behind = false;
                self.added = 0;
                return Ok(removed);
            };
            removed += self.delete_reports.execute([bound])? as u64;
            self.delete_times.execute([bound])?;
        }
        self.behind = true;
        self.added = self.added.saturating_sub(removed);
        Ok(removed)
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

    /// Reports with a lower sequence number than this are the next portion to go.
    fn bound(&mut self, horizon: i64) -> rusqlite::Result<Option<i64>> {
        let pages: u64 = self.pages.query_row([], |row| row.get(0))?;
        let free: u64 = self.free_pages.query_row([], |row| row.get(0))?;
        self.bytes = pages.saturating_sub(free) * self.page_size;
        let too_much = self.bytes > self.limits.size;
        // A clock that was ahead has left times that are still to come: such a report
        // goes with those that arrived after it.
        let now = self.clock.wall().as_nanos();
        let mut rows = self.oldest.query([PORTION + 1])?;
        let (mut seen, mut bound) = (0, None);
        while let Some(row) = rows.next()? {
            let (seq, received_at): (i64, i64) = (row.get(0)?, row.get(1)?);
            if seen == PORTION {
                bound = bound.map(|_| seq);
                break;
            }
            seen += 1;
            if too_much || received_at < horizon {
                bound = Some(seq.saturating_add(1));
            } else if received_at <= now {
                break;
            }
        }
        Ok(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;
    use crate::time::UnixNanos;

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
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        let mut steps = Vec::new();
        while steps.last() != Some(&0) {
            steps.push(retainer.step(0).unwrap());
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
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        let removed = retainer.step(10_000).unwrap();
        assert!(!retainer.is_behind());
        assert!(retainer.bytes() <= limits.size);
        // One portion is 256 KB.
        assert!(retainer.bytes() > limits.size - (300 << 10));
        assert_eq!(
            count(&connection, "reports"),
            10_000 - removed.cast_signed()
        );
    }

    #[test]
    fn agents_that_are_silent_for_long_go_unless_they_are_online() {
        let connection = open();
        let old = UnixNanos::now().before(2 * YEAR).as_nanos();
        for (state, seen) in [("offline", old), ("online", old), ("offline", i64::MAX)] {
            connection
                .execute(
                    "INSERT INTO agents VALUES
                        (NULL, ?1, '', '', 0, ?2, ?3, 0, 0, 0, 0, NULL, 1, 0, 1, 0)",
                    (format!("{state} {seen}"), seen, state),
                )
                .unwrap();
        }
        let limits = Retention {
            age: YEAR,
            size: u64::MAX,
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        retainer.step(0).unwrap();
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
                    3 * i, i, '', '', 0, 0, 'offline', 0, 0, 0, 0, NULL, 1, 0, 1, 0 FROM n",
                [],
            )
            .unwrap();
        let limits = Retention {
            age: YEAR,
            size: u64::MAX,
        };
        let mut retainer = Retainer::prepare(&connection, limits, Clock::System).unwrap();
        let mut left = Vec::new();
        for _ in 0..5 {
            let now = Moment::now();
            (retainer.next_look, retainer.next_slow_look) = (now, now);
            retainer.step(0).unwrap();
            left.push(count(&connection, "agents"));
            if left.len() == 3 {
                // It comes in behind those that were looked at: after the last.
                let add = "INSERT INTO agents VALUES
                    (1, 'x', '', '', 0, 0, 'offline', 0, 0, 0, 0, NULL, 1, 0, 1, 0)";
                connection.execute(add, []).unwrap();
            }
        }
        assert_eq!(left, [1500, 500, 0, 1, 0]);
    }
}
