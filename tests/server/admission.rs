//! Admission: addresses, connections of an address, and rates.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use hawk_testkit::*;

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn connect_from(server: &Server, address: Ipv4Addr) -> Agent {
    Agent::connect_from(IpAddr::V4(address), server.address)
}

/// Expects that the server closes the connection without a reply.
fn expect_closed(server: &Server, address: Ipv4Addr) {
    let mut stranger = connect_from(server, address);
    // It may be closed already.
    stranger.try_send(&heartbeat()).ok();
    stranger.expect_end();
}

#[test]
fn a_denied_connection_is_closed_without_a_reply() {
    let server = Server::start(&["--deny", "127.0.0.2"]);
    connect_from(&server, ONE).expect_alive();
    for _ in 0..50 {
        expect_closed(&server, OTHER);
    }
    connect_from(&server, ONE).expect_alive();
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("closed_not_allowed"), 50);
    assert_eq!((stats.get("accepted"), stats.get("heartbeats")), (52, 2));
    assert_eq!(stats.get("bytes_in"), 2 * heartbeat().len() as u64);
    assert!(server.count_logged("not allowed: closed peer=127.0.0.2:") <= 3);
}

#[test]
fn with_allowed_addresses_all_others_are_denied() {
    let server = Server::start(&["--allow", "127.0.0.0/30", "--deny", "127.0.0.2,127.0.0.3"]);
    connect_from(&server, ONE).expect_alive();
    expect_closed(&server, OTHER);
    expect_closed(&server, Ipv4Addr::new(127, 0, 0, 4));
    let server = Launch::serve(&[]).env("HAWK_ALLOW", "fd00::/8,127.0.0.2");
    let server = server.start();
    connect_from(&server, OTHER).expect_alive();
    expect_closed(&server, ONE);
    let exit = Launch::serve(&["--allow", "example.com"]).run();
    assert_eq!(exit.code, Some(2), "{exit:?}");
}

/// The address of a server that listens on `[::]`, for IPv4 and for IPv6.
fn both(server: &Server) -> [SocketAddr; 2] {
    let port = server.address.port();
    [
        SocketAddr::new(ONE.into(), port),
        SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
    ]
}

#[test]
fn a_listener_for_both_families_reports_ipv4_addresses_as_such() {
    let both_families = |args: &[&str]| {
        let server = Server::start(&[&["--listen", "[::]:0"], args].concat());
        let addresses = both(&server);
        (server, addresses)
    };
    let (server, [four, six]) = both_families(&["--deny", "127.0.0.2,::1"]);
    Agent::connect(four).expect_alive();
    Agent::connect_from(OTHER.into(), four).expect_end();
    Agent::connect(six).expect_end();
    server.wait_until(|stats| stats.get("closed_not_allowed") == 2);
    let told = server.log().since(0);
    assert!(
        told.iter()
            .any(|line| line.contains("not allowed: closed peer="))
    );

    let (_server, [four, six]) = both_families(&["--allow", "::1"]);
    Agent::connect(six).expect_alive();
    Agent::connect(four).expect_end();

    let (server, [four, six]) = both_families(&["--max-connections-per-ip", "1"]);
    let mut agents = [four, six].map(Agent::connect);
    agents.iter_mut().for_each(Agent::expect_alive);
    for address in [four, six] {
        let mut newcomer = Agent::connect(address);
        newcomer.expect_line("busy: too many from one address");
        newcomer.expect_eof();
    }
    Agent::connect_from(OTHER.into(), four).expect_alive();
    agents.iter_mut().for_each(Agent::expect_alive);
    drop(agents);
    server.wait_until(|stats| stats.get("connections") == 0);
    Agent::connect(four).expect_alive();
}

#[test]
fn the_addresses_of_an_ipv6_network_share_its_connections() {
    let Some(network) = Namespace::new() else {
        return;
    };
    let addresses = ["fd00:0:0:1::7", "fd00:0:0:1::8", "fd00:0:0:2::7"];
    for address in addresses {
        // No other test uses this address: there is no need to wait.
        network.ip(&["address", "add", address, "dev", "lo", "nodad"]);
    }
    network.within(|| {
        // A site of 48 bits has three quarters of all connections.
        let args = ["--listen", "[::]:0", "--max-connections", "4"];
        let server = Server::start(&[&args[..], &["--max-connections-per-ip", "2"]].concat());
        let [_, six] = both(&server);
        let [one, neighbour, other] = addresses.map(|address| address.parse().unwrap());
        let mut site = [one, neighbour, other].map(|address| Agent::connect_from(address, six));
        site.iter_mut().for_each(Agent::expect_alive);
        Agent::connect_from(other, six).expect_line("busy: too many from one address");
        let site = |line: &str| line.contains(" share=site limit=3 ");
        server.log().wait_for(0, site);
        Agent::connect(six).expect_alive();
    });
    network.within(|| {
        let args = ["--listen", "[::]:0", "--max-connections-per-ip", "1"];
        let server = Server::start(&args);
        let [_, six] = both(&server);
        let [one, neighbour, other] = addresses.map(|address| address.parse().unwrap());
        let mut agent = Agent::connect_from(one, six);
        agent.expect_alive();
        Agent::connect_from(neighbour, six).expect_line("busy: too many from one address");
        Agent::connect_from(other, six).expect_alive();
        agent.expect_alive();
    });
}

