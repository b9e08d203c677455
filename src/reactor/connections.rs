//! All connections, by slot and generation.

use mio::Token;
use slab::Slab;

use super::connection::Connection;

/// Names one connection for its whole life and no other one ever after: a slot
/// that is filled again has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionId {
    pub(super) slot: u32,
    generation: u32,
}

impl ConnectionId {
    pub(super) fn from_token(Token(token): Token) -> Self {
        let token = token as u64;
        // Each half is meant to be cut out.
        #[allow(clippy::cast_possible_truncation)]
        Self {
            slot: token as u32,
            generation: (token >> 32) as u32,
        }
    }

    pub(super) fn token(self) -> Token {
        let token = u64::from(self.generation) << 32 | u64::from(self.slot);
        Token(usize::try_from(token).expect("hawk is built for 64-bit machines"))
    }
}

/// The connections there are. Their number is the slab's length: there is no
/// other counter that could disagree.
#[derive(Debug, Default)]
pub(super) struct Connections {
    slab: Slab<Connection>,
    generation: u32,
}

impl Connections {
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// The name that the next connection inserted will have.
    pub(super) fn next_id(&self) -> ConnectionId {
        ConnectionId {
            slot: u32::try_from(self.slab.vacant_key()).expect("descriptors are fewer than 2^31"),
            generation: self.generation,
        }
    }

    /// Adds a connection under [`next_id`](Self::next_id).
    pub(super) fn insert(&mut self, connection: impl FnOnce(u32) -> Connection) {
        self.slab.insert(connection(self.generation));
        self.generation = self.generation.wrapping_add(1);
    }

    pub(super) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slab
            .get_mut(id.slot as usize)
            .filter(|connection| connection.generation == id.generation)
    }

    /// The connection in `slot`, whatever its generation.
    pub(super) fn at(&self, slot: u32) -> Option<ConnectionId> {
        let connection = self.slab.get(slot as usize)?;
        Some(ConnectionId {
            slot,
            generation: connection.generation,
        })
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.get(id)?;
        self.slab.try_remove(id.slot as usize)
    }

    /// Every connection's name.
    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        let slots = self.slab.iter();
        slots
            .map(|(slot, connection)| ConnectionId {
                slot: u32::try_from(slot).expect("descriptors are fewer than 2^31"),
                generation: connection.generation,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;
    use crate::time::Moment;

    fn connection(generation: u32) -> Connection {
        // Any socket will do: none of this touches it.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = mio::net::TcpStream::connect(address).unwrap();
        let session = Session::new(address, Moment::from_nanos(1));
        Connection::new(socket, session, generation)
    }

    #[test]
    fn a_slot_filled_again_is_another_connection() {
        let mut connections = Connections::default();
        let first = connections.next_id();
        connections.insert(connection);
        assert!(connections.get(first).is_some());
        assert!(connections.remove(first).is_some());

        let second = connections.next_id();
        connections.insert(connection);
        assert_eq!(first.slot, second.slot);
        assert!(connections.get(first).is_none());
        assert!(connections.remove(first).is_none());
        assert_eq!(connections.len(), 1);
        assert_eq!(connections.at(second.slot), Some(second));
    }

    #[test]
    fn ids_survive_the_trip_through_a_token() {
        for (slot, generation) in [(0, 0), (7, 9), (u32::MAX - 1, u32::MAX)] {
            let id = ConnectionId { slot, generation };
            assert_eq!(ConnectionId::from_token(id.token()), id);
        }
    }
}
