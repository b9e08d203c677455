//! The parts of a server in the process of a test or a benchmark itself, set up as
//! `hawk serve` does it.

use std::time::Duration;

use hawk::admission;
use hawk::handler::{self, Ack, PacketHandler};
use hawk::log_sink::LeftOut;
use hawk::reactor::{self, PhaseBudget};
use hawk::roster;
use hawk::session::Limits;

/// Returns a packet handler. It stores nothing until it gets a store.
pub fn packet_handler() -> PacketHandler {
    PacketHandler::new(handler::Config {
        ack: Ack::Committed,
        roster: roster::Config {
            offline_after: None,
            start_grace: Duration::from_secs(30),
            capacity: 1000,
        },
        remember: Duration::from_secs(3600),
        log_packets: false,
    })
}

/// Returns the settings of an event loop on a free port of the loopback, with all timeouts at
/// `patience` and without statistics by itself.
pub fn reactor(patience: Duration) -> reactor::Config {
    reactor::Config {
        listen: ([127, 0, 0, 1], 0).into(),
        max_connections: 10,
        admission: admission::Rules::default(),
        pool_limit: 1 << 20,
        output_limit: 64 << 20,
        phase_budget: PhaseBudget::default(),
        limits: Limits {
            idle: patience,
            frame: patience,
            rate: None,
        },
        drain_timeout: patience,
        stats_interval: Duration::from_secs(3600),
        log_left_out: LeftOut::default(),
    }
}
