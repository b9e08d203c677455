//! Pauses expiry by age while the clock may be wrong: with a clock that is ahead it would remove
//! young reports.

use std::time::Duration;

use rusqlite::Connection;

use hawk_time::{Clock, Moment, UnixNanos};

/// Maximum difference of the wall clock from the time since boot between two checks, and from
/// the newest time in the store at the start.
const JUMP: Duration = Duration::from_secs(60 * 60);

/// Pause of expiry by age after a start with a greater gap: time for a correction of the clock
/// over the network.
const WAIT: Duration = Duration::from_secs(60 * 60);

/// A value of `paused_at` that the file may not have.
#[derive(Clone, Copy)]
pub(super) struct UnsavedPause(Option<UnixNanos>);

/// Decides whether the wall clock is reliable enough for expiry by age.
pub(super) struct ClockGuard<'c> {
    clock: Clock,
    connection: &'c Connection,
    /// Wall-clock time of the pause; `None` while expiry is not paused. The pause ends when the
    /// clock is confirmed or shows an earlier time.
    paused_at: Option<UnixNanos>,
    /// The file may have another value of `paused_at`.
    is_unsaved: bool,
    /// Expiry begins at this time.
    wait_until: Option<Moment>,
    /// Time since boot and wall-clock time at the last check.
    last: (Duration, UnixNanos),
    /// Why expiry is paused at the start; logged at the first check.
    reason: Option<&'static str>,
}

impl<'c> ClockGuard<'c> {
    /// Compares the clock with the newest time in the store. `age` is the maximum age of
    /// reports; `unsaved` is what the guard of the connection before this one had
    /// [not saved](Self::unsaved).
    pub(super) fn prepare(
        connection: &'c Connection,
        clock: Clock,
        age: Duration,
        unsaved: Option<UnsavedPause>,
    ) -> rusqlite::Result<Self> {
        let now = (clock.now(), clock.wall());
        let saved = connection.query_row("SELECT paused_at FROM store", [], |row| {
            row.get::<_, Option<i64>>(0)
        })?;
        let saved = saved.map(UnixNanos::from_nanos);
        let newest = connection.query_row(
            "SELECT max(at) FROM (
                 SELECT coalesce(received_at, seq) AS at FROM reports
                 WHERE seq = (SELECT max(seq) FROM reports)
                 UNION ALL SELECT max(last_seen) FROM agents)",
            [],
            |row| row.get::<_, Option<i64>>(0),
        )?;
        let mut guard = Self {
            connection,
            paused_at: unsaved.map_or(saved, |UnsavedPause(paused_at)| paused_at),
            is_unsaved: unsaved.is_some(),
            wait_until: None,
            last: (clock.since_boot(), now.1),
            reason: None,
            clock,
        };
        let gap = newest.map_or(Duration::ZERO, |newest| {
            now.1.since(UnixNanos::from_nanos(newest))
        });
        if guard.paused_at.is_some() {
            // The reason for an unsaved pause is in the log.
            guard.reason = unsaved
                .is_none()
                .then_some("the clock jumped ahead before this start and was not confirmed");
        } else if gap > JUMP && gap >= age {
            guard.set(Some(now.1));
            guard.reason = Some("by the clock, everything in the store is too old");
        } else if gap > JUMP {
            guard.wait_until = Some(now.0.after(WAIT));
        }
        Ok(guard)
    }

    /// Checks the clock, and returns whether expiry by age is allowed. Must be called within a
    /// transaction.
    pub(super) fn allows_expiry(&mut self) -> rusqlite::Result<bool> {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        // The monotonic clock stands still while the machine is suspended.
        let since_boot = self.clock.since_boot();
        let expected = self.last.1.after(since_boot.saturating_sub(self.last.0));
        self.last = (since_boot, wall);
        match self.paused_at {
            Some(paused_at) if wall < paused_at => {
                log::info!("the clock was set back: expiry by age resumes");
                self.set(None);
            }
            None if wall.since(expected) > JUMP => {
                let ahead = whole_seconds(wall.since(expected));
                self.pause(&format!("the clock has jumped ahead by {ahead}"));
            }
            Some(_) => {
                if let Some(reason) = self.reason.take() {
                    self.warn(reason);
                }
            }
            None => {}
        }
        if self.is_unsaved {
            let paused_at = self.paused_at.map(UnixNanos::as_nanos);
            let update = "UPDATE store SET paused_at = ?1 WHERE paused_at IS NOT ?1";
            // This transaction may be rolled back: a later one finds nothing to change.
            self.is_unsaved = self.connection.execute(update, [paused_at])? > 0;
        }
        self.wait_until = self.wait_until.filter(|until| now < *until);
        Ok(self.paused_at.is_none() && self.wait_until.is_none())
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused_at.is_some()
    }

    /// Returns the pause, or its end, that no committed transaction is known to have saved.
    pub(super) fn unsaved(&self) -> Option<UnsavedPause> {
        self.is_unsaved.then_some(UnsavedPause(self.paused_at))
    }

    /// Resumes expiry: the operator confirms the clock.
    pub(super) fn confirm(&mut self) {
        self.wait_until = None;
        if self.paused_at.is_some() {
            log::info!("the clock was confirmed: expiry by age resumes");
            self.set(None);
        }
    }

    fn pause(&mut self, why: &str) {
        self.set(Some(self.clock.wall()));
        self.warn(why);
    }

    fn warn(&self, why: &str) {
        log::warn!(
            "expiry by age is paused, so that a wrong clock removes nothing: {why}; the clock \
             shows {}: if that is right, confirm it with `hawk confirm-clock`, else set it",
            self.clock.wall().to_seconds(),
        );
    }

    fn set(&mut self, paused_at: Option<UnixNanos>) {
        self.paused_at = paused_at;
        self.is_unsaved = true;
    }
}

