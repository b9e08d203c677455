use super::*;
use crate::time::UnixNanos;

/// More than any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn event<'a>(agent: &'a str, version: &'a str) -> Event<'a> {
    Event {
        at: UnixNanos::from_nanos(1),
        agent: agent.into(),
        named: true,
        address: [10, 0, 0, 7].into(),
        version,
        online: true,
        last_seen: UnixNanos::from_nanos(1),
    }
}

fn start(command: &str) -> Hook {
    let config = Config {
        command: command.into(),
        timeout: PATIENCE,
        hidden: &[],
    };
    Hook::start(config).unwrap()
}

#[test]
fn what_waits_at_the_stop_is_run_in_the_order_of_each_agent() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written");
    let mut hook = start(&format!("cat >> {}", written.display()));
    for version in 0..10 {
        for agent in ["a", "b", "c", "d", "e"] {
            hook.tell(&event(agent, &version.to_string()), Moment::now());
        }
    }
    hook.stop_within(PATIENCE);
    hook.finish();
    let written = std::fs::read_to_string(written).unwrap();
    let read = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let lines: Vec<_> = written.lines().map(read).collect();
    assert_eq!(lines.len(), 50);
    for agent in ["a", "b", "c", "d", "e"] {
        let of_agent = lines.iter().filter(|line| line["agent"] == agent);
        let versions: Vec<_> = of_agent.map(|line| line["version"].clone()).collect();
        let expected: Vec<_> = (0..10).map(|version| version.to_string()).collect();
        assert_eq!(versions, expected, "of {agent}");
    }
}

#[test]
fn commands_that_end_badly_are_counted() {
    let mut hook = start("read -r event; case $event in *good*) ;; *) exit 3 ;; esac");
    for version in ["good", "bad", "worse"] {
        hook.tell(&event("a", version), Moment::now());
    }
    hook.stop_within(PATIENCE);
    let mailbox = Arc::clone(&hook.mailbox);
    hook.finish();
    let expected = mailbox::Counters {
        run: 3,
        failed: 2,
        ..mailbox::Counters::default()
    };
    assert_eq!(mailbox.counters(), expected);
}

#[test]
fn dropping_it_ends_it_at_once() {
    let mut hook = start("exec tail -f /dev/null");
    for agent in ["a", "b", "c", "d", "e", "f"] {
        hook.tell(&event(agent, ""), Moment::now());
    }
    let begun = Moment::now();
    drop(hook);
    assert!(Moment::now().since(begun) < PATIENCE);
}

#[test]
fn the_line_of_the_statistics_is_key_value() {
    assert_eq!(
        start("true").statistics(),
        "hook running=0 waiting=0 run=0 failed=0 timed_out=0 dropped=0"
    );
}
