//! Events for delivery.

use std::net::IpAddr;
use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{Connection, Row};

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

/// The next events of a lane after `after`, at most `most`, and up to where there are no
/// others. Rows of version 1 do not say enough and are passed over.
pub(super) fn next(
    connection: &Connection,
    lane: Lane,
    after: i64,
    most: usize,
) -> rusqlite::Result<(Vec<Notice>, i64)> {
    let transaction = connection.unchecked_transaction()?;
    let newest: Option<i64> =
        transaction.query_row("SELECT max(seq) FROM events", [], |row| row.get(0))?;
    let newest = newest.unwrap_or(after).max(after);
    let mut events = transaction.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM events WHERE seq > ?1 AND established = ?2 \
         AND address IS NOT NULL ORDER BY seq LIMIT ?3"
    ))?;
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let found = events.query_map((after, lane == Lane::Established, limit), notice)?;
    let found: Vec<_> = found.collect::<rusqlite::Result<_>>()?;
    let upto = match found.last() {
        Some(last) if found.len() == most => last.seq,
        _ => newest,
    };
    Ok((found, upto))
}

/// The events of these numbers, as far as there are such.
pub(super) fn numbered(connection: &Connection, seqs: &[i64]) -> rusqlite::Result<Vec<Notice>> {
    let transaction = connection.unchecked_transaction()?;
    let mut event = transaction.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM events WHERE seq = ?1 AND address IS NOT NULL"
    ))?;
    let mut found = Vec::new();
    for seq in seqs {
        let rows = event.query_map([seq], notice)?;
        found.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
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
