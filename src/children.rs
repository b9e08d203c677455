//! Child processes of this process, and orphans that it inherits as process 1.
//!
//! In a container hawk may be process 1. The kernel makes it the parent of every orphaned
//! process there, and each orphan stays a zombie until its parent waits for it.
//! [`reap_orphans`] starts a thread that waits for orphans only. The owner of a [`Child`] waits
//! for it and gets its status.

use std::collections::BTreeSet;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{self, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions, pidfd_open, waitid, waitpid,
};

/// While this process has no child, the time between two searches for one.
const NO_CHILD: Duration = Duration::from_secs(1);

/// Time for owners to wait for their ended children, before the next search for orphans.
const OWNED: Duration = Duration::from_millis(20);

/// Children with an owner.
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn own() -> MutexGuard<'static, BTreeSet<u32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child process of this process, with a descriptor that is readable once it has ended.
///
/// The owner waits for it. After the drop of an unreaped child, the thread for orphans reaps
/// it.
#[derive(Debug)]
pub struct Child {
    process: process::Child,
    /// A pidfd (`pidfd_open(2)`).
    end: OwnedFd,
}

impl Child {
    /// Starts `command`.
    ///
    /// # Errors
    /// The error of `fork(2)`, `execve(2)` or `pidfd_open(2)`.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        // Locked throughout: the child may end before it is listed.
        let mut own = own();
        let mut process = command.spawn()?;
        match pidfd_open(Pid::from_child(&process), PidfdFlags::empty()) {
            Ok(end) => {
                own.insert(process.id());
                Ok(Self { process, end })
            }
            Err(error) => {
                process.kill()?;
                process.wait()?;
                Err(error.into())
            }
        }
    }

    /// Kills the process and waits until it has ended. Returns its status, also if it ended
    /// before. The wait takes as long as the kernel needs, some 20 ms with 15,000 sockets, and
    /// longer if the process waits for a disk that hangs (`D` in `ps`).
    ///
    /// # Errors
    /// The error of `kill(2)` or `waitpid(2)`.
    pub fn kill_and_wait(&mut self) -> io::Result<ExitStatus> {
        // Does not signal a process that was reaped: std keeps its status.
        self.process.kill()?;
        self.process.wait()
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        own().remove(&self.process.id());
    }
}

impl Deref for Child {
    type Target = process::Child;

    fn deref(&self) -> &process::Child {
        &self.process
    }
}

impl DerefMut for Child {
    fn deref_mut(&mut self) -> &mut process::Child {
        &mut self.process
    }
}

/// Starts the thread that waits for orphans, if this is process 1.
///
/// # Errors
/// If the kernel refuses a thread.
pub fn reap_orphans() -> io::Result<()> {
    if process::id() != 1 {
        return Ok(());
    }
    std::thread::Builder::new()
        .name("hawk-reaper".to_owned())
        .spawn(|| {
            loop {
                reap_some();
            }
        })
        .map(drop)
}

/// Blocks until a child has ended, then reaps all ended orphans.
fn reap_some() {
    // WNOWAIT: detects an ended child without reaping it; the process id is not returned.
    match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
        Ok(_) => {}
        Err(Errno::INTR) => return,
        Err(_) => return std::thread::sleep(NO_CHILD),
    }
    let own = own();
    for child in zombies(process::id()) {
        if !own.contains(&child.as_raw_nonzero().get().cast_unsigned()) {
            // An error means that the child is gone.
            let _status = waitpid(Some(child), WaitOptions::NOHANG);
        }
    }
    drop(own);
    std::thread::sleep(OWNED);
}

/// Returns the processes that have ended and that `parent` has not waited for.
fn zombies(parent: u32) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let pids = names.filter_map(|name| Pid::from_raw(name.parse().ok()?));
    pids.filter(|pid| is_zombie_of(*pid, parent)).collect()
}

fn is_zombie_of(pid: Pid, parent: u32) -> bool {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let Ok(stat) = std::fs::read_to_string(path) else {
        return false;
    };
    // The second field is a name in parentheses, and may contain parentheses.
    let mut fields = stat
        .rsplit_once(')')
        .map_or("", |(_, fields)| fields)
        .split_whitespace();
    fields.next() == Some("Z") && fields.next().and_then(|of| of.parse().ok()) == Some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_has_ended_is_a_zombie_until_its_owner_waits() {
        let mut child = Child::spawn(&mut Command::new("true")).unwrap();
        let pid = Pid::from_child(&child);
        waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )
        .unwrap();
        assert!(zombies(process::id()).contains(&pid));
        assert!(own().contains(&child.id()));
        assert!(child.wait().unwrap().success());
        assert!(!zombies(process::id()).contains(&pid));
        let id = child.id();
        drop(child);
        assert!(!own().contains(&id));
    }
}
