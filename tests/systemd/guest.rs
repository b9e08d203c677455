//! The machine: a disk with systemd and hawk, as they would be installed, and an initial
//! RAM file system that finds it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use hawk_testkit::Lines;
use hawk_testkit::emulated::{Initramfs, run};

/// Kernel modules that the guest loads, where they are not built in.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// Bytes of the disk: four times what is on it.
const DISK_SIZE: u64 = 256 << 20;

/// The guest's users; root has no password, and no login asks for one.
const USERS: &str = "root:x:0:0::/root:/bin/busybox\nhawk:x:100:100::/:/bin/busybox\n";
const GROUPS: &str = "root:x:0:\nhawk:x:100:\n";

/// hawk's unit is as it is delivered, but for a watchdog that bites within the test.
const WATCHDOG: &str = "[Service]\nWatchdogSec=5\n";

/// All that the emulator is given.
pub(crate) struct Guest {
    folder: TempDir,
}

impl Guest {
    /// With the systemd of a `release` of Debian and this `unit` of hawk's.
    pub(crate) fn new(release: &str, unit: &str) -> Self {
        let guest = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        guest.make_initramfs().unwrap();
        guest.make_disk(release, unit).unwrap();
        guest
    }

    /// Switches it on, waits until it has said `last`, and switches it off; all that it
    /// has said.
    pub(crate) fn run(&self, last: &str, patience: Duration) -> Vec<String> {
        let mut process = self.command().spawn().expect("qemu is installed");
        let console = Lines::collect(process.stdout.take().unwrap());
        console.wait_for_within(patience, 0, |line| line.contains(last));
        process.kill().unwrap();
        process.wait().unwrap();
        let said = console.since(0);
        said.iter().map(|line| line.trim_end().to_owned()).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn make_initramfs(&self) -> anyhow::Result<()> {
        let init = source("tests/systemd/init");
        let initramfs = Initramfs::new(self.folder.path(), &init, &["dev", "disk", "proc"])?;
        initramfs.modules(&MODULES)?;
        initramfs.pack()?;
        Ok(())
    }

    fn make_disk(&self, release: &str, unit: &str) -> anyhow::Result<()> {
        let tree = self.file("root");
        let prepared = hawk_testkit::emulated::prepared()?.with_file_name(release);
        run(Command::new("cp").arg("-a").args([&prepared, &tree]))?;
        let units = tree.join("etc/systemd/system");
        let install = |from: &Path, to: &Path, mode: u32| -> io::Result<()> {
            fs::create_dir_all(to.parent().unwrap_or(to))?;
            fs::copy(from, to)?;
            fs::set_permissions(to, Permissions::from_mode(mode))
        };
        let hawk = Path::new(env!("CARGO_BIN_EXE_hawk"));
        install(hawk, &tree.join("usr/local/bin/hawk"), 0o755)?;
        install(
            Path::new("/bin/busybox"),
            &tree.join("usr/bin/busybox"),
            0o755,
        )?;
        install(&source("tests/systemd/check"), &tree.join("check"), 0o644)?;
        let check = source("tests/systemd/check.service");
        install(&check, &units.join("check.service"), 0o644)?;
        let unit = source("systemd").join(unit);
        install(&unit, &units.join("hawk.service"), 0o644)?;
        let socket = source("systemd/hawk.socket");
        install(&socket, &units.join("hawk.socket"), 0o644)?;
        fs::create_dir_all(units.join("hawk.service.d"))?;
        fs::write(units.join("hawk.service.d/watchdog.conf"), WATCHDOG)?;
        fs::write(tree.join("etc/passwd"), USERS)?;
        fs::write(tree.join("etc/group"), GROUPS)?;
        fs::write(
            tree.join("etc/machine-id"),
            "0123456789abcdef0123456789abcdef\n",
        )?;
        File::create(self.file("disk"))?.set_len(DISK_SIZE)?;
        run(Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"])
            .args([tree.as_path(), &self.file("disk")]))
    }

    fn command(&self) -> Command {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        // setpriv becomes qemu, which then ends with the thread that started it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(hawk_testkit::emulated::MACHINE);
        command.args(["-smp", "1", "-m", "512M"]);
        command.args(["-kernel", &text(&hawk_testkit::emulated::kernel().unwrap())]);
        command.args(["-initrd", &text(&self.file("initramfs"))]);
        let systemd = "systemd.unit=check.service systemd.show_status=0 TERM=dumb loglevel=4";
        command.args([
            "-append",
            &format!("{} {systemd}", hawk_testkit::emulated::KERNEL_LINE),
        ]);
        command.args(["-serial", "stdio"]);
        let disk = format!(
            "file={},if=none,id=disk,format=raw",
            text(&self.file("disk"))
        );
        command.args(["-drive", &disk, "-device", "virtio-blk-pci,drive=disk"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }
}

/// A file of this project.
fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
