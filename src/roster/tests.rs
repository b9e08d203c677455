//! A roster in made-up time, against a simple model.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Alarms are up to a tick late.
const TICK: Duration = Duration::from_millis(64);

fn config() -> Config {
    Config {
        offline_after: None,
        start_grace: Duration::ZERO,
        capacity: 100,
    }
}

fn at(millis: u64) -> Moment {
    Moment::from_nanos(1_000_000 * (1_000_000 + millis))
}

fn wall(millis: u64) -> UnixNanos {
    UnixNanos::from_nanos(i64::try_from(millis).unwrap() * 1_000_000)
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn add(roster: &mut Roster, identity: Identity<'_>, millis: u64) -> AgentKey {
    let entry = Entry::new(identity, address(1), at(millis), wall(millis));
    roster.insert(entry, at(millis))
}

fn hear(roster: &mut Roster, key: AgentKey, millis: u64) -> bool {
    roster.heard(key, address(1), at(millis), wall(millis))
}

fn expired(roster: &mut Roster, millis: u64) -> Vec<AgentKey> {
    std::iter::from_fn(|| roster.expire(at(millis), wall(millis), true)).collect()
}

/// Looks every half a second, as a reactor with something to do would.
fn watch(roster: &mut Roster, millis: std::ops::Range<u64>) -> Vec<(u64, AgentKey)> {
    let looks = millis.step_by(500);
    looks
        .flat_map(|now| expired(roster, now).into_iter().map(move |key| (now, key)))
        .collect()
}

#[test]
fn who_is_silent_for_too_long_is_offline_once() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    assert_eq!(roster.online(), 0);
    assert!(hear(&mut roster, key, 0));
    assert!(!hear(&mut roster, key, 5000), "it was online");
    assert_eq!(watch(&mut roster, 5000..15_000), []);
    assert_eq!(watch(&mut roster, 15_000..60_000), [(15_500, key)]);
    assert_eq!(roster.online(), 0);
    assert!(hear(&mut roster, key, 60_000), "it is back");
}

#[test]
fn a_slow_rhythm_makes_for_a_longer_silence() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    for millis in [0, 20_000, 40_000] {
        hear(&mut roster, key, millis);
        roster.beat(key, "1.0", at(millis));
        // Two at once do not hide it.
        roster.beat(key, "1.0", at(millis));
    }
    assert_eq!(roster.get(key).unwrap().interval(), 20 * SECOND);
    assert_eq!(watch(&mut roster, 40_500..100_000), []);
    assert_eq!(watch(&mut roster, 100_000..120_000), [(100_500, key)]);
    // The time that it was away is no rhythm.
    hear(&mut roster, key, 500_000);
    roster.beat(key, "1.0", at(500_000));
    assert_eq!(roster.get(key).unwrap().interval(), 20 * SECOND);
}

#[test]
fn a_rhythm_slower_than_the_least_silence_is_learnt() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    assert!(hear(&mut roster, key, 0));
    roster.beat(key, "1.0", at(0));
    // Nothing tells a slow agent from one that is gone, once.
    assert_eq!(watch(&mut roster, 0..60_000), [(10_500, key)]);
    assert!(hear(&mut roster, key, 60_000));
    roster.beat(key, "1.0", at(60_000));
    assert_eq!(roster.get(key).unwrap().interval(), 60 * SECOND);
    for minute in 1..5 {
        let beat = minute * 60_000;
        assert_eq!(watch(&mut roster, beat..beat + 60_000), []);
        assert!(!hear(&mut roster, key, beat + 60_000));
        roster.beat(key, "1.0", at(beat + 60_000));
    }
}

