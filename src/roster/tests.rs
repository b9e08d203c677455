//! A roster with a manual clock, beside a simple model.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Maximum delay of an alarm.
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

/// What an earlier process learnt of an agent with this interval between heartbeats.
fn learnt(interval: Duration) -> Learnt {
    Learnt {
        is_judged: true,
        interval,
        ..Learnt::default()
    }
}

fn send(roster: &mut Roster, key: AgentKey, millis: u64) -> bool {
    roster.record_packet(key, address(1), at(millis), wall(millis))
}

/// Records a heartbeat, `gap` milliseconds after its session's previous heartbeat. Returns
/// whether the agent comes online.
fn beat_after(roster: &mut Roster, key: AgentKey, gap: Option<u64>, millis: u64) -> bool {
    let came = send(roster, key, millis);
    let gap = gap.map(Duration::from_millis);
    roster.beat(key, "1.0", gap, (at(millis), wall(millis))) || came
}

/// Records the first heartbeat of a session.
fn beat(roster: &mut Roster, key: AgentKey, millis: u64) -> bool {
    beat_after(roster, key, None, millis)
}

/// Records the first report of a session.
fn report(roster: &mut Roster, key: AgentKey, millis: u64) -> bool {
    let came = send(roster, key, millis);
    roster.report(key, None, (at(millis), wall(millis))) || came
}

fn expired(roster: &mut Roster, millis: u64) -> Vec<AgentKey> {
    std::iter::from_fn(|| roster.expire(at(millis), wall(millis), true)).collect()
}

/// Searches for silent agents every half a second, as a busy reactor does.
fn watch(roster: &mut Roster, millis: std::ops::Range<u64>) -> Vec<(u64, AgentKey)> {
    let looks = millis.step_by(500);
    looks
        .flat_map(|now| expired(roster, now).into_iter().map(move |key| (now, key)))
        .collect()
}

#[test]
fn an_agent_that_is_silent_for_too_long_is_offline_once() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    assert_eq!(roster.online(), 0);
    assert!(beat(&mut roster, key, 0));
    assert!(!send(&mut roster, key, 5000), "the agent was online");
    assert_eq!(watch(&mut roster, 5000..15_000), []);
    assert_eq!(watch(&mut roster, 15_000..60_000), [(15_500, key)]);
    assert_eq!(roster.online(), 0);
    assert!(send(&mut roster, key, 60_000), "the agent comes back");
}

#[test]
fn slow_heartbeats_allow_for_a_longer_silence() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    for millis in [0, 20_000, 40_000] {
        watch(&mut roster, 500..millis);
        beat(&mut roster, key, millis);
        // Heartbeats that arrive together do not shorten the interval.
        for _ in 0..9 {
            beat(&mut roster, key, millis);
        }
    }
    assert_eq!(roster.get(key).unwrap().interval(), 20 * SECOND);
    assert_eq!(watch(&mut roster, 40_500..100_000), []);
    assert_eq!(watch(&mut roster, 100_000..120_000), [(100_500, key)]);
    // The absence is no gap, also if its session measured it.
    beat_after(&mut roster, key, Some(460_000), 500_000);
    assert_eq!(roster.get(key).unwrap().interval(), 20 * SECOND);
    // The same with another session that is older than the absence.
    beat_after(&mut roster, key, Some(460_000), 501_000);
    assert_eq!(roster.get(key).unwrap().interval().as_millis(), 19_875);
}

#[test]
fn an_interval_longer_than_the_least_silence_is_learnt() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    assert!(beat(&mut roster, key, 0));
    // Before the second heartbeat a slow agent looks like a dead agent.
    assert_eq!(watch(&mut roster, 0..60_000), [(10_500, key)]);
    assert!(beat(&mut roster, key, 60_000));
    assert_eq!(roster.get(key).unwrap().interval(), 60 * SECOND);
    for minute in 1..5 {
        let now = minute * 60_000;
        assert_eq!(watch(&mut roster, now..now + 60_000), []);
        assert!(!beat(&mut roster, key, now + 60_000));
    }
}

