use super::event::tests::event;
use super::*;

/// More than any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn start(command: &str) -> Notifier {
    start_as(command, Calls::Each)
}

fn start_as(command: &str, calls: Calls) -> Notifier {
    let consumer = Consumer {
        command: command.into(),
        calls,
    };
    let config = Config {
        consumers: vec![consumer],
        timeout: PATIENCE,
        open_files: None,
        predecessor: None,
    };
    Notifier::in_memory(config).unwrap()
}

fn put(notifier: &mut Notifier, agent: &str, version: &str) {
    let event = Event {
        version: version.into(),
        ..event(0, agent)
    };
    notifier.put(event, Moment::now());
}

fn lines(path: &std::path::Path) -> Vec<serde_json::Value> {
    let written = std::fs::read_to_string(path).unwrap();
    let read = |line| serde_json::from_str(line).unwrap();
    written.lines().map(read).collect()
}

#[test]
fn a_stop_delivers_waiting_events_in_the_order_of_each_agent() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written");
    let mut notifier = start(&format!("cat >> {}", written.display()));
    for version in 0..10 {
        for agent in ["a", "b", "c", "d", "e"] {
            put(&mut notifier, agent, &version.to_string());
        }
    }
    notifier.stop_within(PATIENCE);
    notifier.finish();
    let lines = lines(&written);
    assert_eq!(lines.len(), 50);
    for agent in ["a", "b", "c", "d", "e"] {
        let of_agent = lines.iter().filter(|line| line["agent"] == agent);
        let versions: Vec<_> = of_agent.map(|line| line["version"].clone()).collect();
        let expected: Vec<_> = (0..10).map(|version| version.to_string()).collect();
        assert_eq!(versions, expected, "of {agent}");
    }
}

#[test]
fn a_stop_gathers_waiting_events_without_waiting_for_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written");
    let command = format!("cat >> {0}; echo {{}} >> {0}", written.display());
    let mut notifier = start_as(&command, Calls::Gathered(100 * PATIENCE));
    for agent in ["a", "b", "c"] {
        put(&mut notifier, agent, "");
    }
    notifier.stop_within(PATIENCE);
    notifier.finish();
    let agents: Vec<_> = lines(&written)
        .iter()
        .map(|line| line["agent"].as_str().unwrap_or("end").to_owned())
        .collect();
    assert_eq!(agents, ["a", "b", "c", "end"]);
}

#[test]
fn failed_commands_are_counted() {
    let mut notifier = start("read -r event; case $event in *good*) ;; *) exit 3 ;; esac");
    for version in ["good", "bad", "worse"] {
        put(&mut notifier, "a", version);
    }
    notifier.stop_within(PATIENCE);
    let shared = Arc::clone(&notifier.shared);
    notifier.finish();
    let expected = HookCounters {
        run: 3,
        failed: 2,
        delivered: 1,
        ..HookCounters::default()
    };
    assert_eq!(shared.counters(), [expected]);
}

#[test]
fn a_paused_notifier_starts_no_command() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written");
    let mut notifier = start(&format!("cat >> {}", written.display()));
    notifier.pause();
    put(&mut notifier, "a", "");
    let deadline = Moment::now().after(PATIENCE);
    while !notifier.is_quiet() {
        assert!(Moment::now() < deadline);
        std::thread::yield_now();
    }
    assert!(!written.exists());
    notifier.resume();
    notifier.stop_within(PATIENCE);
    notifier.finish();
    assert_eq!(lines(&written).len(), 1);
}

#[test]
fn the_end_of_the_predecessor_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written");
    let (end, mut before) = io::pipe().unwrap();
    let end = end.into();
    let consumer = Consumer {
        command: format!("cat >> {}", written.display()).into(),
        calls: Calls::Each,
    };
    let patience = 100 * PATIENCE;
    let config = Config {
        consumers: vec![consumer],
        timeout: PATIENCE,
        open_files: None,
        predecessor: Some(Predecessor { end, patience }),
    };
    let mut notifier = Notifier::in_memory(config).unwrap();
    put(&mut notifier, "a", "");
    assert!(!written.exists());
    std::fs::write(&written, "{}\n").unwrap();
    io::Write::write_all(&mut before, b"x").unwrap();
    notifier.stop_within(PATIENCE);
    notifier.finish();
    assert_eq!(lines(&written).len(), 2);
}

#[test]
fn dropping_the_notifier_ends_it_at_once() {
    let mut notifier = start("exec tail -f /dev/null");
    for agent in ["a", "b", "c", "d", "e", "f"] {
        put(&mut notifier, agent, "");
    }
    let begun = Moment::now();
    drop(notifier);
    assert!(Moment::now().since(begun) < PATIENCE);
}

#[test]
fn the_statistics_name_the_kind_of_command() {
    let statistics = |name| HookStatistics {
        name,
        counters: HookCounters::default(),
    };
    assert_eq!(start("true").statistics(), [statistics("hook")]);
    let gathered = start_as("true", Calls::Gathered(PATIENCE));
    assert_eq!(gathered.statistics(), [statistics("events")]);
}
