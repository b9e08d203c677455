//! A machine in an emulator: qemu without hardware help, a Debian kernel, and an
//! initial RAM file system with busybox, hawk and one script. It is shared by the
//! test of losses of power and the benchmark of many connections.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// What every such machine has on qemu's command line, but for its processors, its
/// memory, its initial RAM file system and its console.
pub const MACHINE: &[&str] = &[
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-no-reboot",
    "-machine",
    "q35",
    "-accel",
    "tcg",
    "-cpu",
    "max",
];

/// The kernel's command line. Mitigations protect nothing here, and cost time.
pub const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off";

/// The kernel, as a file.
///
/// # Errors
/// If it is not there yet.
pub fn kernel() -> anyhow::Result<PathBuf> {
    Ok(prepared()?.join("vmlinuz"))
}

/// Where `tests/emulated/prepare` puts the kernel and its modules; beside it is what others
/// have prepared.
///
/// # Errors
/// If it is not there yet.
pub fn prepared() -> anyhow::Result<PathBuf> {
    let target = crate::scratch_folder().parent();
    let kernel = target.context("no target folder")?.join("emulated/kernel");
    ensure!(
        kernel.exists(),
        "there is no {}; `make test-power` and `make bench-scale` make it",
        kernel.display()
    );
    Ok(kernel)
}

/// An initial RAM file system in the making: a folder tree.
pub struct Initramfs {
    tree: PathBuf,
}

impl Initramfs {
    /// With busybox, the script `init`, and these empty folders, made below `folder`.
    ///
    /// # Errors
    /// What goes wrong with files, here as below.
    pub fn new(folder: &Path, init: &Path, folders: &[&str]) -> anyhow::Result<Self> {
        let tree = folder.join("tree");
        for folder in folders.iter().chain(&["bin"]) {
            fs::create_dir_all(tree.join(folder))?;
        }
        let initramfs = Self { tree };
        initramfs.file(init, "init")?;
        initramfs.file(Path::new("/bin/busybox"), "bin/busybox")?;
        initramfs.libraries(Path::new("/bin/busybox"))?;
        Ok(initramfs)
    }

    /// A file, to this place.
    pub fn file(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        copy_into(from, &self.tree.join(to))
    }

    /// A text, to this place.
    pub fn text(&self, text: &str, to: &str) -> anyhow::Result<()> {
        Ok(fs::write(self.tree.join(to), text)?)
    }

    /// hawk, with the libraries that it is linked to.
    pub fn hawk(&self, hawk: &Path) -> anyhow::Result<()> {
        // Without its symbols it is in the guest's memory the sooner.
        let to = self.tree.join("bin/hawk");
        run(Command::new("strip").arg("-o").args([to.as_path(), hawk]))?;
        self.libraries(hawk)
    }

    /// The shared libraries of `program`, to the same places.
    pub fn libraries(&self, program: &Path) -> anyhow::Result<()> {
        // It fails for a program that has none.
        let listed = Command::new("ldd").arg(program).output()?.stdout;
        for word in String::from_utf8_lossy(&listed).split_whitespace() {
            if let Some(inner) = word.strip_prefix('/') {
                self.file(Path::new(word), inner)?;
            }
        }
        Ok(())
    }

    /// These modules of the kernel and all that they need, where they are not built in.
    pub fn modules(&self, names: &[&str]) -> anyhow::Result<()> {
        let mut versions = fs::read_dir(prepared()?.join("lib/modules"))?;
        let from = versions.next().context("no modules")??;
        let to = self.tree.join("lib/modules").join(from.file_name());
        let index = fs::read_to_string(from.path().join("modules.dep"))?;
        // Each line: a module, a colon, and all that it needs.
        for (module, needed) in index.lines().filter_map(|line| line.split_once(':')) {
            let stem = Path::new(module).file_stem().unwrap_or_default();
            if names.iter().any(|name| *name == stem) {
                for file in needed.split_whitespace().chain([module]) {
                    copy_into(&from.path().join(file), &to.join(file))?;
                }
            }
        }
        for file in ["modules.dep", "modules.builtin"] {
            copy_into(&from.path().join(file), &to.join(file))?;
        }
        Ok(())
    }

    /// Packs it into a file beside its tree, which goes.
    pub fn pack(self) -> anyhow::Result<PathBuf> {
        let archive = "busybox find . | busybox cpio -o -H newc 2>/dev/null >../initramfs";
        run(Command::new("sh")
            .args(["-c", archive])
            .current_dir(&self.tree))?;
        fs::remove_dir_all(&self.tree)?;
        Ok(self.tree.with_file_name("initramfs"))
    }
}

fn copy_into(from: &Path, to: &Path) -> anyhow::Result<()> {
    let folder = to.parent().context("no folder")?;
    fs::create_dir_all(folder)?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}

/// Runs a helper, which must end well. 1 is a good end of `e2fsck`: it found
/// something to do, and did it.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    // Debian keeps the tools for file systems out of users' PATH.
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.stdin(Stdio::null()).output()?;
    let repaired = command.get_program() == "e2fsck" && output.status.code() == Some(1);
    ensure!(
        output.status.success() || repaired,
        "{command:?}: {}, {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