#[test]
fn an_agent_that_the_store_has_as_online_is_offline_once_before_its_interval_is_known() {
    let mut roster = Roster::new(config(), at(0));
    let mut entry = Entry::new(Identity::Name("web-01"), address(1), at(0), wall(0));
    entry.online = true;
    entry.learn(learnt(Duration::ZERO));
    let key = roster.insert(entry, at(0));
    assert!(!beat(&mut roster, key, 5000), "the agent was online");
    assert_eq!(watch(&mut roster, 5500..65_000), [(15_500, key)]);
    assert!(beat_after(&mut roster, key, Some(60_000), 65_000));
    assert_eq!(watch(&mut roster, 65_500..125_000), []);
}

#[test]
fn an_agent_that_becomes_slower_is_offline_twice_before_its_interval_is_learnt() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    for second in 0..10 {
        beat(&mut roster, key, 2000 * second);
    }
    let mut offline = 0;
    for minute in 1..20 {
        offline += watch(&mut roster, 60_000 * minute - 59_500..60_000 * minute).len();
        // With another heartbeat that was delayed until then.
        beat(&mut roster, key, 60_000 * minute);
        beat(&mut roster, key, 60_000 * minute + 20);
    }
    assert_eq!((offline, roster.online()), (2, 1));
    assert_eq!(roster.get(key).unwrap().interval(), 60 * SECOND);
}

#[test]
fn after_the_start_agents_have_time_to_reconnect() {
    let config = Config {
        start_grace: 30 * SECOND,
        ..config()
    };
    let mut roster = Roster::new(config, at(0));
    let [online, offline] = [("a", true), ("b", false)].map(|(name, online)| {
        let mut entry = Entry::new(Identity::Name(name), address(1), at(0), wall(0));
        entry.learn(learnt(SECOND));
        entry.online = online;
        roster.insert(entry, at(0))
    });
    assert_eq!(roster.online(), 1);
    assert_eq!(watch(&mut roster, 0..30_000), []);
    assert_eq!(watch(&mut roster, 30_000..40_000), [(30_500, online)]);
    assert!(send(&mut roster, offline, 40_000));
}

#[test]
fn deadlines_move_by_the_time_for_which_the_roster_stood_still() {
    let mut roster = Roster::new(config(), at(0));
    let keys = ["a", "b"].map(|name| add(&mut roster, Identity::Name(name), 0));
    for key in keys {
        beat(&mut roster, key, 0);
    }
    roster.stand_still(at(5000));
    assert_eq!(roster.deadline(), None);
    assert_eq!(watch(&mut roster, 5000..12_000), []);
    // A packet during the standstill: the silence begins at its end.
    send(&mut roster, keys[1], 11_000);
    roster.resume(at(12_000));
    let offline = watch(&mut roster, 12_000..60_000);
    assert_eq!(offline, [(17_500, keys[0]), (22_500, keys[1])]);
    assert_eq!(roster.stood_still(), 7 * SECOND);
}

#[test]
fn after_a_long_standstill_agents_have_time_to_reconnect() {
    for (start_grace, grace) in [(0, 10_000), (90, 55_000), (20, 20_000)] {
        let config = Config {
            start_grace: start_grace * SECOND,
            ..config()
        };
        let mut roster = Roster::new(config, at(0));
        let key = add(&mut roster, Identity::Name("web-01"), 0);
        let now = 200_000;
        beat(&mut roster, key, now);
        roster.stand_still(at(now + 5000));
        roster.resume(at(now + 60_000));
        let back = now + 60_000;
        assert_eq!(watch(&mut roster, back..back + grace), []);
        let offline = watch(&mut roster, back + grace..back + 99_000);
        assert_eq!(offline, [(back + grace + 500, key)]);
    }
}

