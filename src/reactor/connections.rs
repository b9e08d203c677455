//! The table of connections, by slot and generation.

use slab::Slab;

use super::connection::Connection;
use super::kernel::SocketToken;

/// The id of a connection, never used again: a slot that is reused has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionId {
    pub(super) slot: u32,
    generation: u32,
}

impl ConnectionId {
    pub(super) fn from_token(SocketToken(token): SocketToken) -> Self {
        // Each cast takes one half.
        #[allow(clippy::cast_possible_truncation)]
        Self {
            slot: token as u32,
            generation: (token >> 32) as u32,
        }
    }

    pub(super) fn token(self) -> SocketToken {
        SocketToken(u64::from(self.generation) << 32 | u64::from(self.slot))
    }
}

/// The open connections.
#[derive(Debug)]
pub(super) struct Connections<S> {
    slab: Slab<Connection<S>>,
    generation: u32,
}

impl<S> Connections<S> {
    pub(super) const fn new() -> Self {
        Self {
            slab: Slab::new(),
            generation: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Returns the id of the connection that is inserted next.
    pub(super) fn next_id(&self) -> ConnectionId {
        ConnectionId {
            slot: slot(self.slab.vacant_key()),
            generation: self.generation,
        }
    }

    /// Inserts a connection under [`next_id`](Self::next_id).
    pub(super) fn insert(&mut self, connection: impl FnOnce(u32) -> Connection<S>) {
        self.slab.insert(connection(self.generation));
        self.generation = self.generation.wrapping_add(1);
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection<S>> {
        self.slab
            .get_mut(id.slot as usize)
            .filter(|connection| connection.generation == id.generation)
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection<S>> {
        self.slab
            .get(id.slot as usize)
            .filter(|connection| connection.generation == id.generation)
    }

    /// Returns the id of the connection in `slot`.
    pub(super) fn at(&self, slot: u32) -> Option<ConnectionId> {
        let connection = self.slab.get(slot as usize)?;
        Some(ConnectionId {
            slot,
            generation: connection.generation,
        })
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection<S>> {
        self.get_mut(id)?;
        self.slab.try_remove(id.slot as usize)
    }

    /// Returns the ids of all connections.
    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        let slots = self.slab.iter();
        slots
            .map(|(key, connection)| ConnectionId {
                slot: slot(key),
                generation: connection.generation,
            })
            .collect()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection<S>> {
        self.slab.iter_mut().map(|(_, connection)| connection)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection<S>> {
        self.slab.iter().map(|(_, connection)| connection)
    }
}

/// Converts a key of the slab. Each connection has a descriptor, and there are fewer than 2^31.
#[allow(clippy::cast_possible_truncation)]
fn slot(key: usize) -> u32 {
    key as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;
    use hawk_time::Moment;

    /// A connection without a socket: the table does not use it.
    fn connection(generation: u32) -> Connection<()> {
        let peer = "127.0.0.1:9876".parse().unwrap();
        let session = Session::new(peer, Moment::from_nanos(1));
        Connection::new((), session, generation)
    }

    #[test]
    fn a_reused_slot_is_another_connection() {
        let mut connections = Connections::new();
        let first = connections.next_id();
        connections.insert(connection);
        assert!(connections.get_mut(first).is_some());
        assert!(connections.remove(first).is_some());

        let second = connections.next_id();
        connections.insert(connection);
        assert_eq!(first.slot, second.slot);
        assert!(connections.get_mut(first).is_none());
        assert!(connections.remove(first).is_none());
        assert_eq!(connections.len(), 1);
        assert_eq!(connections.at(second.slot), Some(second));
    }

    #[test]
    fn an_id_converts_to_a_token_and_back() {
        for (slot, generation) in [(0, 0), (7, 9), (u32::MAX - 1, u32::MAX)] {
            let id = ConnectionId { slot, generation };
            assert_eq!(ConnectionId::from_token(id.token()), id);
        }
    }
}
