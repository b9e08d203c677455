//! The grace after a start, compared with the wait before a reconnection that docs/agents.md
//! prescribes.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

const AGENTS: usize = 2000;

/// Time after which an attempt to connect fails if the server does not even refuse it.
const CONNECT_TIMEOUT: f64 = 10.0;

/// Returns when an agent reconnects, in seconds after a start that ends an outage of `outage`
/// seconds: it waits as docs/agents.md prescribes, and each attempt fails after `takes` seconds.
fn return_after(outage: f64, takes: f64, random: &mut SmallRng) -> f64 {
    let mut now = -outage;
    for attempt in 0.. {
        let span = 60_f64.min(2_f64.powi(attempt.min(6)));
        now += random.random_range(0.1..span);
        if now >= 0.0 {
            break;
        }
        now += takes;
    }
    now
}

#[test]
fn no_agent_is_offline_after_an_outage_of_any_length() {
    let random = &mut SmallRng::seed_from_u64(15);
    let mut latest = 0_f64;
    for outage in [0.1, 1.0, 7.0, 30.0, 61.0, 90.0, 300.0, 3600.0, 86_400.0] {
        for takes in [0.0, CONNECT_TIMEOUT] {
            let config = Config {
                start_grace: 90 * SECOND,
                capacity: AGENTS,
                ..config()
            };
            let mut roster = Roster::new(config, at(0));
            let mut packets = Vec::new();
            for agent in 0..AGENTS {
                let mut entry = Entry::new(
                    Identity::Name(&agent.to_string()),
                    address(1),
                    at(0),
                    wall(0),
                );
                entry.learn(learnt(5 * SECOND));
                entry.online = true;
                let key = roster.insert(entry, at(0));
                let back = return_after(outage, takes, random);
                latest = latest.max(back);
                // Without the time that the server takes to accept: 10 s are left for that.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let back = (1000.0 * back) as u64;
                packets.extend((0..20).map(|beat| (back + 5000 * beat, key)));
            }
            packets.sort_unstable_by_key(|(at, _)| *at);
            let mut now = 0;
            // At 105 s the first agent has sent its last heartbeat.
            for (at, key) in packets.into_iter().filter(|(at, _)| *at < 105_000) {
                while now + 500 <= at {
                    now += 500;
                    let offline = expired(&mut roster, now);
                    assert!(offline.is_empty(), "{now} ms after {outage} s");
                }
                beat(&mut roster, key, at);
            }
        }
    }
    assert!(
        (60.0..80.0).contains(&latest),
        "{latest} s; the grace is 90 s"
    );
}