#[test]
fn after_the_start_everyone_has_time_to_come_back() {
    let config = Config {
        start_grace: 30 * SECOND,
        ..config()
    };
    let mut roster = Roster::new(config, at(0));
    let [online, offline] = [("a", true), ("b", false)].map(|(name, online)| {
        let mut entry = Entry::new(Identity::Name(name), address(1), at(0), wall(0));
        entry.online = online;
        roster.insert(entry, at(0))
    });
    assert_eq!(roster.online(), 1);
    assert_eq!(watch(&mut roster, 0..30_000), []);
    assert_eq!(watch(&mut roster, 30_000..40_000), [(30_500, online)]);
    assert!(hear(&mut roster, offline, 40_000));
}

#[test]
fn nobody_is_silent_while_the_server_keeps_them_waiting() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    hear(&mut roster, key, 0);
    roster.hold(at(5000));
    assert_eq!(roster.deadline(), None);
    assert_eq!(watch(&mut roster, 5000..60_000), []);
    roster.resume(at(60_000));
    assert_eq!(watch(&mut roster, 60_000..115_000), []);
    assert_eq!(watch(&mut roster, 115_000..120_000), [(115_500, key)]);
}

#[test]
fn a_process_that_stood_still_declares_nobody_offline_for_that() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    hear(&mut roster, key, 0);
    assert_eq!(expired(&mut roster, 100_000), []);
    assert!(!hear(&mut roster, key, 101_000));
}

#[test]
fn at_capacity_the_agent_that_is_silent_longest_makes_room() {
    let config = Config {
        capacity: 3,
        ..config()
    };
    let mut roster = Roster::new(config, at(0));
    let names = ["a", "b", "c"];
    let keys = names.map(|name| add(&mut roster, Identity::Name(name), 0));
    for (key, millis) in keys.into_iter().zip([300, 100, 200]) {
        hear(&mut roster, key, millis);
    }
    roster.attach(keys[1]);
    let make_room = |roster: &mut Roster| roster.make_room(address(2), at(400));
    assert_eq!(
        make_room(&mut roster),
        Ok(Some(keys[2])),
        "a session speaks for b"
    );
    let reference = roster.reference(keys[2]);
    assert_eq!(roster.resolve(reference), Some(keys[2]));
    roster.remove(keys[2]);
    assert_eq!(make_room(&mut roster), Ok(None));
    let another = add(&mut roster, Identity::Name("d"), 400);
    assert_eq!(another, keys[2], "the same place");
    assert_eq!(roster.resolve(reference), None, "and another agent");
    assert_eq!(roster.find(Identity::Name("c")), None);
}

/// Hears an agent in so many hours, the first of which is the one at hand.
fn hear_hourly(roster: &mut Roster, key: AgentKey, hours: u64) {
    (0..hours).for_each(|hour| {
        hear(roster, key, hour * 3_600_000);
    });
}

#[test]
fn an_agent_heard_in_three_hours_is_established_and_makes_no_room() {
    let config = Config {
        capacity: 2,
        ..config()
    };
    let mut roster = Roster::new(config, at(0));
    let [steady, brief] = ["steady", "brief"].map(|name| {
        let key = add(&mut roster, Identity::Name(name), 0);
        roster.attach(key);
        key
    });
    hear_hourly(&mut roster, steady, 3);
    hear_hourly(&mut roster, brief, 2);
    // The clock is set back and forth.
    hear_hourly(&mut roster, brief, 2);
    assert_eq!(roster.established(), 1);
    for key in [steady, brief] {
        roster.detach(key);
    }
    assert_eq!(roster.make_room(address(2), at(9)), Ok(Some(brief)));
    roster.remove(brief);
    let another = add(&mut roster, Identity::Name("another"), 9);
    roster.attach(another);
    assert_eq!(roster.make_room(address(2), at(9)), Err(NoPlace::Full));
    let expected = Counters {
        refused: 1,
        evicted: 1,
    };
    assert_eq!(roster.counters(), expected);
}