#[test]
fn repeated_standstills_hide_no_dead_agent() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    beat(&mut roster, key, 0);
    // The roster stands still for one of every three seconds.
    let offline = (0..20).find(|round| {
        let now = 3000 * round;
        let found = watch(&mut roster, now + 500..now + 2500);
        roster.stand_still(at(now + 2000));
        roster.resume(at(now + 3000));
        !found.is_empty()
    });
    assert_eq!(offline, Some(5), "ten seconds later on the roster's clock");
}

#[test]
fn a_standstill_of_the_process_makes_no_agent_offline() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    beat(&mut roster, key, 0);
    assert_eq!(expired(&mut roster, 100_000), []);
    assert!(!send(&mut roster, key, 101_000));
}

#[test]
fn packets_in_the_turn_after_a_standstill_are_on_the_clock_that_stood_still() {
    let mut roster = Roster::new(config(), at(0));
    let [gone, live] = ["a", "b"].map(|name| add(&mut roster, Identity::Name(name), 0));
    for second in 0..4 {
        for key in [gone, live] {
            beat(&mut roster, key, 1000 * second);
        }
        assert_eq!(expired(&mut roster, 1000 * second), []);
    }
    // A turn begins, reads the packets of that time, and then searches for silent agents.
    let back = 7_200_000;
    roster.resume(at(back));
    for key in [gone, live] {
        beat(&mut roster, key, back);
    }
    assert_eq!(expired(&mut roster, back), []);
    let mut found = Vec::new();
    for second in 1..60 {
        let now = back + 1000 * second;
        beat(&mut roster, live, now);
        found.extend(expired(&mut roster, now));
    }
    assert_eq!(found, [gone]);
}

#[test]
fn a_long_time_without_alarms_is_no_standstill() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    assert_eq!(watch(&mut roster, 0..1_000_000), []);
    beat(&mut roster, key, 1_000_000);
    assert_eq!(watch(&mut roster, 1_000_000..2_000_000), [(1_010_500, key)]);
    assert_eq!(roster.stood_still(), Duration::ZERO);
}

#[test]
fn an_agent_that_comes_online_after_hours_without_alarms_goes_offline_in_time() {
    let config = Config {
        offline_after: Some(10 * SECOND),
        ..config()
    };
    let mut roster = Roster::new(config, at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    beat(&mut roster, key, 0);
    assert_eq!(watch(&mut roster, 0..20_000), [(10_500, key)]);
    let back = 10 * 3_600_000;
    roster.resume(at(back));
    beat(&mut roster, key, back);
    assert_eq!(
        watch(&mut roster, back..back + 20_000),
        [(back + 10_500, key)]
    );
    assert_eq!(roster.stood_still(), Duration::ZERO);
}

#[test]
fn an_agent_that_sends_one_heartbeat_and_then_reports_is_offline_once() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    beat(&mut roster, key, 0);
    assert_eq!(watch(&mut roster, 0..60_000), [(10_500, key)]);
    assert!(report(&mut roster, key, 60_000));
    for minute in 2..9 {
        assert_eq!(
            watch(&mut roster, 60_000 * minute - 60_000..60_000 * minute),
            []
        );
        assert!(!report(&mut roster, key, 60_000 * minute));
    }
}

#[test]
fn a_paused_agent_stays_online_and_hides_no_other() {
    let mut roster = Roster::new(config(), at(0));
    let [paused, gone] = ["a", "b"].map(|name| add(&mut roster, Identity::Name(name), 0));
    for key in [paused, gone] {
        beat(&mut roster, key, 0);
    }
    roster.pause(paused, at(4000));
    assert_eq!(watch(&mut roster, 4000..60_000), [(10_500, gone)]);
    // The pause ends with that of the last session.
    roster.pause(paused, at(60_000));
    roster.unpause(paused, at(61_000));
    assert_eq!(watch(&mut roster, 61_000..70_000), []);
    roster.unpause(paused, at(70_000));
    assert_eq!(watch(&mut roster, 70_000..99_000), [(76_500, paused)]);
    // Once too often, as after a hand-over from a build without pauses.
    roster.unpause(paused, at(99_000));
}

