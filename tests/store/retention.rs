//! What is too old or too much goes, and its place is used again.

use crate::place::*;
use crate::support::*;

#[test]
fn by_size_the_oldest_reports_go_and_the_file_stays_as_it_is() {
    let place = Place::new();
    let server = place.serve(&["--retain-size", "1MiB"]);
    let mut agent = server.connect();
    let content = "x".repeat(1000);
    let burst = report(&content).repeat(100);
    let mut sizes = Vec::new();
    // Some eight times what it may hold.
    for round in 0..80 {
        agent.send(&burst);
        (0..100).for_each(|_| agent.expect_line(REPORT));
        if round % 10 == 9 {
            // Until it has caught up: reports come in faster than it looks.
            let caught_up = eventually(|| (kept(&place) < 1000).then_some(()));
            assert!(caught_up.is_some(), "{} are kept", kept(&place));
            sizes.push(std::fs::metadata(place.store()).unwrap().len());
        }
    }
    assert!(sizes.iter().all(|size| *size <= 4 << 20), "{sizes:?}");
    let kept = kept(&place);
    assert!((100..1000).contains(&kept), "{kept}");
    server.wait_until(|stats| stats.store("expired").cast_signed() + kept == 8000);
    // The newest are there, without a gap.
    agent.exchange(&report("the last"), REPORT);
    assert_eq!(place.contents().last().unwrap(), "the last");
    // Counts are of what was received, whatever is kept of it.
    assert_eq!(place.column::<i64>("SELECT reports FROM agents"), [8001]);
    place.expect_sound();
}

fn kept(place: &Place) -> i64 {
    place.column("SELECT count(*) FROM reports")[0]
}

#[test]
fn by_age_reports_events_and_silent_agents_go() {
    let place = Place::new();
    let ages = [
        "--retain",
        "500ms",
        "--offline-after",
        "100ms",
        "--start-grace",
        "1ms",
    ];
    {
        let server = place.serve(&ages);
        server.connect().exchange(&report_of("web-01", 1), REPORT);
        let gone = eventually(|| place.contents().is_empty().then_some(()));
        assert!(gone.is_some());
    }
    // Agents and events are looked at less often, and at every start.
    let server = place.serve(&ages);
    let left = "SELECT (SELECT count(*) FROM agents) + (SELECT count(*) FROM events)";
    let gone = eventually(|| (place.column::<i64>(left) == [0]).then_some(()));
    assert!(gone.is_some());
    server.connect().exchange(&report_of("web-01", 2), REPORT);
    assert_eq!(
        place.column::<i64>("SELECT id FROM agents"),
        [2],
        "a number is not used twice"
    );
}
