//! What Linux says of a process (`proc(5)`).

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};

/// CPU time that process `id` has used, in all its threads.
pub fn cpu_time(id: u32) -> anyhow::Result<Duration> {
    match scheduled(id) {
        Some(time) => Ok(time),
        None => ticks(id),
    }
}

/// The same to the nanosecond, where the kernel keeps such statistics
/// (`CONFIG_SCHED_INFO`; it reports zeros where they are switched off). Threads that
/// have ended are not in it; servers have none.
fn scheduled(id: u32) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).ok()?;
    let time: Duration = threads
        .map(|thread| {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
            Some(Duration::from_nanos(nanoseconds))
        })
        .sum::<Option<_>>()?;
    (!time.is_zero()).then_some(time)
}

/// The same in ticks.
fn ticks(id: u32) -> anyhow::Result<Duration> {
    let stat = read(id, "stat")?;
    // The second field, the name in brackets, may itself contain anything.
    let fields = stat.rsplit(')').next().unwrap_or("");
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let (Some(Ok(user)), Some(Ok(system))) = (ticks.next(), ticks.next()) else {
        anyhow::bail!("cannot find the CPU times in {stat:?}");
    };
    Ok(TICK * u32::try_from(user + system)?)
}

/// The unit of `utime` and `stime`: `USER_HZ` is 100 wherever this runs.
const TICK: Duration = Duration::from_millis(10);

/// An amount of memory in `/proc/ID/status`, such as `VmRSS`, in bytes.
pub fn memory(id: u32, name: &str) -> anyhow::Result<u64> {
    let status = read(id, "status")?;
    let kibibytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("process {id} has no {name}"))?;
    Ok(kibibytes * 1024)
}

/// How many files process `id` has open.
pub fn open_files(id: u32) -> anyhow::Result<usize> {
    let directory = format!("/proc/{id}/fd");
    // The size is their number since Linux 6.2; before, it was zero.
    let size = fs::metadata(&directory)
        .with_context(|| directory.clone())?
        .len();
    if size > 0 {
        return Ok(usize::try_from(size)?);
    }
    let files = fs::read_dir(&directory).with_context(|| directory.clone())?;
    Ok(files.count())
}

fn read(id: u32, file: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{id}/{file}");
    fs::read_to_string(&path).with_context(|| path.clone())
}

/// Has the calling thread run on one core only; `None`: wherever the kernel likes.
pub fn pin_thread(core: Option<u32>) -> anyhow::Result<()> {
    if let Some(core) = core {
        let mut set = CpuSet::new();
        set.set(usize::try_from(core)?);
        sched_setaffinity(None, &set).with_context(|| format!("cannot run on core {core}"))?;
    }
    Ok(())
}
