//! Which program a successor is made of.
//!
//! `/proc/self/exe` names the file that this process runs, even when another one lies at
//! its path by now. An upgrade wants the other one. So the path is noted at the start:
//! what the program was called by, made absolute, its symbolic links kept, so that it is
//! enough to point one of them elsewhere.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The file that this process runs: good for comparing, and not for starting.
const RUNNING: &str = "/proc/self/exe";

/// A program at an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary(PathBuf);

/// Why there is no successor to be made of a file.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// There is no such file, or it cannot be looked at.
    #[error("there is no binary at {}: {}", .0.display(), .1)]
    Missing(PathBuf, io::Error),
    /// It is a folder, or some other thing.
    #[error("{} is not a file", .0.display())]
    NoFile(PathBuf),
    /// This user may not execute it.
    #[error("{} is not executable", .0.display())]
    NotExecutable(PathBuf),
}

impl Binary {
    /// What this process was started from. To be asked at the start, as long as nothing
    /// has been moved.
    ///
    /// If what it was called by is another file, which a caller may make it, this is the
    /// file that it runs.
    ///
    /// # Errors
    /// That the running file cannot be had.
    pub fn running() -> io::Result<Self> {
        let running = fs::metadata(RUNNING)?;
        let called_by = std::env::args_os().next().unwrap_or_default();
        let search = std::env::var_os("PATH").unwrap_or_default();
        // It may be gone, which matters to a relative path only: that is not found then.
        let folder = std::env::current_dir().unwrap_or_default();
        match find(&called_by, &search, &folder, &running) {
            Some(path) => Ok(Self(path)),
            None => std::env::current_exe().map(Self),
        }
    }

    /// The program at `path`, which counts from the current folder if it is relative.
    /// Whether it is there is not looked at: [`check`](Self::check) does that.
    ///
    /// # Errors
    /// That the path is empty, or that there is no current folder.
    pub fn at(path: &Path) -> io::Result<Self> {
        std::path::absolute(path).map(Self)
    }

    /// Whether a process can be made of it, as far as can be told without trying.
    ///
    /// # Errors
    /// [`BinaryError`] says what is wrong with it.
    pub fn check(&self) -> Result<(), BinaryError> {
        let path = || self.0.clone();
        let metadata =
            fs::metadata(&self.0).map_err(|error| BinaryError::Missing(path(), error))?;
        if !metadata.is_file() {
            return Err(BinaryError::NoFile(path()));
        }
        access(&self.0, Access::EXEC_OK).map_err(|_| BinaryError::NotExecutable(path()))
    }

    /// Where it is: an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// The path that was meant by `called_by` in `folder`, if the file there is the `running`
/// one. A name without a slash was looked for in the folders of `search`, as `execvp(3)`
/// does it.
fn find(called_by: &OsStr, search: &OsStr, folder: &Path, running: &Metadata) -> Option<PathBuf> {
    let is_running = |path: &PathBuf| {
        let is_it = |file: Metadata| (file.dev(), file.ino()) == (running.dev(), running.ino());
        path.is_absolute() && fs::metadata(path).is_ok_and(is_it)
    };
    if called_by.is_empty() {
        return None;
    }
    if called_by.as_encoded_bytes().contains(&b'/') {
        // Without the dots of `./hawk`, for people read it.
        let path = folder.join(called_by).components().collect();
        return Some(path).filter(is_running);
    }
    // An empty entry is the current folder, and so `join` takes it.
    let folders = std::env::split_paths(search);
    folders
        .map(|entry| folder.join(entry).join(called_by))
        .find(is_running)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A folder with a program in `bin/`, a link to it beside that, and something else.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["bin", "other"] {
            fs::create_dir(at(name)).unwrap();
        }
        for name in ["bin/hawk", "other/hawk"] {
            fs::write(at(name), name).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink("bin/hawk", at("current")).unwrap();
        folder
    }

    /// What is found, counted from the folder, when `bin/hawk` runs.
    fn found(called_by: &str, search: &str) -> Option<String> {
        let folder = folder();
        let expand = |text: &str| text.replace('@', folder.path().to_str().unwrap());
        let running = fs::metadata(folder.path().join("bin/hawk")).unwrap();
        let (called_by, search) = (expand(called_by), expand(search));
        let path = find(
            OsStr::new(&called_by),
            OsStr::new(&search),
            folder.path(),
            &running,
        )?;
        assert!(path.is_absolute() && !path.to_str().unwrap().contains("/./"));
        let path = path.strip_prefix(folder.path()).unwrap();
        Some(path.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_path_is_made_absolute() {
        assert_eq!(found("@/bin/hawk", "").as_deref(), Some("bin/hawk"));
        assert_eq!(found("bin/hawk", "").as_deref(), Some("bin/hawk"));
        assert_eq!(found("./bin/hawk", "").as_deref(), Some("bin/hawk"));
    }

    #[test]
    fn a_name_is_looked_for_as_the_shell_did() {
        assert_eq!(
            found("hawk", "/nowhere:@/bin:/usr").as_deref(),
            Some("bin/hawk")
        );
        assert_eq!(found("hawk", "bin").as_deref(), Some("bin/hawk"));
        // An empty entry is the current folder.
        assert_eq!(found("current", "/nowhere:").as_deref(), Some("current"));
        assert_eq!(found("hawk", "/nowhere"), None);
        assert_eq!(found("hawk", ""), None);
    }

    #[test]
    fn a_link_is_kept_so_that_it_can_be_pointed_elsewhere() {
        assert_eq!(found("@/current", "").as_deref(), Some("current"));
        assert_eq!(found("./current", "").as_deref(), Some("current"));
    }

    #[test]
    fn another_file_than_the_running_one_is_not_meant() {
        assert_eq!(found("@/other/hawk", ""), None);
        assert_eq!(found("-hawk", "@/bin"), None);
        assert_eq!(found("", "@/bin"), None);
        // One of the same name that comes first in PATH is not it.
        assert_eq!(found("hawk", "@/other:@/bin").as_deref(), Some("bin/hawk"));
    }

    #[test]
    fn this_very_process_is_found() {
        let binary = Binary::running().unwrap();
        assert!(binary.path().is_absolute());
        assert_ne!(binary.path(), Path::new(RUNNING));
        binary.check().unwrap();
    }

    #[test]
    fn what_is_wrong_with_a_binary_is_said() {
        let folder = folder();
        let refused = |name: &str| {
            let path = folder.path().join(name);
            let refused = Binary::at(&path).unwrap().check().unwrap_err();
            refused.to_string().replace(path.to_str().unwrap(), "@")
        };
        assert_eq!(
            refused("missing"),
            "there is no binary at @: No such file or directory (os error 2)"
        );
        assert_eq!(refused("bin"), "@ is not a file");
        let plain = fs::Permissions::from_mode(0o644);
        fs::set_permissions(folder.path().join("bin/hawk"), plain).unwrap();
        assert_eq!(refused("bin/hawk"), "@ is not executable");
        Binary::at(&folder.path().join("other/hawk"))
            .unwrap()
            .check()
            .unwrap();
        assert_eq!(
            Binary::at(Path::new("")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert!(Binary::at(Path::new("hawk")).unwrap().path().is_absolute());
    }
}