#[test]
fn the_environment_sets_addresses_and_rates() {
    let launch = Launch::serve(&[])
        .env("HAWK_DENY", "127.0.0.2,127.0.0.4/31")
        .env("HAWK_MAX_CONNECTIONS_PER_IP", "1")
        .env("HAWK_RATE_LIMIT", "1");
    let server = launch.start();
    for last in [2, 4, 5] {
        expect_closed(&server, Ipv4Addr::new(127, 0, 0, last));
    }
    let mut agent = server.connect();
    agent.expect_alive();
    server
        .connect()
        .expect_line("busy: too many from one address");
    // At any time there is one token at most.
    agent.send(&heartbeat().repeat(2));
    server.wait_until(|stats| stats.get("rate_limited") >= 1);
    agent.expect_line(HEARTBEAT);
    agent.expect_line(HEARTBEAT);
}

#[test]
fn the_connections_of_an_address_are_limited_and_others_are_not_affected() {
    let server = Server::start(&["--max-connections-per-ip", "2"]);
    let mut agents = [ONE, ONE, OTHER].map(|address| connect_from(&server, address));
    agents.iter_mut().for_each(Agent::expect_alive);
    let mut newcomer = connect_from(&server, ONE);
    newcomer.expect_line("busy: too many from one address");
    newcomer.expect_eof();
    drop(newcomer);
    let stats = server.wait_until(|stats| stats.get("connections") == 3);
    assert_eq!(stats.get("closed_too_many_from_address"), 1);

    let [left, mut stays, mut other] = agents;
    drop(left);
    server.wait_until(|stats| stats.get("connections") == 2);
    let mut newcomer = connect_from(&server, ONE);
    newcomer.expect_alive();
    connect_from(&server, ONE).expect_line("busy: too many from one address");
    stays.expect_alive();
    other.expect_alive();
}

#[test]
fn by_default_an_address_has_half_of_all_connections() {
    let server = Server::start(&["--max-connections", "10"]);
    let mut agents: Vec<_> = (0..5).map(|_| connect_from(&server, ONE)).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    let mut newcomer = connect_from(&server, ONE);
    newcomer.expect_line("busy: too many from one address");
    newcomer.expect_eof();
    let mut others: Vec<_> = (0..5).map(|_| connect_from(&server, OTHER)).collect();
    others.iter_mut().for_each(Agent::expect_alive);
    // The default limit is in the log, and either address has reached 80 % of it: one line in
    // 10 s.
    assert_eq!(server.count_logged(" max_connections_per_ip=5"), 1);
    let nearing = "an address has 80 % of its share: address=127.0.0.1 share=connections used=4 \
                   limit=5 left_out=0 (raise --max-connections-per-ip";
    server.log().wait_for(0, |line| line.contains(nearing));
    assert_eq!(server.count_logged("an address has 80 % of its share"), 1);
}

#[test]
fn silent_new_connections_of_an_address_leave_places_to_others() {
    let args = ["--max-connections", "60", "--max-connections-per-ip", "60"];
    let server = Server::start(&args);
    // With half of all places in use, an address may have 16 new connections. Earlier ones stay.
    let silent: Vec<_> = (0..31).map(|_| connect_from(&server, ONE)).collect();
    server.wait_until(|stats| stats.get("connections") == 31);
    connect_from(&server, ONE).expect_line("busy: too many from one address");
    let newcomers = |line: &str| line.contains(" share=newcomers limit=16 ");
    server.log().wait_for(0, newcomers);
    let others: Vec<_> = (0..16).map(|_| connect_from(&server, OTHER)).collect();
    server.wait_until(|stats| stats.get("connections") == 47);
    connect_from(&server, OTHER).expect_line("busy: too many from one address");
    let third = Ipv4Addr::new(127, 0, 0, 3);
    let mut agents: Vec<_> = (0..10).map(|_| connect_from(&server, third)).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    // A new connection that sends a frame makes room for another.
    let mut others = others;
    others.iter_mut().for_each(Agent::expect_alive);
    connect_from(&server, OTHER).expect_alive();
    drop(silent);
}

