//! The emulated machine: what it is given, and what it says.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};

use hawk_testkit::bench::note;
use hawk_testkit::emulated::{Initramfs, KERNEL_LINE, MACHINE, kernel};

/// What the guest is to do.
pub(crate) struct Plan {
    /// Connections of each stage, and from how many addresses.
    pub(crate) stages: Vec<(u64, u64)>,
    /// Connections that say nothing after their first heartbeat.
    pub(crate) silent: u64,
    /// Seconds between two heartbeats of a connection.
    pub(crate) interval: u64,
    /// Seconds after which the server closes a connection without any.
    pub(crate) idle_timeout: u64,
    /// Mebibytes of memory that the machine has.
    pub(crate) memory: u64,
}

impl Plan {
    /// Connections that stay.
    pub(crate) fn connections(&self) -> u64 {
        self.stages.iter().map(|(count, _)| count).sum()
    }

    /// As the guest's script reads it.
    fn text(&self) -> String {
        let stages: Vec<_> = self
            .stages
            .iter()
            .map(|(count, sources)| format!("{count}:{sources}"))
            .collect();
        // Those that the server and its clients need besides.
        let files = self.connections() + self.silent + 1024;
        format!(
            "stages=\"{}\" silent={} interval={} idle_timeout={} files={files}\n",
            stages.join(" "),
            self.silent,
            self.interval,
            self.idle_timeout,
        )
    }
}

/// A part of what the guest says: a line that begins with `= `, and those behind it.
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) lines: Vec<String>,
}

/// Lets `hawk` do what `plan` says, and returns all that the guest said. The guest
/// waits for nothing longer than some hours of its own clock, so this comes to an end.
///
/// # Errors
/// If the guest could not be made or started, or did not come to its end.
pub(crate) fn run(hawk: &Path, plan: &Plan, scratch: &Path) -> anyhow::Result<Vec<Section>> {
    // Whatever an interrupted run has left.
    fs::remove_dir_all(scratch).ok();
    fs::create_dir_all(scratch)?;
    let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/scale/init");
    let initramfs = Initramfs::new(scratch, &init, &["dev", "proc", "sys"])?;
    initramfs.hawk(hawk)?;
    initramfs.text(&plan.text(), "plan")?;
    let initramfs = initramfs.pack()?;
    let mut emulator = command(&kernel()?, &initramfs, plan.memory);
    let mut emulator = emulator.spawn().context("cannot start qemu")?;
    let console = emulator.stdout.take().context("it has a console")?;
    let kept = scratch.join("console");
    note!("the guest's console is kept in {}", kept.display());
    let (mut kept, started) = (fs::File::create(kept)?, Instant::now());
    let mut all = Vec::new();
    for line in BufReader::new(console).lines() {
        let line = line?.trim_end_matches('\r').to_owned();
        writeln!(kept, "{line}")?;
        if let Some(title) = line.strip_prefix("= ") {
            note!("{:>5} s  {title}", started.elapsed().as_secs());
        }
        all.push(line);
    }
    emulator.wait()?;
    sections(all)
}

/// The sections of all lines that a guest said.
///
/// # Errors
/// If it did not come to its end.
pub(crate) fn sections(lines: Vec<String>) -> anyhow::Result<Vec<Section>> {
    let (title, none) = ("boot".to_owned(), Vec::new());
    let mut sections = vec![Section { title, lines: none }];
    for line in lines {
        if let Some(title) = line.strip_prefix("= ") {
            let (title, lines) = (title.to_owned(), Vec::new());
            sections.push(Section { title, lines });
        } else if let Some(section) = sections.last_mut() {
            section.lines.push(line);
        }
    }
    let last = sections.last().context("there is a section")?;
    ensure!(
        last.title == "end",
        "the guest did not come to its end; its last words: {}\n{}",
        last.title,
        last.lines.join("\n")
    );
    Ok(sections)
}

/// One processor whose clock moves on by a nanosecond with each instruction, and that
/// skips the time in which it has nothing to do: whatever else this machine has to do
/// changes nothing, and a timeout of minutes costs none.
const CLOCK: &str = "shift=0,sleep=off";

fn command(kernel: &Path, initramfs: &Path, mebibytes: u64) -> Command {
    // setpriv becomes qemu in the end, which then ends with this process. It makes way
    // for all others, as its own clock does not notice.
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "nice",
        "-n",
        "10",
        "qemu-system-x86_64",
    ]);
    command.args(MACHINE);
    command.args(["-smp", "1", "-icount", CLOCK]);
    command.args(["-m", &format!("{mebibytes}M")]);
    command.arg("-kernel").arg(kernel);
    command.arg("-initrd").arg(initramfs);
    // Each kind of object in a cache of its own, to be told from others of its size.
    command.args(["-append", &format!("{KERNEL_LINE} slab_nomerge")]);
    command.args(["-serial", "stdio"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}
