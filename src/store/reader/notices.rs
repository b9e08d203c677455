//! Events for delivery.

use std::net::IpAddr;
use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{Connection, Error, Row};

use crate::store::Lane;
use hawk_time::UnixNanos;

/// An event with all that its row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its sequence number.
    pub seq: i64,
    /// Its time.
    pub at: UnixNanos,
    /// The agent's name, if it gave one.
    pub name: Option<Arc<str>>,
    /// The address that the agent was last heard from.
    pub address: IpAddr,
    /// The version in the agent's last heartbeat.
    pub version: Arc<str>,
    /// The agent's state from then on.
    pub online: bool,
    /// When the agent was last heard.
    pub last_seen: UnixNanos,
    /// Whether the agent was established.
    pub established: bool,
}

const COLUMNS: &str = "seq, at, name, address, version, state, last_seen, established";

/// Events for delivery.
#[derive(Debug, Default)]
pub(super) struct Notices {
    pub(super) events: Vec<Notice>,
    /// Rows that cannot be read: another program wrote them. They are skipped, so that they
    /// do not stop the delivery of the events after them.
    pub(super) unreadable: u64,
}

impl Notices {
    fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        match notice(row) {
            Ok(event) => self.events.push(event),
            Err(
                Error::FromSqlConversionFailure(..)
                | Error::InvalidColumnType(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::Utf8Error(..),
            ) => self.unreadable += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Returns the next events of a lane after `after`, at most `most`, and the sequence number
/// up to which the lane has no others. Skips rows of version 1, which lack the columns.
pub(super) fn next(
    connection: &Connection,
    lane: Lane,
    after: i64,
    most: usize,
) -> rusqlite::Result<(Notices, i64)> {
    let transaction = connection.unchecked_transaction()?;
    let newest: Option<i64> =
        transaction.query_row("SELECT max(seq) FROM events", [], |row| row.get(0))?;
    let newest = newest.unwrap_or(after).max(after);
    let mut events = transaction.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM events WHERE seq > ?1 AND established = ?2 \
         AND address IS NOT NULL ORDER BY seq LIMIT ?3"
    ))?;
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let mut rows = events.query((after, lane == Lane::Established, limit))?;
    let (mut found, mut seen, mut last) = (Notices::default(), 0, newest);
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        seen += 1;
        found.add(row)?;
    }
    Ok((found, if seen < most { newest } else { last }))
}

/// Returns the events with these sequence numbers that exist.
pub(super) fn numbered(connection: &Connection, seqs: &[i64]) -> rusqlite::Result<Notices> {
    let transaction = connection.unchecked_transaction()?;
    let mut event = transaction.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM events WHERE seq = ?1 AND address IS NOT NULL"
    ))?;
    let mut found = Notices::default();
    for seq in seqs {
        let mut rows = event.query([seq])?;
        while let Some(row) = rows.next()? {
            found.add(row)?;
        }
    }
    Ok(found)
}

fn notice(row: &Row<'_>) -> rusqlite::Result<Notice> {
    let address = row.get_ref(3)?.as_str()?;
    let is_no_address =
        |error| rusqlite::Error::FromSqlConversionFailure(3, Type::Text, Box::new(error));
    Ok(Notice {
        seq: row.get(0)?,
        at: UnixNanos::from_nanos(row.get(1)?),
        name: row.get_ref(2)?.as_str_or_null()?.map(Arc::from),
        address: address.parse().map_err(is_no_address)?,
        version: row.get_ref(4)?.as_str_or_null()?.unwrap_or_default().into(),
        online: row.get_ref(5)?.as_str()? == "online",
        last_seen: UnixNanos::from_nanos(row.get::<_, Option<i64>>(6)?.unwrap_or_default()),
        established: row.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    #[test]
    fn an_event_that_cannot_be_read_is_skipped_and_counted() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        for (name, address) in [
            ("'a'", "10.0.0.1"),
            ("'b'", "no address"),
            ("x'ff'", "10.0.0.3"),
            ("'d'", "10.0.0.4"),
        ] {
            let insert = format!(
                "INSERT INTO events (at, agent, state, name, address, version, last_seen)
                 VALUES (1, 1, 'online', CAST({name} AS TEXT), '{address}', '', 1)"
            );
            connection.execute(&insert, []).unwrap();
        }
        let seqs = |found: &Notices| {
            found
                .events
                .iter()
                .map(|event| event.seq)
                .collect::<Vec<_>>()
        };
        let (found, upto) = next(&connection, Lane::Established, 0, 10).unwrap();
        assert_eq!((seqs(&found), found.unreadable, upto), (vec![1, 4], 2, 4));
        let (found, upto) = next(&connection, Lane::Established, 1, 2).unwrap();
        assert_eq!((seqs(&found), found.unreadable, upto), (vec![], 2, 3));
        let found = numbered(&connection, &[2, 4, 5]).unwrap();
        assert_eq!((seqs(&found), found.unreadable), (vec![4], 1));
    }
}
