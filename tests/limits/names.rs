//! Invented names: how many agents the server remembers, and which.

use std::net::{IpAddr, Ipv4Addr};

use hawk_wire::Encoding;

use hawk_testkit::*;

const NO_PLACE: &str = "busy: too many agents";

fn beat(name: &str) -> Vec<u8> {
    heartbeat_packet(Encoding::Compact, Some(name))
}

fn from(server: &Server, last: u8) -> Agent {
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    Agent::connect_from(address, server.address)
}

#[test]
fn an_agent_without_a_place_is_answered_busy_and_stays_connected() {
    let server = Server::start(&["--max-agents", "2"]);
    let mut agents = [2, 3].map(|last| {
        let mut agent = from(&server, last);
        agent.exchange(&beat(&format!("web-{last}")), HEARTBEAT);
        agent
    });
    let mut late = from(&server, 4);
    late.exchange(&beat("late"), NO_PLACE);
    let report = report_packet("x", Encoding::Classic, Some("late"));
    late.exchange(&report, NO_PLACE);
    let refused = |line: &str| line.contains("new agent refused: all places are taken");
    let (line, _) = server.log().wait_for(0, refused);
    assert!(line.contains("agent=\"late\" max_agents=2"), "{line}");
    // Another agent disconnects, and is silent.
    let [first, mut second] = agents;
    drop(first);
    let taken = eventually(|| {
        late.send(&beat("late"));
        (late.line() == HEARTBEAT).then_some(())
    });
    assert!(taken.is_some());
    late.exchange(&report, REPORT);
    second.exchange(&beat("web-3"), HEARTBEAT);
    let stats = server.stats();
    assert_eq!(stats.agents.get("known"), 2);
    assert_eq!(stats.agents.get("evicted"), 1);
    assert!(stats.agents.get("refused") >= 2);
    let evicted = |line: &str| line.contains("too many agents") && line.contains("evicted=1");
    server.log().wait_for(0, evicted);
    agents = [second, late];
    drop(agents);
}

#[test]
fn names_from_one_address_take_a_quarter_of_the_places_and_displace_no_others() {
    let server = Server::start(&["--max-agents", "40"]);
    (10..15).for_each(|last| {
        from(&server, last).exchange(&beat(&format!("web-{last}")), HEARTBEAT);
    });
    let mut inventor = from(&server, 2);
    for name in 0..1000 {
        inventor.exchange(&beat(&format!("made-up-{name}")), HEARTBEAT);
    }
    let stats = server.stats();
    assert_eq!(stats.agents.get("known"), 15);
    assert_eq!(stats.agents.get("evicted"), 990);
    assert_eq!(server.count_logged("too many agents"), 1, "once an hour");
}

#[test]
fn an_address_brings_so_many_new_names_at_once_and_others_bring_theirs() {
    let server = Server::start(&[]);
    let mut inventor = from(&server, 2);
    let names: Vec<u8> = (0..12_000)
        .flat_map(|name| beat(&format!("z{name}")))
        .collect();
    let mut sender = inventor.sender();
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &names));
    let lines = (0..12_000).map(|_| inventor.line());
    let (taken, refused): (Vec<_>, Vec<_>) = lines.partition(|line| line == HEARTBEAT);
    sending.join().unwrap().unwrap();
    // The burst of a site of thousands of machines, and 100 a second.
    assert!((5000..11_000).contains(&taken.len()), "{}", taken.len());
    assert!(refused.iter().all(|line| line == NO_PLACE));
    from(&server, 3).exchange(&beat("web-01"), HEARTBEAT);
    inventor.exchange(&beat("z0"), HEARTBEAT);
    let refused = |line: &str| line.contains("brings too many new ones at once");
    server.log().wait_for(0, refused);
}
