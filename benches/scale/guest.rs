//! The emulated machine: its input, and its output.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};

use hawk_testkit::bench::note;
use hawk_testkit::emulated::{Initramfs, KERNEL_LINE, MACHINE, kernel};

/// The guest's task.
pub(crate) struct Plan {
    /// Connections of each stage, and their number of addresses.
    pub(crate) stages: Vec<(u64, u64)>,
    /// Connections that are silent after their first heartbeat.
    pub(crate) silent: u64,
    /// Seconds between two heartbeats of a connection.
    pub(crate) interval: u64,
    /// Seconds after which the server closes a silent connection.
    pub(crate) idle_timeout: u64,
    /// The machine's memory in mebibytes.
    pub(crate) memory: u64,
}

impl Plan {
    /// Returns the number of connections that stay.
    pub(crate) fn connections(&self) -> u64 {
        self.stages.iter().map(|(count, _)| count).sum()
    }

    /// Returns the plan in the format of the guest's script.
    fn text(&self) -> String {
        let stages: Vec<_> = self
            .stages
            .iter()
            .map(|(count, sources)| format!("{count}:{sources}"))
            .collect();
        // Further files of the server and its clients.
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

/// A section of the guest's output: a line that begins with `= `, and the lines after it.
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) lines: Vec<String>,
}

/// Runs `plan` with `hawk`, and returns the guest's output. The guest waits for at most
/// some hours of its own clock, so this ends.
///
/// # Errors If the guest could not be made or started, or did not finish.
pub(crate) fn run(hawk: &Path, plan: &Plan, scratch: &Path) -> anyhow::Result<Vec<Section>> {
    // Files of an interrupted run.
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

/// Returns the sections of a guest's output.
///
/// # Errors If the guest did not finish.
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

/// One processor, with a clock that advances by a nanosecond for each instruction and skips
/// idle time: other work of this machine changes nothing, and a timeout of minutes takes no
/// time.
const CLOCK: &str = "shift=0,sleep=off";

fn command(kernel: &Path, initramfs: &Path, mebibytes: u64) -> Command {
    // setpriv becomes qemu, which ends with this process. It runs at low priority, because
    // its own clock does not notice.
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
    // Each kind of object has its own cache, to distinguish it from others of its size.
    command.args(["-append", &format!("{KERNEL_LINE} slab_nomerge")]);
    command.args(["-serial", "stdio"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}