#[test]
fn an_agent_above_its_rate_is_read_more_slowly_and_loses_nothing() {
    let server = Server::start(&["--rate-limit", "20"]);
    let (mut eager, mut other) = (server.connect(), server.connect());
    let start = Instant::now();
    eager.send(&report("much").repeat(60));
    other.exchange(&heartbeat(), HEARTBEAT);
    (0..60).for_each(|_| eager.expect_line(REPORT));
    // One at once, and twenty in each of three seconds.
    assert!(start.elapsed() >= Duration::from_millis(2900));
    let stats = server.stats();
    assert!(stats.get("rate_limited") >= 1);
    assert_eq!(stats.get("reports"), 60);
    let lines = server.count_logged("rate limit: read more slowly peer=127.0.0.1:");
    assert!((1..=1 + usize::try_from(start.elapsed().as_secs() / 10).unwrap()).contains(&lines));
}

#[test]
fn reconnecting_and_ending_ones_side_gains_nothing() {
    let server = Server::start(&["--rate-limit", "5", "--max-connections-per-ip", "2"]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        let mut agent = server.connect();
        // It may be turned away.
        agent.try_send(&heartbeat().repeat(50)).ok();
        agent.shutdown_write();
        std::thread::sleep(Duration::from_millis(10));
    }
    let answered = server.stats().get("heartbeats");
    // Five a second on each of two connections, and a burst.
    let most = 2 * 5 * (start.elapsed().as_secs() + 2);
    assert!((2..=most).contains(&answered), "{answered} of {most}");

    // An agent that ends its side and stays is answered in full, at its rate.
    let mut agent = Agent::connect_as(1, server.address);
    let start = Instant::now();
    agent.send(&heartbeat().repeat(10));
    agent.shutdown_write();
    (0..10).for_each(|_| agent.expect_line(HEARTBEAT));
    agent.expect_eof();
    assert!(start.elapsed() >= Duration::from_millis(1700));
}

#[test]
fn frames_above_the_rate_are_all_answered_in_order() {
    let server = Server::start(&["--rate-limit", "300"]);
    let mut agent = server.connect();
    let (sent, replies) = mixture(700);
    let mut sender = agent.sender();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&sent).unwrap());
        agent.expect_replies(&replies);
    });
    agent.expect_alive();
    assert!(server.stats().get("rate_limited") >= 1);
}

#[test]
fn an_agent_paused_by_its_rate_does_not_time_out() {
    let limits = ["--idle-timeout", "300ms", "--frame-timeout", "300ms"];
    let server = Server::start(&[&limits[..], &["--rate-limit", "1"]].concat());
    let mut agent = server.connect();
    // The last one arrives in two parts, in time.
    let frames = report("slowly").repeat(3);
    let (most, rest) = frames.split_at(frames.len() - 1);
    agent.send(most);
    agent.expect_line(REPORT);
    agent.send(rest);
    agent.expect_line(REPORT);
    agent.expect_line(REPORT);
}

#[test]
fn when_the_server_stops_all_that_has_arrived_is_answered_at_once() {
    let server = Server::start(&["--rate-limit", "1"]);
    let mut agent = server.connect();
    agent.send(&report("much").repeat(300));
    agent.wait_delivered();
    server.wait_until(|stats| stats.get("rate_limited") >= 1);
    server.signal(Signal::TERM);
    (0..300).for_each(|_| agent.expect_line(REPORT));
    agent.expect_eof();
    drop(agent);
    assert_eq!(server.wait_exit().code, Some(0));
}

#[test]
fn connections_paused_by_their_rate_hold_no_long_buffer() {
    let server = Server::start(&["--rate-limit", "1", "--pool-limit", "139264"]);
    let much = report("much").repeat(500);
    let agents: Vec<_> = (0..50)
        .map(|_| {
            let mut agent = server.connect();
            agent.send(&much);
            agent
        })
        .collect();
    let stats = server.wait_until(|stats| stats.get("rate_limited") >= 50);
    assert_eq!(stats.pool.last().unwrap().get("in_use"), 0);
    assert_eq!(stats.pool.last().unwrap().get("waiters"), 0);
    server.connect().expect_alive();
    drop(agents);
    server.wait_until(|stats| stats.get("connections") == 0);
}