fn whole_seconds(span: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(span.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::schema;
    use hawk_time::ManualClock;

    const DAY: Duration = Duration::from_secs(86_400);
    const MONTH: Duration = Duration::from_secs(30 * 86_400);
    const START: UnixNanos = UnixNanos::from_nanos(1_475_249_220_000_000_000);

    /// Returns a store with one report, received at [`START`].
    fn store() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
            .execute(
                "INSERT INTO reports VALUES (1, 1, '', '', 0, 0, ?1, NULL)",
                [START.as_nanos()],
            )
            .unwrap();
        connection
    }

    fn clock(wall: UnixNanos) -> (Arc<ManualClock>, Clock) {
        let manual = Arc::new(ManualClock::new(Moment::from_nanos(1), wall));
        (Arc::clone(&manual), Clock::Manual(manual))
    }

    fn set_wall(manual: &ManualClock, wall: UnixNanos) {
        manual.set(manual.now(), wall);
    }

    #[test]
    fn a_jump_ahead_pauses_expiry_until_the_clock_is_confirmed_or_set_back() {
        let store = store();
        let (manual, clock) = clock(START);
        let mut guard = ClockGuard::prepare(&store, clock.clone(), MONTH, None).unwrap();
        let look = |guard: &mut ClockGuard<'_>| guard.allows_expiry().unwrap();
        assert!(look(&mut guard));
        manual.suspend(DAY);
        assert!(look(&mut guard), "a suspend is no jump");
        // A long interval between two checks, and a small correction.
        manual.advance(40 * DAY);
        assert!(look(&mut guard));
        set_wall(&manual, manual.wall().after(JUMP));
        assert!(look(&mut guard));
        let right = manual.wall();
        set_wall(&manual, right.after(2 * JUMP));
        assert!(!look(&mut guard) && guard.is_paused());
        manual.advance(DAY);
        assert!(!look(&mut guard));
        set_wall(&manual, right.after(DAY));
        assert!(!look(&mut guard), "it is not before the jump");
        set_wall(&manual, right);
        assert!(look(&mut guard) && !guard.is_paused());
        set_wall(&manual, right.after(2 * JUMP));
        assert!(!look(&mut guard));
        // The pause outlasts a restart.
        drop(guard);
        let mut guard = ClockGuard::prepare(&store, clock.clone(), MONTH, None).unwrap();
        assert!(!look(&mut guard));
        guard.confirm();
        assert!(look(&mut guard));
        drop(guard);
        let guard = ClockGuard::prepare(&store, clock, 1000 * MONTH, None).unwrap();
        assert!(!guard.is_paused());
    }

    #[test]
    fn a_pause_is_saved_again_if_its_transaction_is_rolled_back() {
        let store = store();
        let is_saved = || {
            let query = "SELECT paused_at IS NOT NULL FROM store";
            let saved: bool = store.query_row(query, [], |row| row.get(0)).unwrap();
            saved
        };
        let (manual, clock) = clock(START);
        let mut guard = ClockGuard::prepare(&store, clock.clone(), MONTH, None).unwrap();
        manual.suspend(DAY);
        set_wall(&manual, manual.wall().after(2 * JUMP));
        store.execute_batch("BEGIN").unwrap();
        assert_eq!(guard.allows_expiry(), Ok(false));
        assert!(is_saved());
        store.execute_batch("ROLLBACK").unwrap();
        assert!(!is_saved());
        // The same connection goes on.
        store.execute_batch("BEGIN").unwrap();
        assert_eq!(guard.allows_expiry(), Ok(false));
        store.execute_batch("ROLLBACK").unwrap();
        // The file is opened anew, with a report that the wrong clock dated.
        let wall = manual.wall().as_nanos();
        let report = "INSERT INTO reports VALUES (2, 1, '', '', 0, 0, ?1, NULL)";
        store.execute(report, [wall]).unwrap();
        let unsaved = guard.unsaved();
        let mut guard = ClockGuard::prepare(&store, clock, MONTH, unsaved).unwrap();
        assert_eq!(guard.allows_expiry(), Ok(false));
        assert!(is_saved() && guard.unsaved().is_some());
        assert_eq!(guard.allows_expiry(), Ok(false));
        assert!(
            guard.unsaved().is_none(),
            "an earlier transaction has saved it"
        );
    }

    #[test]
    fn a_start_long_after_the_newest_report_waits_or_pauses() {
        let store = store();
        for (gap, allowed, allowed_later) in [
            (Duration::ZERO, true, true),
            (JUMP, true, true),
            (DAY, false, true),
            (MONTH, false, false),
        ] {
            let (manual, clock) = clock(START.after(gap));
            let mut guard = ClockGuard::prepare(&store, clock, MONTH, None).unwrap();
            assert_eq!(guard.allows_expiry(), Ok(allowed), "{gap:?}");
            manual.advance(WAIT);
            assert_eq!(guard.allows_expiry(), Ok(allowed_later), "{gap:?}");
        }
        // The last packet of an agent confirms the clock, as a report does.
        let agent =
            "INSERT INTO agents (address, version, first_seen, last_seen, state, changed_at,
                         heartbeats, reports, interval)
                     VALUES ('', '', 0, ?1, 'online', 0, 0, 0, 0)";
        let wall = START.after(2 * MONTH);
        store
            .execute("UPDATE store SET paused_at = NULL", [])
            .unwrap();
        store.execute(agent, [wall.as_nanos()]).unwrap();
        let (_, clock) = clock(wall);
        let mut guard = ClockGuard::prepare(&store, clock, MONTH, None).unwrap();
        assert_eq!(guard.allows_expiry(), Ok(true));
    }
}
