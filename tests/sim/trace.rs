//! The last things that happened, kept without a word being written.

use std::fmt::Write as _;

/// How many are kept.
const KEPT: usize = 4096;

/// How many are told: the last of all, and the last of the one in question.
const TOLD: (usize, usize) = (40, 40);

/// A ring of happenings.
#[derive(Default)]
pub struct Trace {
    ring: Vec<Happening>,
    next: usize,
    noted: u64,
}

#[derive(Clone, Copy)]
struct Happening {
    /// How many were before it.
    number_of: u64,
    nanos: u64,
    /// The port of the connection, or 0.
    port: u16,
    what: &'static str,
    number: u64,
}

impl Trace {
    pub fn note(&mut self, nanos: u64, port: u16, what: &'static str, number: u64) {
        let number_of = self.noted;
        self.noted += 1;
        let happening = Happening {
            number_of,
            nanos,
            port,
            what,
            number,
        };
        if self.ring.len() < KEPT {
            self.ring.push(happening);
        } else {
            self.ring[self.next] = happening;
        }
        self.next = (self.next + 1) % KEPT;
    }

    /// The last of all and the last that have to do with `port`, oldest first, a line
    /// each.
    pub fn tell(&self, port: u16) -> String {
        let (new, old) = self.ring.split_at(self.next.min(self.ring.len()));
        let happenings: Vec<_> = old.iter().chain(new).collect();
        let own = |happening: &&&Happening| port != 0 && happening.port == port;
        let earliest = |told: Option<&&Happening>| told.map_or(u64::MAX, |first| first.number_of);
        let of_all = earliest(
            happenings
                .iter()
                .rev()
                .nth(TOLD.0 - 1)
                .or(happenings.first()),
        );
        let of_it = earliest(happenings.iter().rev().filter(own).nth(TOLD.1 - 1));
        let of_it = if of_it == u64::MAX { 0 } else { of_it };
        let mut text = String::new();
        for told in happenings {
            if told.number_of < of_all && !(told.port == port && told.number_of >= of_it) {
                continue;
            }
            let Happening {
                nanos,
                port,
                what,
                number,
                ..
            } = told;
            let _ = match port {
                0 => writeln!(text, "  {nanos:>15} ns        {what} {number}"),
                port => writeln!(text, "  {nanos:>15} ns {port:>6} {what} {number}"),
            };
        }
        text
    }
}
