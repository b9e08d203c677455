//! Many power cuts on one disk: every acknowledged report is in the table, unless syncs are
//! broken.
//!
//! `HAWK_CUTS` sets the number of cuts, `HAWK_SEED` repeats the random choices; the moments
//! of the cuts still depend on the machine.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::emulator::{Emulator, Flaw};
use super::guest::Guest;
use super::load::{Load, Log};
use super::table::Table;
use hawk_testkit::number;

/// Cuts without syncs within which a report must be lost. It takes one or two: without a
/// sync the guest's kernel writes only after seconds.
const BITE_WITHIN: u32 = 20;

/// Roughly the time from the mount of the guest's disk until the server listens: cuts
/// during recovery are spread over it.
const START: Duration = Duration::from_secs(3);

/// The longest wait for a cut once there are enough acknowledgements: longer than a
/// commit and a checkpoint take.
const LINGER: Duration = Duration::from_millis(200);

#[test]
#[ignore = "takes an emulator and many minutes: make test-power"]
fn nothing_acknowledged_is_lost_with_the_power() {
    let cuts = number("HAWK_CUTS").unwrap_or(100);
    let mut machine = Machine::new(Flaw::Nothing);
    for cut in 1..=cuts {
        if machine.random.random_ratio(1, 8) {
            machine.cut_while_it_starts();
        } else {
            machine.cut_under_load();
        }
        eprintln!("cut {cut}: {}", machine.figures());
        assert_eq!(machine.lost().unwrap(), [""; 0], "acknowledged and lost");
    }
    // The store is also complete after a last start and an orderly stop.
    let emulator = machine.start();
    emulator.wait_listening();
    emulator.stop();
    assert_eq!(machine.lost().unwrap(), [""; 0], "acknowledged and lost");
    Table::take(&machine.guest.disk()).unwrap().expect_sound();
    eprintln!("{cuts} cuts, {}, 0 lost", machine.figures());
}

#[test]
#[ignore = "takes an emulator and minutes: make test-power"]
fn without_syncs_something_is_lost() {
    expect_loss(Flaw::NoSyncs);
}

#[test]
#[ignore = "takes an emulator and minutes: make test-power"]
fn with_a_disk_that_lies_something_is_lost() {
    expect_loss(Flaw::LyingDisk);
}

fn expect_loss(flaw: Flaw) {
    let mut machine = Machine::new(flaw);
    for cut in 1..=BITE_WITHIN {
        machine.cut_under_load();
        let lost = match machine.lost() {
            Ok(lost) if lost.is_empty() => continue,
            Ok(lost) => format!("{} lost", lost.len()),
            Err(error) => format!("all lost: {error:#}"),
        };
        eprintln!("{flaw:?}: {cut} cuts, {}, {lost}", machine.figures());
        return;
    }
    panic!("{flaw:?}, and nothing is lost in {BITE_WITHIN} cuts: the test shows nothing");
}

/// A guest, and the agents' record of acknowledgements.
struct Machine {
    flaw: Flaw,
    guest: Guest,
    log: Log,
    random: StdRng,
    started: Instant,
}

impl Machine {
    fn new(flaw: Flaw) -> Self {
        let seed = number("HAWK_SEED").unwrap_or_else(rand::random);
        eprintln!("{flaw:?}: HAWK_SEED={seed}");
        Self {
            flaw,
            guest: Guest::new(),
            log: Log::default(),
            random: StdRng::seed_from_u64(seed),
            started: Instant::now(),
        }
    }

    fn start(&self) -> Emulator {
        Emulator::start(&self.guest, self.flaw)
    }

    /// The guest mounts the file system and opens the store; both recover.
    fn cut_while_it_starts(&mut self) {
        let emulator = self.start();
        emulator.wait_mounting();
        self.linger(START);
        emulator.cut(&mut self.random);
    }

    fn cut_under_load(&mut self) {
        let emulator = self.start();
        let server = emulator.wait_listening();
        // Mostly soon, sometimes late enough for a checkpoint.
        let most = if self.random.random_ratio(1, 5) {
            5000
        } else {
            500
        };
        let enough = self.random.random_range(1..=most);
        let load = Load::start(server, &self.log, enough);
        load.wait();
        self.linger(LINGER);
        emulator.cut(&mut self.random);
        load.finish(&mut self.log);
    }

    /// Sleeps without waiting for an event, to make the moment random.
    fn linger(&mut self, most: Duration) {
        std::thread::park_timeout(self.random.random_range(Duration::ZERO..most));
    }

    /// Returns acknowledged reports of all rounds that are missing on the disk.
    fn lost(&self) -> anyhow::Result<Vec<String>> {
        if self.log.acknowledged() == 0 {
            // There need be no store either.
            return Ok(Vec::new());
        }
        Table::take(&self.guest.disk())?.lost(&self.log)
    }

    fn figures(&self) -> String {
        let minutes = self.started.elapsed().as_secs_f64() / 60.0;
        let (sent, acknowledged) = (self.log.sent(), self.log.acknowledged());
        format!("{minutes:.1} min, {sent} reports sent, {acknowledged} acknowledged")
    }
}
