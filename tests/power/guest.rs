//! The machine that loses its power: a folder with its kernel, its initial RAM
//! file system, and a disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::place::shim;

/// Kernel modules that the guest loads, where they are not built in.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_net", "ext4"];

/// Bytes of the disk: room for the reports of thousands of cuts.
const DISK_SIZE: u64 = 256 << 20;

/// All that the emulator is given.
pub(crate) struct Guest {
    folder: TempDir,
}

impl Guest {
    /// A guest with an empty file system on its disk.
    pub(crate) fn new() -> Self {
        let guest = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        guest.make_initramfs();
        let disk = fs::File::create(guest.disk()).unwrap();
        disk.set_len(DISK_SIZE).unwrap();
        // Nothing is left for the guest to initialise in its spare time.
        run(Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-b", "4096"])
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(guest.disk()))
        .unwrap();
        guest
    }

    /// Where the emulator runs and has its sockets.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.folder().join("disk")
    }

    pub(crate) fn initramfs(&self) -> PathBuf {
        self.folder().join("initramfs")
    }

    /// What the guest said since it was last booted.
    pub(crate) fn console(&self) -> PathBuf {
        self.folder().join("console")
    }

    pub(crate) fn kernel() -> PathBuf {
        prepared().join("vmlinuz")
    }

    fn make_initramfs(&self) {
        let tree = self.folder().join("tree");
        for folder in ["bin", "dev", "disk", "proc"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/init");
        fs::copy(source, tree.join("init")).unwrap();
        fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
        // Without its symbols it is in the guest's memory the sooner.
        let hawk = Path::new(env!("CARGO_BIN_EXE_hawk"));
        run(Command::new("strip")
            .arg("-o")
            .args([tree.join("bin/hawk").as_path(), hawk]))
        .unwrap();
        fs::copy(shim(), tree.join("shim.so")).unwrap();
        for program in [Path::new("/bin/busybox"), hawk, shim()] {
            copy_libraries(program, &tree);
        }
        copy_modules(&tree);
        let archive = "busybox find . | busybox cpio -o -H newc 2>/dev/null >../initramfs";
        run(Command::new("sh").args(["-c", archive]).current_dir(&tree)).unwrap();
        fs::remove_dir_all(&tree).unwrap();
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

/// Where `tests/power/prepare` puts the kernel.
fn prepared() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let kernel = target.join("power/kernel");
    assert!(
        kernel.exists(),
        "there is no {}; `make test-power` makes it",
        kernel.display()
    );
    kernel
}

/// The shared libraries of `program`, to the same places below `tree`.
fn copy_libraries(program: &Path, tree: &Path) {
    // It fails for a program that has none.
    let listed = Command::new("ldd").arg(program).output().unwrap().stdout;
    for word in String::from_utf8_lossy(&listed).split_whitespace() {
        if let Some(inner) = word.strip_prefix('/') {
            copy_into(Path::new(word), &tree.join(inner));
        }
    }
}

fn copy_modules(tree: &Path) {
    let modules = prepared().join("lib/modules");
    let mut versions = fs::read_dir(modules).unwrap();
    let from = versions.next().unwrap().unwrap();
    let to = tree.join("lib/modules").join(from.file_name());
    let index = fs::read_to_string(from.path().join("modules.dep")).unwrap();
    // Each line: a module, a colon, and all that it needs.
    for line in index.lines() {
        let (module, needed) = line.split_once(':').unwrap();
        let stem = Path::new(module).file_stem().unwrap().to_str().unwrap();
        if MODULES.contains(&stem) {
            for file in needed.split_whitespace().chain([module]) {
                copy_into(&from.path().join(file), &to.join(file));
            }
        }
    }
    for file in ["modules.dep", "modules.builtin"] {
        copy_into(&from.path().join(file), &to.join(file));
    }
}

fn copy_into(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

/// Runs a helper, which must end well. 1 is a good end of `e2fsck`: it found
/// something to do, and did it.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    // Debian keeps the tools for file systems out of users' PATH.
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.stdin(Stdio::null()).output()?;
    let repaired = command.get_program() == "e2fsck" && output.status.code() == Some(1);
    anyhow::ensure!(
        output.status.success() || repaired,
        "{command:?}: {}, {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
