//! The emulator: switches a guest on, and cuts its power.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;

use super::disk::Disk;
use super::guest::Guest;
use super::nbd;
use hawk_testkit::{Lines, PATIENCE, eventually};

/// How long a guest may take to boot. It takes seconds on an idle machine; only a failure
/// takes this long.
pub(crate) const BOOT_PATIENCE: Duration = Duration::from_secs(180);

/// The line that the guest prints before it first reads its disk.
const MOUNTING: &str = "guest: mounting the disk";

/// A fault of the guest that the test must detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Nothing,
    /// The server's syncs have no effect.
    NoSyncs,
    /// The disk acknowledges flushes without doing them.
    LyingDisk,
}

/// A running guest. Dropping it kills the emulator.
pub(crate) struct Emulator {
    process: Child,
    console: Lines,
    keys: ChildStdin,
    disk: Option<JoinHandle<Disk>>,
    monitor: PathBuf,
}

impl Emulator {
    /// Switches the guest on.
    pub(crate) fn start(guest: &Guest, flaw: Flaw) -> Self {
        let socket = guest.folder().join("disk.socket");
        let monitor = guest.folder().join("monitor.socket");
        // Sockets of the last boot, if there was one.
        for left in [&socket, &monitor] {
            std::fs::remove_file(left).ok();
        }
        let listener = UnixListener::bind(&socket).unwrap();
        let mut disk = Disk::open(&guest.disk(), flaw == Flaw::LyingDisk);
        let disk = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            nbd::serve(stream, &mut disk);
            disk
        });
        let mut process = command(guest, &socket, &monitor, flaw)
            .spawn()
            .expect("qemu is installed");
        Self {
            console: Lines::collect(process.stdout.take().unwrap()),
            keys: process.stdin.take().unwrap(),
            process,
            disk: Some(disk),
            monitor,
        }
    }

    /// Waits until the guest is about to mount its disk.
    #[track_caller]
    pub(crate) fn wait_mounting(&self) {
        self.wait_for(|line| line.contains(MOUNTING));
    }

    /// Waits until the server listens, and returns its address.
    #[track_caller]
    pub(crate) fn wait_listening(&self) -> SocketAddr {
        self.wait_for(|line| line.contains("listening on "));
        let mut monitor = UnixStream::connect(&self.monitor).unwrap();
        monitor.set_read_timeout(Some(PATIENCE)).unwrap();
        monitor.write_all(b"info usernet\n").unwrap();
        let mut lines = BufReader::new(monitor).lines().map(Result::unwrap);
        let forward = lines.find(|line| line.contains("HOST_FORWARD"));
        let forward = forward.expect("it forwards a port");
        // TCP[HOST_FORWARD], file descriptor, source address, source port, ...
        let port = forward.split_whitespace().nth(3).unwrap();
        SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))
    }

    /// Cuts the power.
    pub(crate) fn cut(mut self, random: &mut StdRng) {
        self.process.kill().unwrap();
        self.take_disk().cut(random);
    }

    /// Stops the server and switches the guest off, in good order.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.keys.write_all(b"\n").unwrap();
        self.wait_for(|line| line.contains("guest: hawk ended with 0"));
        self.wait_for(|line| line.contains("guest: the disk is unmounted"));
        let ended = eventually(|| self.process.try_wait().unwrap());
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
        self.take_disk().switch_off();
    }

    /// Returns the disk, once the emulator has ended and all its requests are done.
    fn take_disk(&mut self) -> Disk {
        self.process.wait().unwrap();
        self.disk.take().unwrap().join().unwrap()
    }

    #[track_caller]
    fn wait_for(&self, fits: impl Fn(&str) -> bool) {
        self.console.wait_for_within(BOOT_PATIENCE, 0, fits);
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail if the process was already waited for.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn command(guest: &Guest, disk: &Path, monitor: &Path, flaw: Flaw) -> Command {
    let faults = match flaw {
        Flaw::NoSyncs => "faults=sync=skip",
        Flaw::Nothing | Flaw::LyingDisk => "",
    };
    let file = |path: &Path| path.to_str().unwrap().to_owned();
    // setpriv becomes qemu, which ends with the thread that started it.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(hawk_testkit::emulated::MACHINE);
    command.args(["-smp", "1", "-m", "256M"]);
    command.args(["-kernel", &file(&hawk_testkit::emulated::kernel().unwrap())]);
    command.args(["-initrd", &file(&guest.initramfs())]);
    let append = format!("{} {faults}", hawk_testkit::emulated::KERNEL_LINE);
    command.args(["-append", &append]);

    let console = file(&guest.console());
    command.args(["-chardev", &format!("stdio,id=console,logfile={console}")]);
    command.args(["-serial", "chardev:console"]);
    let monitor = file(monitor);
    command.args([
        "-chardev",
        &format!("socket,id=monitor,path={monitor},server=on,wait=off"),
    ]);
    command.args(["-mon", "chardev=monitor"]);

    let server = format!("server.type=unix,server.path={}", file(disk));
    command.args(["-blockdev", &format!("driver=nbd,node-name=disk,{server}")]);
    // The guest knows that the disk has a cache, and flushes it.
    let block = "write-cache=on,logical_block_size=4096,physical_block_size=4096";
    command.args(["-device", &format!("virtio-blk-pci,drive=disk,{block}")]);
    // The host can reach the guest; the guest can reach no network.
    command.args([
        "-netdev",
        "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:9876",
    ]);
    command.args(["-device", "virtio-net-pci,netdev=net"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}