#[test]
fn a_pause_counts_from_the_last_packet() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("web-01"), 0);
    beat(&mut roster, key, 0);
    roster.pause(key, at(1000));
    roster.stand_still(at(2000));
    roster.resume(at(5000));
    // From another session, after 5 s on the roster's clock, which is the interval.
    beat(&mut roster, key, 8000);
    roster.unpause(key, at(9000));
    let offline = watch(&mut roster, 9000..40_000);
    assert_eq!(offline, [(24_500, key)]);
}

#[test]
fn reports_that_come_now_and_then_are_not_judged() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("cron"), 0);
    for minute in [0, 1, 2, 5, 7, 30, 31] {
        // Several lines at once.
        for line in 0..20 {
            assert!(!report(&mut roster, key, 60_000 * minute + 150 * line));
        }
        assert_eq!(
            watch(&mut roster, 60_000 * minute + 3500..60_000 * (minute + 1)),
            []
        );
    }
    assert_eq!((roster.online(), roster.unwatched()), (0, 1));
    assert!(!roster.get(key).unwrap().watched);
    // A job that reports every second for five minutes.
    for second in 0..300 {
        assert!(!report(&mut roster, key, 5_000_000 + 1000 * second));
    }
    watch(&mut roster, 0..200_000_000);
    // Once an hour: too slow to be judged.
    for hour in 2..30 {
        assert!(!report(&mut roster, key, 3_600_000 * hour));
    }
    assert!(
        beat(&mut roster, key, 200_000_000),
        "a heartbeat is judged at once"
    );
    assert_eq!((roster.online(), roster.unwatched()), (1, 0));
    assert_eq!(
        watch(&mut roster, 200_000_000..200_060_000),
        [(200_010_500, key)]
    );
}

#[test]
fn regular_reports_are_judged_until_they_stop() {
    let mut roster = Roster::new(config(), at(0));
    let key = add(&mut roster, Identity::Name("disk"), 0);
    // Every 60 s, with a delay of up to 20 s.
    let at_minute = |minute: u64| 60_000 * minute + 1000 * (7 * minute % 20);
    for minute in 0..10 {
        assert!(!report(&mut roster, key, at_minute(minute)), "{minute}");
    }
    assert!(report(&mut roster, key, at_minute(10)), "ten minutes");
    assert_eq!((roster.online(), roster.unwatched()), (1, 0));
    for minute in 11..20 {
        assert_eq!(
            watch(&mut roster, at_minute(minute - 1) + 500..at_minute(minute)),
            []
        );
        assert!(!report(&mut roster, key, at_minute(minute)));
    }
    let silent = at_minute(19);
    let interval = roster.get(key).unwrap().report_interval();
    assert!((60 * SECOND..80 * SECOND).contains(&interval));
    let offline = watch(&mut roster, silent + 500..silent + 241_000);
    assert_eq!(offline.len(), 1);
    assert!(offline[0].0 > silent + 180_000, "{offline:?}");
    // After its return it is judged again once its reports are regular again.
    let back = 4_000_000;
    assert_eq!(watch(&mut roster, silent + 241_000..back), []);
    assert!(report(&mut roster, key, back));
    assert_eq!((roster.online(), roster.unwatched()), (1, 0));
    let offline = watch(&mut roster, back + 500..back + 600_000);
    assert_eq!(
        offline.iter().map(|(_, key)| *key).collect::<Vec<_>>(),
        [key]
    );
    assert_eq!((roster.online(), roster.unwatched()), (0, 1));
    let again = (0..20).find(|minute| report(&mut roster, key, 5_000_000 + at_minute(*minute)));
    assert_eq!(again, Some(10));
}

