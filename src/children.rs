//! Child processes of this process, and orphans that it inherits as process 1.
//!
//! In a container hawk may be process 1. The kernel makes it the parent of every orphaned
//! process there, and each orphan stays a zombie until its parent waits for it. A thread waits
//! for orphans only. The owner of a [`Child`] waits for it and gets its status.

use std::collections::BTreeSet;
use std::io;
use std::ops::{Deref, DerefMut};
use std::process::{self, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

/// Without a child there is nothing to wait for; a new one is found this much later.
const NO_CHILD: Duration = Duration::from_secs(1);

/// Time in which the owner of an ended child must wait for it.
const OWNED: Duration = Duration::from_millis(20);

/// Children with an owner that have not been waited for.
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn own() -> MutexGuard<'static, BTreeSet<u32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that was started here. Its status is left to its owner until this is dropped.
#[derive(Debug)]
pub struct Child(process::Child);

impl Child {
    /// Starts `command`.
    ///
    /// # Errors
    /// What starting it said.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        // Held throughout: it may end before it is listed.
        let mut own = own();
        let child = command.spawn()?;
        own.insert(child.id());
        Ok(Self(child))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        own().remove(&self.0.id());
    }
}

impl Deref for Child {
    type Target = process::Child;

    fn deref(&self) -> &process::Child {
        &self.0
    }
}

impl DerefMut for Child {
    fn deref_mut(&mut self) -> &mut process::Child {
        &mut self.0
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

/// Waits until a child has ended, and then for all that have and are orphans.
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
            // Nothing is to be done if it is gone.
            let _status = waitpid(Some(child), WaitOptions::NOHANG);
        }
    }
    drop(own);
    std::thread::sleep(OWNED);
}

/// Processes that have ended and that `parent` has not waited for.
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
    // The second field is a name, in parentheses, and may have some of its own.
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
