//! Agents' rows beyond the number that may be stored: of an older server, or because the
//! limit was lowered.

use rusqlite::{Connection, Statement};

use hawk_time::UnixNanos;

/// Different hours in which an established agent was heard.
pub(super) const ESTABLISHED_HOURS: u32 = 3;

/// Whether a row is of an established agent: it was heard in three different hours, or
/// again a day or more after the first time. In a row from before hours were counted, an
/// agent is taken for established if it was heard three times or more, over two hours or
/// more.
pub(super) const ESTABLISHED: &str = "CASE WHEN hours IS NULL \
    THEN heartbeats + reports >= 3 AND last_seen - first_seen >= 7200000000000 \
    ELSE hours >= 3 OR last_seen - first_seen >= 86400000000000 END";

/// Whether an agent's silence was judged before the start. A row from before this was
/// decided is of an agent that is judged if it has sent a heartbeat.
pub(super) const JUDGED: &str = "watched AND (heartbeats > 0 OR report_interval > 0)";

/// Marks agents offline that say `online` and are beyond `most`, with an event for each
/// whose silence is judged; the others are unwatched.
pub(super) fn mark_offline(connection: &Connection, most: i64) -> rusqlite::Result<()> {
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

/// Removes rows of agents that are offline, not established, and silent for longer than all
/// agents that [`Store::agents`](super::Store::agents) has passed on.
pub(super) struct Surplus<'c> {
    next: Statement<'c>,
    delete: Statement<'c>,
    /// Rows up to this one were looked at.
    at: i64,
    /// The last row that is looked at.
    end: i64,
    /// Agents that were heard last before this are removed.
    heard_before: i64,
}

impl<'c> Surplus<'c> {
    /// Removes agents that were heard last before `heard_before`.
    pub(super) fn of(
        connection: &'c Connection,
        heard_before: UnixNanos,
    ) -> rusqlite::Result<Self> {
        let end = "SELECT coalesce(max(id), 0) FROM agents";
        Ok(Self {
            next: connection.prepare(
                "SELECT max(id) FROM (SELECT id FROM agents WHERE id > ?1 ORDER BY id LIMIT ?2)",
            )?,
            delete: connection.prepare(&format!(
                "DELETE FROM agents WHERE id > ?1 AND id <= ?2 AND state = 'offline'
                 AND last_seen < ?3 AND NOT ({ESTABLISHED})"
            ))?,
            at: 0,
            end: connection.query_row(end, [], |row| row.get(0))?,
            heard_before: heard_before.as_nanos(),
        })
    }

    /// Looks at some more rows; how many it removed. `None`: it has looked at all of them.
    ///
    /// `most` is to be small: names are in no order, so that each row that is removed is on
    /// another page of their index.
    pub(super) fn step(&mut self, most: i64) -> rusqlite::Result<Option<u64>> {
        let next: Option<i64> = self.next.query_row((self.at, most), |row| row.get(0))?;
        let Some(to) = next.filter(|_| self.at < self.end) else {
            return Ok(None);
        };
        let removed = self.delete.execute((self.at, to, self.heard_before))?;
        self.at = to;
        Ok(Some(removed as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    /// (name, state, last seen, hours)
    fn open(agents: &[(&str, &str, i64, Option<u32>)]) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        for (name, state, last_seen, hours) in agents {
            connection
                .execute(
                    "INSERT INTO agents (name, address, version, first_seen, last_seen, state,
                        changed_at, heartbeats, reports, interval, hours)
                     VALUES (?1, '10.0.0.7', '1', 0, ?2, ?3, 0, 2, 0, 0, ?4)",
                    (name, last_seen, state, hours),
                )
                .unwrap();
        }
        connection
    }

    fn names(connection: &Connection, query: &str) -> Vec<String> {
        let mut found = connection.prepare(query).unwrap();
        let rows = found.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn agents_online_beyond_the_limit_are_marked_offline_with_an_event() {
        let connection = open(&[
            ("steady", "online", 1, Some(3)),
            ("new", "online", 9, Some(1)),
            ("newer", "online", 10, Some(1)),
            ("gone", "offline", 11, Some(3)),
        ]);
        mark_offline(&connection, 3).unwrap();
        assert_eq!(names(&connection, "SELECT name FROM events"), [""; 0]);
        mark_offline(&connection, 2).unwrap();
        let events = "SELECT name || state || established || agent FROM events";
        assert_eq!(names(&connection, events), ["newoffline02"]);
        let online = "SELECT name FROM agents WHERE state = 'online'";
        assert_eq!(names(&connection, online), ["steady", "newer"]);
        assert_eq!(names(&connection, "SELECT 'x' FROM other_events"), ["x"]);
    }

    #[test]
    fn an_agent_beyond_the_limit_that_only_reported_is_unwatched_and_has_no_event() {
        let connection = open(&[
            ("beats", "online", 1, None),
            ("reports", "online", 2, None),
            ("often", "online", 3, None),
        ]);
        connection
            .execute_batch("UPDATE agents SET heartbeats = 0 WHERE name = 'reports'")
            .unwrap();
        mark_offline(&connection, 1).unwrap();
        assert_eq!(names(&connection, "SELECT name FROM events"), ["beats"]);
        let rows = "SELECT name || state || watched FROM agents";
        assert_eq!(
            names(&connection, rows),
            ["beatsoffline1", "reportsoffline0", "oftenonline1"]
        );
    }

    #[test]
    fn of_agents_beyond_the_limit_those_go_that_are_not_established_and_silent_longest() {
        let connection = open(&[
            ("steady", "offline", 1, Some(3)),
            ("old", "offline", 2, Some(2)),
            ("older", "offline", 1, None),
            ("new", "offline", 3, Some(1)),
            ("online", "online", 0, Some(1)),
        ]);
        let mut surplus = Surplus::of(&connection, UnixNanos::from_nanos(3)).unwrap();
        assert_eq!(surplus.step(9).unwrap(), Some(2));
        assert_eq!(surplus.step(9).unwrap(), None);
        let left = names(&connection, "SELECT name FROM agents");
        assert_eq!(left, ["steady", "new", "online"]);
    }
}