#[test]
fn an_agent_that_was_online_is_watched_until_it_goes_offline() {
    let mut roster = Roster::new(config(), at(0));
    let mut entry = Entry::new(Identity::Name("cron"), address(1), at(0), wall(0));
    // As stored by a process with `--offline-after`, or an older build.
    entry.online = true;
    let key = roster.insert(entry, at(0));
    assert_eq!((roster.online(), roster.unwatched()), (1, 0));
    assert!(!report(&mut roster, key, 5000));
    assert_eq!(watch(&mut roster, 5500..60_000), [(15_500, key)]);
    assert_eq!((roster.online(), roster.unwatched()), (0, 1));
    assert!(!report(&mut roster, key, 60_000));
    assert_eq!((roster.online(), roster.unwatched()), (0, 1));
}

#[test]
fn with_a_limit_given_every_agent_is_judged() {
    let config = Config {
        offline_after: Some(20 * SECOND),
        ..config()
    };
    let mut roster = Roster::new(config, at(0));
    let key = add(&mut roster, Identity::Name("cron"), 0);
    assert!(report(&mut roster, key, 0));
    assert_eq!(roster.unwatched(), 0);
    assert_eq!(watch(&mut roster, 500..60_000), [(20_500, key)]);
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
        beat(&mut roster, key, millis);
    }
    roster.attach(keys[1]);
    let make_room = |roster: &mut Roster| roster.make_room(address(2), at(400));
    assert_eq!(make_room(&mut roster), Ok(Some(keys[2])), "b has a session");
    let reference = roster.reference(keys[2]);
    assert_eq!(roster.resolve(reference), Some(keys[2]));
    roster.remove(keys[2]);
    assert_eq!(make_room(&mut roster), Ok(None));
    let another = add(&mut roster, Identity::Name("d"), 400);
    assert_eq!(another, keys[2], "the same place");
    assert_eq!(roster.resolve(reference), None, "and another agent");
    assert_eq!(roster.find(Identity::Name("c")), None);
}

/// Records a packet in each of the first `hours` hours.
fn send_hourly(roster: &mut Roster, key: AgentKey, hours: u64) {
    (0..hours).for_each(|hour| {
        send(roster, key, hour * 3_600_000);
    });
}

#[test]
fn an_agent_with_packets_in_three_hours_is_established_and_makes_no_room() {
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
    send_hourly(&mut roster, steady, 3);
    send_hourly(&mut roster, brief, 2);
    // The clock is set back and forth.
    send_hourly(&mut roster, brief, 2);
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
        beat(&mut roster, key, 0);
    }
    let (late, wall) = (at(10_500), wall(10_500));
    assert_eq!(expired(&mut roster, 10_000), []);
    assert_eq!(roster.expire(late, wall, false), Some(keys[1]));
    assert_eq!(roster.expire(late, wall, false), None, "others wait");
    assert_eq!(roster.online(), 2);
    send(&mut roster, keys[0], 10_500);
    assert_eq!(expired(&mut roster, 11_000), [keys[2]]);
    assert_eq!(expired(&mut roster, 21_000), [keys[0]]);
}

#[test]
fn a_flood_of_new_names_delays_no_established_agent() {
    let config = Config {
        capacity: 2000,
        ..config()
    };
    let mut roster = Roster::new(config, at(0));
    let mut entry = Entry::new(Identity::Name("steady"), address(1), at(0), wall(0));
    entry.resume_hours(Some(ESTABLISHED_HOURS), 0);
    let steady = roster.insert(entry, at(0));
    let beats = [0, 2000, 4000].map(|millis| beat_after(&mut roster, steady, Some(2000), millis));
    assert_eq!(beats, [true, false, false]);
    // 10,000 new names a second from many networks; at capacity each of them takes the place of
    // another agent.
    let mut offline = None;
    for name in 0..200_000_u64 {
        let millis = 4000 + name / 10;
        let octets = u32::try_from(name % 5000).unwrap().to_be_bytes();
        let from = IpAddr::from([11, octets[1], octets[2], octets[3]]);
        let text = format!("invented-{name}");
        match roster.make_room(from, at(millis)) {
            Ok(removed) => {
                if let Some(key) = removed {
                    roster.mark_offline(key, wall(millis));
                    roster.remove(key);
                }
                let entry = Entry::new(Identity::Name(&text), from, at(millis), wall(millis));
                let key = roster.insert(entry, at(millis));
                roster.record_packet(key, from, at(millis), wall(millis));
                roster.beat(key, "1.0", None, (at(millis), wall(millis)));
            }
            Err(refused) => assert_eq!(refused, NoPlace::ShareTaken),
        }
        if roster.expire(at(millis), wall(millis), false) == Some(steady) {
            offline.get_or_insert(millis);
        }
        roster.expire(at(millis), wall(millis), true);
    }
    let (due, offline) = (14_000, offline.unwrap());
    assert!((due..due + 2000).contains(&offline), "{offline}");
    assert!(roster.counters().evicted > 100_000);
}

