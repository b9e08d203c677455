//! Rosters that are copied while they are in use.

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

/// Returns the identity of an agent; the first half of the agents have names.
fn identity(agent: usize) -> Identity<'static> {
    match NAMES.get(agent) {
        Some(name) => Identity::Name(name),
        None => Identity::Address(address(agent)),
    }
}

/// A call of a roster, or a lapse of time in milliseconds.
#[derive(Clone, Debug)]
enum Action {
    Packet(usize),
    Beat(usize, u8),
    Attach(usize),
    Detach(usize),
    Version(usize, i64),
    MarkOffline(usize),
    Remove(usize),
    Pause(usize),
    Unpause(usize),
    Wait(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let agent = 0..2 * NAMES.len();
    prop_oneof![
        6 => agent.clone().prop_map(Action::Packet),
        6 => (agent.clone(), 0..3_u8).prop_map(|(agent, version)| Action::Beat(agent, version)),
        2 => agent.clone().prop_map(Action::Attach),
        2 => agent.clone().prop_map(Action::Detach),
        2 => (agent.clone(), 1..100_i64).prop_map(|(agent, version)| Action::Version(agent, version)),
        1 => agent.clone().prop_map(Action::MarkOffline),
        2 => agent.clone().prop_map(Action::Pause),
        2 => agent.clone().prop_map(Action::Unpause),
        4 => agent.prop_map(Action::Remove),
        6 => (1..20_u64).prop_map(|tenths| Action::Wait(100 * tenths)),
    ]
}

/// An action, or a step of a copy of up to so many agents.
#[derive(Clone, Debug)]
enum Step {
    Action(Action),
    Copy(usize),
    CopyChanges(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => action().prop_map(Step::Action),
        1 => (0..4_usize).prop_map(Step::Copy),
        1 => (0..4_usize).prop_map(Step::CopyChanges),
    ]
}

/// Carries out the action. Returns the changes of agents' states: time, slot, online.
fn act(roster: &mut Roster, action: &Action, now: &mut u64) -> BTreeSet<(u64, u32, bool)> {
    let mut changes = BTreeSet::new();
    let find_or_insert = |roster: &mut Roster, agent, now| {
        roster.find(identity(agent)).unwrap_or_else(|| {
            let entry = Entry::new(identity(agent), address(agent), at(now), wall(now));
            roster.insert(entry, at(now))
        })
    };
    match *action {
        Action::Packet(agent) | Action::Beat(agent, _) => {
            let key = find_or_insert(roster, agent, *now);
            let time = (at(*now), wall(*now));
            let came = roster.record_packet(key, address(agent), at(*now), wall(*now));
            let is_watched_now = match action {
                Action::Beat(_, version) => roster.beat(key, &version.to_string(), None, time),
                _ => roster.report(key, None, time),
            };
            if came || is_watched_now {
                changes.insert((*now, key.number(), true));
            }
        }
        Action::Attach(agent) => {
            let key = find_or_insert(roster, agent, *now);
            roster.attach(key);
        }
        Action::Detach(agent) => {
            let key = find_or_insert(roster, agent, *now);
            roster.detach(key);
        }
        Action::Version(agent, version) => {
            let key = find_or_insert(roster, agent, *now);
            roster
                .get_mut(key)
                .unwrap()
                .set_version(&version.to_string());
        }
        Action::MarkOffline(agent) => {
            let key = find_or_insert(roster, agent, *now);
            roster.mark_offline(key, wall(*now));
        }
        Action::Remove(agent) => {
            if let Some(key) = roster.find(identity(agent))
                && roster.get(key).unwrap().sessions == 0
            {
                roster.remove(key);
            }
        }
        Action::Pause(agent) => {
            let key = find_or_insert(roster, agent, *now);
            roster.pause(key, at(*now));
        }
        Action::Unpause(agent) => {
            let key = find_or_insert(roster, agent, *now);
            roster.unpause(key, at(*now));
        }
        Action::Wait(millis) => {
            let end = *now + millis;
            while *now < end {
                *now += 100;
                // Deadlines are whole tenths of seconds; alarms are less than 50 ms late.
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
    to.import(slot, state).unwrap();
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
    /// A roster that is copied while it is in use equals its copy, and both behave alike from
    /// then on.
    #[test]
    fn a_copied_roster_behaves_like_the_original(
        before in prop::collection::vec(action(), 0..40),
        during in prop::collection::vec(step(), 0..120),
        after in prop::collection::vec(action(), 0..60),
    ) {
        let mut now = 0;
        let mut from = Roster::new(config(), at(0));
        let mut to = Roster::new(config(), at(0));
        for action in before {
            act(&mut from, &action, &mut now);
        }
        from.begin_copy();
        for step in during {
            match step {
                Step::Action(action) => drop(act(&mut from, &action, &mut now)),
                Step::Copy(most) => {
                    let mut copied = 0;
                    from.copy_some(most, &mut |slot, state| {
                        copied += 1;
                        apply(&mut to, slot, state);
                    });
                    prop_assert!(copied <= most);
                }
                Step::CopyChanges(most) => {
                    let (changes, mut copied) = (from.changes(), 0);
                    from.take_changes(most, &mut |slot, state| {
                        copied += 1;
                        apply(&mut to, slot, state);
                    });
                    prop_assert_eq!(copied, changes.min(most));
                    prop_assert_eq!(from.changes(), changes - copied);
                }
            }
        }
        let all_copied = from.copy_some(usize::MAX, &mut |slot, state| {
            apply(&mut to, slot, state);
        });
        prop_assert!(all_copied);
        from.take_changes(usize::MAX, &mut |slot, state| apply(&mut to, slot, state));
        to.resume_from(from.amnesty(), from.still_since(), Duration::ZERO, at(now));

        prop_assert_eq!(all(&to), all(&from));
        prop_assert_eq!(counts(&to), counts(&from));
        for agent in 0..2 * NAMES.len() {
            prop_assert_eq!(to.find(identity(agent)), from.find(identity(agent)));
        }
        // After the end of the copy changes are not recorded.
        from.end_copy();
        for action in after {
            let mut then = now;
            let there = act(&mut to, &action, &mut then);
            let here = act(&mut from, &action, &mut now);
            prop_assert_eq!(there, here);
            prop_assert_eq!(all(&to), all(&from));
            prop_assert_eq!(counts(&to), counts(&from));
        }
        prop_assert_eq!(from.changes(), 0);
    }
}

#[test]
fn many_packets_of_an_agent_are_one_change() {
    let (mut from, mut now) = (Roster::new(config(), at(0)), 0);
    (0..3).for_each(|agent| drop(act(&mut from, &Action::Beat(agent, 1), &mut now)));
    from.begin_copy();
    let mut copied = Vec::new();
    assert!(!from.copy_some(2, &mut |slot, _| copied.push(slot)));
    assert_eq!(copied, [0, 1]);
    for agent in [1, 2, 1, 1] {
        act(&mut from, &Action::Beat(agent, 1), &mut now);
    }
    assert_eq!(from.changes(), 1, "the third is not copied yet");
    assert!(from.copy_some(2, &mut |slot, _| copied.push(slot)));
    assert_eq!(copied, [0, 1, 2]);
    from.take_changes(usize::MAX, &mut |slot, state| {
        assert!(state.is_some());
        copied.push(slot);
    });
    assert_eq!(copied, [0, 1, 2, 1]);
    act(&mut from, &Action::Beat(1, 1), &mut now);
    from.end_copy();
    act(&mut from, &Action::Beat(0, 1), &mut now);
    assert_eq!(from.changes(), 0);
    // The next copy begins from the start.
    from.begin_copy();
    assert_eq!(from.changes(), 0);
    copied.clear();
    assert!(from.copy_some(usize::MAX, &mut |slot, _| copied.push(slot)));
    assert_eq!(copied, [0, 1, 2]);
}

#[test]
fn a_slot_far_beyond_the_capacity_is_refused() {
    let mut from = Roster::new(config(), at(0));
    act(&mut from, &Action::Packet(0), &mut 0);
    let state = all(&from)[0].clone().unwrap();
    let mut to = Roster::new(config(), at(0));
    assert_eq!(
        to.import(u32::MAX, Some(state.clone())),
        Err(StrangeSlot(u32::MAX))
    );
    assert!(to.is_empty());
    // The slots in between stay empty.
    assert_eq!(to.import(1000, Some(state)), Ok(()));
    assert_eq!(to.len(), 1);
}

#[test]
fn a_hand_over_makes_no_agent_offline_and_hides_no_dead_agent() {
    let mut from = Roster::new(
        Config {
            start_grace: Duration::ZERO,
            ..config()
        },
        at(0),
    );
    act(&mut from, &Action::Beat(0, 1), &mut 0);
    let mut to = Roster::new(config(), at(9000));
    from.begin_copy();
    from.copy_some(usize::MAX, &mut |slot, state| {
        apply(&mut to, slot, state);
    });
    // Its deadline passes during the hand-over.
    to.resume_from(from.amnesty(), Some(at(9990)), SECOND, at(10_010));
    assert_eq!(to.deadline(), None);
    to.resume(at(10_010));
    assert_eq!(to.stood_still(), Duration::from_millis(1020));
    assert_eq!(
        to.expire(at(10_200), wall(10_200), true),
        None,
        "its packets may be unread"
    );
    let gone = to.expire(at(11_100), wall(11_100), true);
    assert_eq!(
        gone,
        from.find(identity(0)),
        "without the grace after a start"
    );
}

#[test]
fn an_agent_of_an_older_build_is_judged_if_it_has_sent_a_heartbeat() {
    let state = |version: &str| {
        let mut from = Roster::new(config(), at(0));
        let entry = Entry::new(identity(0), address(0), at(0), wall(0));
        let key = from.insert(entry, at(0));
        from.record_packet(key, address(0), at(0), wall(0));
        let mut found = None;
        from.begin_copy();
        from.copy_some(1, &mut |_, state| found = state);
        AgentState {
            version: version.to_owned(),
            online: true,
            presence: PresenceState::default(),
            ..found.unwrap()
        }
    };
    for (version, beats) in [("", false), ("1.0", true)] {
        let mut to = Roster::new(config(), at(0));
        to.import(0, Some(state(version))).unwrap();
        to.resume_from(at(0), None, Duration::ZERO, at(0));
        let key = to.find(identity(0)).unwrap();
        let entry = to.get(key).unwrap();
        assert_eq!((entry.watched, entry.online), (true, true));
        assert!(!to.record_packet(key, address(0), at(100), wall(100)));
        assert!(!to.report(key, None, (at(100), wall(100))));
        // It is online until its next long silence, which causes an event.
        let mut seconds = (1..3600).map(|second| 1000 * second);
        let expired = seconds.find_map(|millis| to.expire(at(millis), wall(millis), true));
        assert_eq!(expired, Some(key));
        let entry = to.get(key).unwrap();
        assert_eq!((entry.watched, entry.online), (beats, false));
        // A report of an agent that is not judged changes nothing.
        let back = 4_000_000;
        assert_eq!(
            to.record_packet(key, address(0), at(back), wall(back)),
            beats
        );
        assert!(!to.report(key, None, (at(back), wall(back))));
    }
}