#[test]
fn established_agents_are_declared_offline_first() {
    let mut roster = Roster::new(config(), at(0));
    let keys = [("a", 1), ("b", 3), ("c", 2)].map(|(name, hours)| {
        let mut entry = Entry::new(Identity::Name(name), address(1), at(0), wall(0));
        entry.resume_hours(Some(hours), 0);
        roster.insert(entry, at(0))
    });
    for key in keys {
        hear(&mut roster, key, 0);
    }
    let (late, wall) = (at(10_500), wall(10_500));
    assert_eq!(expired(&mut roster, 10_000), []);
    assert_eq!(roster.expire(late, wall, false), Some(keys[1]));
    assert_eq!(roster.expire(late, wall, false), None, "others wait");
    assert_eq!(roster.online(), 2);
    hear(&mut roster, keys[0], 10_500);
    assert_eq!(expired(&mut roster, 11_000), [keys[2]]);
    assert_eq!(expired(&mut roster, 21_000), [keys[0]]);
}

#[test]
fn a_key_costs_no_more_room_than_a_number() {
    assert_eq!(size_of::<Option<AgentKey>>(), 4);
}

#[derive(Clone, Debug)]
enum Deed {
    Hear(u8),
    Beat(u8),
    Wait(u16),
    Hold(u16),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Deed::Hear),
        4 => (0..6_u8).prop_map(Deed::Beat),
        6 => (1..4000_u16).prop_map(Deed::Wait),
        1 => (1..8000_u16).prop_map(Deed::Hold),
    ]
}

proptest! {
    /// Whatever agents do, each change is told once; nobody who was heard in
    /// time is offline, and nobody who was not stays online.
    #[test]
    fn changes_are_told_once_and_in_time(deeds in prop::collection::vec(deed(), 1..200)) {
        let mut roster = Roster::new(config(), at(0));
        let mut now = 0;
        let mut online = [false; 6];
        let mut heard = [0_u64; 6];
        let mut pardoned = 0;
        let keys: Vec<AgentKey> = (0..6)
            .map(|agent| add(&mut roster, Identity::Address(address(agent)), 0))
            .collect();
        for deed in deeds {
            match deed {
                Deed::Hear(agent) | Deed::Beat(agent) => {
                    let agent = usize::from(agent);
                    let change = hear(&mut roster, keys[agent], now);
                    prop_assert_eq!(change, !online[agent]);
                    online[agent] = true;
                    heard[agent] = now;
                    if matches!(deed, Deed::Beat(_)) {
                        roster.beat(keys[agent], "1", at(now));
                    }
                }
                Deed::Wait(millis) => {
                    let end = now + u64::from(millis);
                    while now < end {
                        now = (now + 500).min(end);
                        for key in expired(&mut roster, now) {
                            let agent = keys.iter().position(|other| *other == key).unwrap();
                            prop_assert!(online[agent], "told twice");
                            online[agent] = false;
                            prop_assert!(now >= heard[agent] + 10_000);
                            prop_assert!(now >= pardoned);
                        }
                    }
                    for agent in 0..6 {
                        let interval = roster.get(keys[agent]).unwrap().interval();
                        let limit = (3 * interval).max(10 * SECOND) + TICK;
                        let deadline = (heard[agent] + u64::try_from(limit.as_millis()).unwrap())
                            .max(pardoned + u64::try_from(TICK.as_millis()).unwrap());
                        prop_assert!(!online[agent] || now <= deadline);
                    }
                }
                Deed::Hold(millis) => {
                    roster.hold(at(now));
                    now += u64::from(millis);
                    prop_assert_eq!(expired(&mut roster, now), []);
                    roster.resume(at(now));
                    pardoned = pardoned.max(match millis {
                        // Gone by before anybody could be missed.
                        0..1000 => now + 1000,
                        _ => now + u64::from(millis).max(10_000),
                    });
                }
            }
            let count = online.iter().filter(|online| **online).count();
            prop_assert_eq!(roster.online(), count);
        }
    }
}
