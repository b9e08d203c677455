//! Whether the server may read, and what follows when it does.

use hawk::session::OUTPUT_HIGH_WATER;

use super::Machine;
use crate::checks::CLASSES;
use crate::counts::Event;

/// Bytes that are read at once while there is no room for replies
/// (docs/architecture.md, back-pressure).
const LEAST_READ: usize = 1024;

impl Machine {
    /// The server is about to read at most so many bytes: whether it may.
    pub fn note_look(&mut self, slot: usize, most: usize) {
        let first = !std::mem::replace(&mut self.links[slot].tried_now, true);
        let due = self.due(slot).any();
        let link = &self.links[slot];
        let conversation = &link.conversation;
        let closes = link.closing.is_some() || link.allowance.is_some() || conversation.is_over();
        if closes || due || conversation.doubts() > 0 {
            return;
        }
        let port = link.peer.port();
        let keeps = link.unsent > 0 || self.is_owed(slot);
        let short = self.output_is_short();
        let full = link.unsent > OUTPUT_HIGH_WATER;
        if first {
            let last = link.last;
            let restricted = !last.waits
                && !last.undecoded
                && (1..last.buffer).contains(&last.buffered)
                && self.another_must_wait(slot);
            self.links[slot].restricted = restricted;
            if restricted {
                self.counts.saw(Event::FrameBeforeQueue);
            }
        }
        let link = &self.links[slot];
        let lacks = link.conversation.reference.lacks();
        let beyond = link.restricted
            && lacks.is_none_or(|lacks| most > lacks)
            && self.another_must_wait(slot);
        self.demand(!full, port, "it is read from and does not read its replies");
        self.demand(
            !short || !keeps,
            port,
            "a connection with pending replies is read from although all have too many",
        );
        self.demand(
            !short || most <= LEAST_READ,
            port,
            "much is read although there is no room for the replies",
        );
        // After the turn `Checks::queue` demands that its host has used up its share.
        if beyond && !self.beyond.iter().any(|(other, _)| *other == slot) {
            let held = self.held_beside(slot);
            self.beyond.push((slot, held));
        }
    }

    /// Returns the bytes of receive buffers that the other connections of this host hold now,
    /// or held after the last turn, whichever is more.
    fn held_beside(&self, slot: usize) -> usize {
        let host = self.links[slot].peer.ip();
        let all = self.live.iter().chain(&self.closed);
        let others = all
            .filter(|other| **other != slot)
            .map(|it| &self.links[*it]);
        let others = others.filter(|link| link.peer.ip() == host);
        others
            .map(|link| {
                let pending = link.conversation.reference.pending();
                let now = CLASSES.into_iter().find(|class| *class >= pending);
                let now = now.filter(|_| pending > 0).unwrap_or(0);
                now.max(link.last.buffer)
            })
            .sum()
    }

    /// Whether another connection waits for a buffer since the turn before, and would have
    /// been read from if it had had one meanwhile.
    fn another_must_wait(&self, slot: usize) -> bool {
        let mut others = self.live.iter().filter(|other| **other != slot);
        self.pool_has_waiters
            && self.rate.is_none()
            && self.store.is_ready()
            && others.any(|other| {
                let link = &self.links[*other];
                let gone = link.broken || link.unheard || link.closing.is_some();
                let sure = link.unsent == 0 && link.allowance.is_none() && !self.is_owed(*other);
                // With others of its host it may be behind those of other hosts, if they hold
                // as much of the pool as one host may.
                let same = self.live.iter().map(|it| self.links[*it].peer.ip());
                let sure = sure && same.filter(|ip| *ip == link.peer.ip()).count() == 1;
                link.last.waits && !link.tried_now && !gone && sure
            })
    }

    /// The server reads these bytes.
    pub fn note_read(&mut self, slot: usize, bytes: &[u8]) {
        let link = &mut self.links[slot];
        link.read_now = true;
        self.bytes[0] += bytes.len() as u64;
        if !self.store.is_ready() {
            link.read_unready = true;
        }
        if link.closing.is_some() || link.conversation.is_over() {
            return;
        }
        if link.allowance == Some(0) {
            // What is there beyond what had arrived at the stop is thrown away.
            if link.conversation.doubts() == 0 {
                link.conversation.end();
            }
            return;
        }
        let port = link.peer.port();
        let left = link.allowance;
        let within = left.is_none_or(|left| left >= bytes.len() as u64);
        link.allowance = left.map(|left| left.saturating_sub(bytes.len() as u64));
        let due = self.due(slot).any();
        self.demand(
            within || due,
            port,
            "more is read than had arrived at the stop",
        );
        if due {
            let wanted = left.map_or(bytes.len(), |left| bytes.len().min(left as usize));
            self.links[slot].conversation.read_perhaps(bytes, wanted);
        } else {
            let link = &mut self.links[slot];
            let mismatches = link.conversation.mismatches;
            link.conversation.read(bytes);
            if link.conversation.mismatches > mismatches {
                self.counts.saw(Event::ChecksumMismatch);
            }
        }
    }
}
