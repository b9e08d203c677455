//! A roster that is moved, bit by bit, while it is in use.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::roster::{Config, Identity};

const SECOND: Duration = Duration::from_secs(1);

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn config() -> Config {
    Config {
        offline_after: None,
        start_grace: Duration::from_secs(5),
        capacity: 4,
    }
}

fn at(millis: u64) -> Moment {
    Moment::from_nanos(1_000_000 * (1_000_000 + millis))
}

fn wall(millis: u64) -> UnixNanos {
    UnixNanos::from_nanos(i64::try_from(millis).unwrap() * 1_000_000)
}

fn address(agent: usize) -> IpAddr {
    [10, 0, 0, u8::try_from(agent).unwrap()].into()
}

/// The first half of them have names.
fn identity(agent: usize) -> Identity<'static> {
    match NAMES.get(agent) {
        Some(name) => Identity::Name(name),
        None => Identity::Address(address(agent)),
    }
}

/// What happens to a roster, or in it.
#[derive(Clone, Debug)]
enum Deed {
    Hear(usize),
    Beat(usize, u8),
    Attach(usize),
    Detach(usize),
    Version(usize, i64),
    GiveUp(usize),
    Forget(usize),
    Pause(usize),
    Unpause(usize),
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let agent = 0..2 * NAMES.len();
    prop_oneof![
        6 => agent.clone().prop_map(Deed::Hear),
        6 => (agent.clone(), 0..3_u8).prop_map(|(agent, version)| Deed::Beat(agent, version)),
        2 => agent.clone().prop_map(Deed::Attach),
        2 => agent.clone().prop_map(Deed::Detach),
        2 => (agent.clone(), 1..100_i64).prop_map(|(agent, version)| Deed::Version(agent, version)),
        1 => agent.clone().prop_map(Deed::GiveUp),
        2 => agent.clone().prop_map(Deed::Pause),
        2 => agent.clone().prop_map(Deed::Unpause),
        4 => agent.prop_map(Deed::Forget),
        6 => (1..20_u64).prop_map(|tenths| Deed::Wait(100 * tenths)),
    ]
}

/// A deed among steps of a copy.
#[derive(Clone, Debug)]
enum Step {
    Deed(Deed),
    Show(usize),
    ShowAgain(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => deed().prop_map(Step::Deed),
        1 => (0..4_usize).prop_map(Step::Show),
        1 => (0..4_usize).prop_map(Step::ShowAgain),
    ]
}

/// Does it; who changed by it, and how.
fn act(roster: &mut Roster, deed: &Deed, now: &mut u64) -> BTreeSet<(u64, u32, bool)> {
    let mut changes = BTreeSet::new();
    let met = |roster: &mut Roster, agent, now| {
        roster.find(identity(agent)).unwrap_or_else(|| {
            let entry = Entry::new(identity(agent), address(agent), at(now), wall(now));
            roster.insert(entry, at(now))
        })
    };
    match *deed {
        Deed::Hear(agent) | Deed::Beat(agent, _) => {
            let key = met(roster, agent, *now);
            let time = (at(*now), wall(*now));
            let came = roster.heard(key, address(agent), at(*now), wall(*now));
            let is_watched_now = match deed {
                Deed::Beat(_, version) => roster.beat(key, &version.to_string(), None, time),
                _ => roster.report(key, None, time),
            };
            if came || is_watched_now {
                changes.insert((*now, key.number(), true));
            }
        }
        Deed::Attach(agent) => {
            let key = met(roster, agent, *now);
            roster.attach(key);
        }
        Deed::Detach(agent) => {
            let key = met(roster, agent, *now);
            roster.detach(key);
        }
        Deed::Version(agent, version) => {
            let key = met(roster, agent, *now);
            roster
                .get_mut(key)
                .unwrap()
                .set_version(&version.to_string());
        }
        Deed::GiveUp(agent) => {
            let key = met(roster, agent, *now);
            roster.give_up(key, wall(*now));
        }
        Deed::Forget(agent) => {
            if let Some(key) = roster.find(identity(agent))
                && roster.get(key).unwrap().sessions == 0
            {
                roster.remove(key);
            }
        }
        Deed::Pause(agent) => {
            let key = met(roster, agent, *now);
            roster.pause(key, at(*now));
        }
        Deed::Unpause(agent) => {
            let key = met(roster, agent, *now);
            roster.unpause(key, at(*now));
        }
        Deed::Wait(millis) => {
            let end = *now + millis;
            while *now < end {
                *now += 100;
                // Deadlines are tenths of seconds, and alarms less than this late.
                let look = *now + 50;
                while let Some(key) = roster.expire(at(look), wall(look), true) {
                    changes.insert((*now, key.number(), false));
                }
            }
        }
    }
    changes
}

