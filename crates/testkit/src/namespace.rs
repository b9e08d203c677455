//! Networks of a test's own: network namespaces, and cables between them.
//!
//! In one of its own a test has the kernel's counters to itself, every address it
//! likes, and links that it can cut. Making them takes the superuser and `ip`
//! (Debian: iproute2).

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::skip;

/// A network namespace with its loopback up; gone when dropped, with all that is
/// in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// `None`, after a line that says so, where none can be made.
    #[track_caller]
    pub fn new() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("hawk-{}-{number}", std::process::id());
        if let Err(why) = ip(&["netns", "add", &name]) {
            skip(&format!(
                "no network namespace can be made ({why}); it takes the superuser and ip \
                 (Debian: iproute2)"
            ));
            return None;
        }
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        Some(namespace)
    }

    /// Lays a cable to another one. The ends are called `cable`, and have these
    /// addresses, written as `10.0.0.1/24`.
    #[track_caller]
    pub fn connect(&self, here: &str, other: &Self, there: &str) {
        let ends = ["type", "veth", "peer", "name", "cable", "netns"];
        let link = [&["link", "add", "cable"], &ends[..], &[&other.name]].concat();
        self.ip(&link);
        for (end, address) in [(self, here), (other, there)] {
            end.ip(&["address", "add", address, "dev", "cable"]);
            end.ip(&["link", "set", "cable", "up"]);
        }
    }

    /// `ip` with these arguments, in here.
    #[track_caller]
    pub fn ip(&self, args: &[&str]) {
        let all = [&["-n", &self.name], args].concat();
        ip(&all).unwrap_or_else(|why| panic!("ip {all:?}: {why}"));
    }

    /// Does `work` in here, on a thread of its own: sockets and processes that it
    /// makes belong here for ever.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let door = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(door.as_fd(), network).unwrap();
                work()
            });
            match inside.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.name]).ok();
    }
}

/// Runs `ip`; if it fails, why.
fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    output.status.success().then_some(()).ok_or(told)
}
