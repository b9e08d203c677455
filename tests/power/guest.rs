//! The emulated machine: a folder with its kernel, its initial RAM file system, and a disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use hawk_testkit::emulated::{Initramfs, run};
use hawk_testkit::store_file::shim;

/// Kernel modules that the guest loads, where they are not built in.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_net", "ext4"];

/// Bytes of the disk: room for the reports of thousands of cuts.
const DISK_SIZE: u64 = 256 << 20;

/// The files of the emulator.
pub(crate) struct Guest {
    folder: TempDir,
}

impl Guest {
    /// Creates a guest with an empty file system on its disk.
    pub(crate) fn new() -> Self {
        let guest = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        guest.make_initramfs().unwrap();
        let disk = fs::File::create(guest.disk()).unwrap();
        disk.set_len(DISK_SIZE).unwrap();
        // Initialises all tables now, so that the guest does not do it later.
        run(Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-b", "4096"])
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(guest.disk()))
        .unwrap();
        guest
    }

    /// Returns the folder of the emulator and its sockets.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.folder().join("disk")
    }

    pub(crate) fn initramfs(&self) -> PathBuf {
        self.folder().join("initramfs")
    }

    /// Returns the guest's output since its last boot.
    pub(crate) fn console(&self) -> PathBuf {
        self.folder().join("console")
    }

    fn make_initramfs(&self) -> anyhow::Result<()> {
        let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/init");
        let initramfs = Initramfs::new(self.folder(), &init, &["dev", "disk", "proc"])?;
        initramfs.hawk(Path::new(env!("CARGO_BIN_EXE_hawk")))?;
        initramfs.file(shim(), "shim.so")?;
        initramfs.libraries(shim())?;
        initramfs.modules(&MODULES)?;
        initramfs.pack()?;
        Ok(())
    }
}

/// A failed test shows the guest's last words.
impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = fs::read(self.console()).unwrap_or_default();
            eprintln!("the guest said:\n{}", String::from_utf8_lossy(&said));
        }
    }
}