fn apply(to: &mut Roster, slot: u32, state: Option<AgentState>) {
    match state {
        Some(state) => to.adopt(slot, state).unwrap(),
        None => to.forget(slot),
    }
}

fn all(roster: &Roster) -> Vec<Option<AgentState>> {
    let entries = roster.entries.iter();
    let mut all: Vec<_> = entries
        .map(|entry| entry.as_ref().map(|entry| entry.state(roster.lead)))
        .collect();
    while all.last().is_some_and(Option::is_none) {
        all.pop();
    }
    all
}

fn counts(roster: &Roster) -> [usize; 3] {
    [roster.len(), roster.online(), roster.unwatched()]
}

proptest! {
    /// However a roster is copied while it is in use: the copy knows what it knew, and
    /// from then on both do the same.
    #[test]
    fn a_roster_goes_on_as_if_it_had_not_moved(
        before in prop::collection::vec(deed(), 0..40),
        during in prop::collection::vec(step(), 0..120),
        after in prop::collection::vec(deed(), 0..60),
    ) {
        let mut now = 0;
        let mut from = Roster::new(config(), at(0));
        let mut to = Roster::new(config(), at(0));
        for deed in before {
            act(&mut from, &deed, &mut now);
        }
        from.begin_copy();
        for step in during {
            match step {
                Step::Deed(deed) => drop(act(&mut from, &deed, &mut now)),
                Step::Show(most) => {
                    let mut shown = 0;
                    from.copy_some(most, &mut |slot, state| {
                        shown += 1;
                        apply(&mut to, slot, Some(state));
                    });
                    prop_assert!(shown <= most);
                }
                Step::ShowAgain(most) => {
                    let (changes, mut shown) = (from.changes(), 0);
                    from.take_changes(most, &mut |slot, state| {
                        shown += 1;
                        apply(&mut to, slot, state);
                    });
                    prop_assert_eq!(shown, changes.min(most));
                    prop_assert_eq!(from.changes(), changes - shown);
                }
            }
        }
        let all_shown = from.copy_some(usize::MAX, &mut |slot, state| {
            apply(&mut to, slot, Some(state));
        });
        prop_assert!(all_shown);
        from.take_changes(usize::MAX, &mut |slot, state| apply(&mut to, slot, state));
        to.go_on_from(from.amnesty(), from.held_since(), Duration::ZERO, at(now));

        prop_assert_eq!(all(&to), all(&from));
        prop_assert_eq!(counts(&to), counts(&from));
        for agent in 0..2 * NAMES.len() {
            prop_assert_eq!(to.find(identity(agent)), from.find(identity(agent)));
        }
        // It was not the copy that went on: nothing is noted any more.
        from.end_copy();
        for deed in after {
            let mut then = now;
            let there = act(&mut to, &deed, &mut then);
            let here = act(&mut from, &deed, &mut now);
            prop_assert_eq!(there, here);
            prop_assert_eq!(all(&to), all(&from));
            prop_assert_eq!(counts(&to), counts(&from));
        }
        prop_assert_eq!(from.changes(), 0);
    }
}