#[test]
fn an_optional_key_takes_four_bytes() {
    assert_eq!(size_of::<Option<AgentKey>>(), 4);
}

#[derive(Clone, Debug)]
enum Action {
    Beat(u8),
    Wait(u16),
    Hold(u16),
    Pause(u8, u16),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (0..6_u8).prop_map(Action::Beat),
        6 => (1..4000_u16).prop_map(Action::Wait),
        1 => (1..20_000_u16).prop_map(Action::Hold),
        2 => (0..6_u8, 1..20_000_u16).prop_map(|(agent, millis)| Action::Pause(agent, millis)),
    ]
}

proptest! {
    /// Each change of an agent's state is returned once and in time: an agent is online as long
    /// as its packets come in time.
    #[test]
    fn changes_are_returned_once_and_in_time(actions in prop::collection::vec(action(), 1..200)) {
        let mut roster = Roster::new(config(), at(0));
        let mut now = 0;
        let mut online = [false; 6];
        // Last packets, moved by pauses and standstills.
        let mut heard = [0_u64; 6];
        let mut paused: [Option<(u64, u64)>; 6] = [None; 6];
        let mut pardoned = 0;
        let keys: Vec<AgentKey> = (0..6)
            .map(|agent| add(&mut roster, Identity::Address(address(agent)), 0))
            .collect();
        for action in actions {
            match action {
                Action::Beat(agent) => {
                    let agent = usize::from(agent);
                    let change = beat(&mut roster, keys[agent], now);
                    prop_assert_eq!(change, !online[agent]);
                    online[agent] = true;
                    heard[agent] = now;
                }
                Action::Pause(agent, millis) => {
                    let agent = usize::from(agent);
                    if paused[agent].is_none() {
                        roster.pause(keys[agent], at(now));
                        paused[agent] = Some((now, now + u64::from(millis)));
                    }
                }
                Action::Wait(millis) => {
                    let end = now + u64::from(millis);
                    while now < end {
                        now = (now + 500).min(end);
                        for agent in 0..6 {
                            if let Some((since, until)) = paused[agent]
                                && until <= now
                            {
                                roster.unpause(keys[agent], at(now));
                                heard[agent] += now - since.max(heard[agent]);
                                paused[agent] = None;
                            }
                        }
                        for key in expired(&mut roster, now) {
                            let agent = keys.iter().position(|other| *other == key).unwrap();
                            prop_assert!(online[agent], "it was offline already");
                            prop_assert!(paused[agent].is_none());
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
                        prop_assert!(!online[agent] || paused[agent].is_some() || now <= deadline);
                    }
                }
                Action::Hold(millis) => {
                    let millis = u64::from(millis);
                    roster.stand_still(at(now));
                    now += millis;
                    prop_assert_eq!(expired(&mut roster, now), []);
                    roster.resume(at(now));
                    heard = heard.map(|heard| heard + millis);
                    paused = paused.map(|it| it.map(|(since, until)| (since + millis, until)));
                    pardoned = pardoned.max(now + if millis < 10_000 { 1000 } else { 10_000 });
                }
            }
            let count = online.iter().filter(|online| **online).count();
            prop_assert_eq!(roster.online(), count);
        }
    }
}

mod outage;
mod rhythm;
