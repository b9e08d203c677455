//! Realistic heartbeats: an agent is online while it sends them, and offline soon afterwards.

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::*;

/// An agent with one session. Several may share an address, which makes them one to the server.
#[derive(Clone, Debug)]
struct Beater {
    /// Milliseconds between its heartbeats, plus or minus a fifth.
    period: u64,
    starts: u64,
    /// Number of its heartbeats.
    beats: usize,
    /// Before this heartbeat the network stalls for more than half a period; then the delayed
    /// heartbeats arrive together.
    stalls_before: usize,
}

fn beater(periods: std::ops::Range<u64>) -> impl Strategy<Value = Beater> {
    (periods, 0..20_000_u64, 3..60_usize, 2..200_usize).prop_map(
        |(period, starts, beats, stalls_before)| Beater {
            period,
            starts,
            beats,
            stalls_before,
        },
    )
}

impl Beater {
    /// Returns the arrivals of its heartbeats.
    fn arrivals(&self, random: &mut SmallRng) -> Vec<u64> {
        let mut sent = self.starts;
        let mut arrivals = Vec::new();
        for beat in 0..self.beats {
            if beat > 0 {
                sent += random.random_range(self.period * 4 / 5..=self.period * 6 / 5);
            }
            arrivals.push(sent);
        }
        if let Some(until) = arrivals
            .get(self.stalls_before)
            .map(|at| at + self.period * 3 / 5)
        {
            for arrival in &mut arrivals[self.stalls_before..] {
                *arrival = until.max(*arrival);
            }
        }
        arrivals
    }
}

/// Returns the arrivals of all heartbeats in order, with their sessions.
fn timeline(beaters: &[Beater], seed: u64) -> Vec<(u64, usize)> {
    let random = &mut SmallRng::seed_from_u64(seed);
    let all = beaters.iter().enumerate().flat_map(|(session, beater)| {
        let arrivals = beater.arrivals(random);
        arrivals.into_iter().map(move |at| (at, session))
    });
    let mut all: Vec<_> = all.collect();
    all.sort_unstable();
    all
}

/// Returns the gap that a session measures before its heartbeat at `now`.
fn gap(last: &mut Option<u64>, now: u64) -> Option<u64> {
    let gap = last.map(|last| now - last);
    if gap.is_some_and(|gap| gap < 100) {
        return None;
    }
    *last = Some(now);
    gap
}

/// Plays heartbeats of one agent and returns the times at which it went offline.
fn play(roster: &mut Roster, key: AgentKey, timeline: &[(u64, usize)]) -> Vec<u64> {
    let mut last = [None; 8];
    let mut offline = Vec::new();
    let mut before = 0;
    for (now, session) in timeline {
        offline.extend(watch(roster, before..*now).into_iter().map(|(at, _)| at));
        before = *now;
        let gap = gap(&mut last[*session], *now);
        beat_after(roster, key, gap, *now);
    }
    let end = before + 3 * longest_gap(timeline) + 20_000;
    offline.extend(watch(roster, before..end).into_iter().map(|(at, _)| at));
    offline
}

/// Returns the longest gap between two heartbeats of one session.
fn longest_gap(timeline: &[(u64, usize)]) -> u64 {
    let gaps = (0..8).flat_map(|session| {
        let times: Vec<u64> = timeline
            .iter()
            .filter(|(_, of)| *of == session)
            .map(|(at, _)| *at)
            .collect();
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps
    });
    gaps.max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Several agents without names behind one address, in any phase, with any periods,
    /// ending at different times: offline once, after the last of them has ended.
    #[test]
    fn agents_behind_one_address_are_online_as_long_as_one_of_them_beats(
        quick in beater(200..8000),
        others in prop::collection::vec(beater(200..60_000), 0..7),
        seed in any::<u64>(),
    ) {
        // The first sends heartbeats until the intervals of the others are learnt.
        let mut beaters = others;
        let shown = beaters.iter().map(|it| it.starts + 3 * it.period).max().unwrap_or(0);
        let enough = usize::try_from(2 * shown / quick.period).unwrap() + 3;
        beaters.push(Beater { starts: 0, beats: quick.beats.max(enough), ..quick });
        let timeline = timeline(&beaters, seed);
        let mut roster = Roster::new(config(), at(0));
        let key = add(&mut roster, Identity::Address(address(1)), 0);
        let offline = play(&mut roster, key, &timeline);

        let end = timeline.last().unwrap().0;
        prop_assert_eq!(offline.len(), 1, "{:?} of {}", offline, end);
        let silence = offline[0] - end;
        // Plus half a second between two searches.
        let most = (3 * longest_gap(&timeline)).clamp(10_000, 3_600_000) + 500 + 64;
        prop_assert!((10_000..=most).contains(&silence), "{} of {}", silence, most);
    }

    /// An agent of any period goes offline only before its interval is known.
    #[test]
    fn the_interval_of_any_agent_is_learnt(
        beater in beater(200..400_000),
        is_named in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let timeline = timeline(std::slice::from_ref(&beater), seed);
        let identity = match is_named {
            true => Identity::Name("web-01"),
            false => Identity::Address(address(1)),
        };
        let mut roster = Roster::new(config(), at(0));
        let key = add(&mut roster, identity, 0);
        let offline = play(&mut roster, key, &timeline);
        let (second, end) = (timeline[1].0, timeline.last().unwrap().0);
        let later = offline.iter().filter(|at| **at > second && **at < end).count();
        prop_assert_eq!(later, 0, "{:?}", offline);
        prop_assert_eq!(roster.online(), 0);
    }

    /// After a long gap the interval shrinks within a stated time.
    #[test]
    fn a_long_gap_decays_in_time(period in 200..5000_u64, gap in 10_000..1_000_000_u64) {
        let mut roster = Roster::new(config(), at(0));
        let key = add(&mut roster, Identity::Name("web-01"), 0);
        beat(&mut roster, key, 0);
        let mut now = gap;
        beat(&mut roster, key, now);
        while now < gap + 8 * gap + 8 * period {
            now += period;
            beat_after(&mut roster, key, Some(period), now);
        }
        let interval = roster.get(key).unwrap().interval();
        // The interval shrinks in whole milliseconds.
        prop_assert!(interval <= Duration::from_millis(period + gap / 20), "{:?}", interval);
    }
}