#[test]
fn a_packet_is_noted_once_however_many_there_are() {
    let (mut from, mut now) = (Roster::new(config(), at(0)), 0);
    (0..3).for_each(|agent| drop(act(&mut from, &Deed::Beat(agent, 1), &mut now)));
    from.begin_copy();
    let mut shown = Vec::new();
    assert!(!from.copy_some(2, &mut |slot, _| shown.push(slot)));
    assert_eq!(shown, [0, 1]);
    for agent in [1, 2, 1, 1] {
        act(&mut from, &Deed::Beat(agent, 1), &mut now);
    }
    assert_eq!(from.changes(), 1, "the third is still to be shown");
    assert!(from.copy_some(2, &mut |slot, _| shown.push(slot)));
    assert_eq!(shown, [0, 1, 2]);
    from.take_changes(usize::MAX, &mut |slot, state| {
        assert!(state.is_some());
        shown.push(slot);
    });
    assert_eq!(shown, [0, 1, 2, 1]);
    act(&mut from, &Deed::Beat(1, 1), &mut now);
    from.end_copy();
    act(&mut from, &Deed::Beat(0, 1), &mut now);
    assert_eq!(from.changes(), 0);
    // The next attempt begins from the start.
    from.begin_copy();
    assert_eq!(from.changes(), 0);
    shown.clear();
    assert!(from.copy_some(usize::MAX, &mut |slot, _| shown.push(slot)));
    assert_eq!(shown, [0, 1, 2]);
}

#[test]
fn a_slot_far_beyond_the_capacity_is_refused() {
    let mut from = Roster::new(config(), at(0));
    act(&mut from, &Deed::Hear(0), &mut 0);
    let state = all(&from)[0].clone().unwrap();
    let mut to = Roster::new(config(), at(0));
    assert_eq!(
        to.adopt(u32::MAX, state.clone()),
        Err(StrangeSlot(u32::MAX))
    );
    assert!(to.is_empty());
    // Gaps are no agents.
    assert_eq!(to.adopt(1000, state), Ok(()));
    assert_eq!(to.len(), 1);
}

#[test]
fn a_moment_without_the_server_is_held_against_nobody_and_hides_nobody() {
    let mut from = Roster::new(
        Config {
            start_grace: Duration::ZERO,
            ..config()
        },
        at(0),
    );
    act(&mut from, &Deed::Beat(0, 1), &mut 0);
    let mut to = Roster::new(config(), at(9000));
    from.begin_copy();
    from.copy_some(usize::MAX, &mut |slot, state| {
        apply(&mut to, slot, Some(state));
    });
    // Its time is over while nobody looks.
    to.go_on_from(from.amnesty(), Some(at(9990)), SECOND, at(10_010));
    assert_eq!(to.deadline(), None);
    to.resume(at(10_010));
    assert_eq!(to.stood_still(), Duration::from_millis(1020));
    assert_eq!(
        to.expire(at(10_200), wall(10_200), true),
        None,
        "it may have spoken"
    );
    let gone = to.expire(at(11_100), wall(11_100), true);
    assert_eq!(gone, from.find(identity(0)), "not its start's grace");
}

#[test]
fn an_agent_of_an_older_build_is_judged_if_it_has_sent_a_heartbeat() {
    let state = |version: &str| {
        let mut from = Roster::new(config(), at(0));
        let entry = Entry::new(identity(0), address(0), at(0), wall(0));
        let key = from.insert(entry, at(0));
        from.heard(key, address(0), at(0), wall(0));
        let mut found = None;
        from.begin_copy();
        from.copy_some(1, &mut |_, state| found = Some(state));
        AgentState {
            version: version.to_owned(),
            online: true,
            presence: PresenceState::default(),
            ..found.unwrap()
        }
    };
    for (version, beats) in [("", false), ("1.0", true)] {
        let mut to = Roster::new(config(), at(0));
        to.adopt(0, state(version)).unwrap();
        to.go_on_from(at(0), None, Duration::ZERO, at(0));
        let key = to.find(identity(0)).unwrap();
        let entry = to.get(key).unwrap();
        assert_eq!((entry.watched, entry.online), (true, true));
        assert!(!to.heard(key, address(0), at(100), wall(100)));
        assert!(!to.report(key, None, (at(100), wall(100))));
        // It is online until it is silent, of which there is an event.
        let mut seconds = (1..3600).map(|second| 1000 * second);
        let expired = seconds.find_map(|millis| to.expire(at(millis), wall(millis), true));
        assert_eq!(expired, Some(key));
        let entry = to.get(key).unwrap();
        assert_eq!((entry.watched, entry.online), (beats, false));
        // A report of an agent that is not judged changes nothing.
        let back = 4_000_000;
        assert_eq!(to.heard(key, address(0), at(back), wall(back)), beats);
        assert!(!to.report(key, None, (at(back), wall(back))));
    }
}
