//! One server writes a store at a time, and others can tell whether one does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How often, and at what distance, an attempt is repeated: a reader that looks
/// whether a server is writing holds the lock for an instant.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// The right to write a store, held for as long as this lives.
///
/// It is a `flock(2)` on a file beside the store, `PATH-lock`: the kernel takes
/// it back when the process ends, however it ends. It is not on the store
/// itself, because closing any descriptor of that file would give up the locks
/// that SQLite holds on it (`fcntl(2)`, "Record locking").
#[derive(Debug)]
pub struct Lock {
    /// Held open: closing it gives the lock back.
    _file: File,
}

/// Why the right to write was not given.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another server has it.
    #[error("another hawk is writing it ({holder})")]
    Held {
        /// What the other says of itself, such as `pid 4711`.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("cannot use its lock file {}", .0.display())]
    File(PathBuf, #[source] io::Error),
}

impl Lock {
    /// Takes the right to write the store at `store`.
    ///
    /// # Errors
    /// [`LockError`] if another process has it, or if the file beside the store
    /// cannot be made.
    pub fn take(store: &Path) -> Result<Self, LockError> {
        let path = path_beside(store);
        let cannot = |error| LockError::File(path.clone(), error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(cannot)?;
        for attempt in 1.. {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if attempt < ATTEMPTS => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    file.read_to_string(&mut holder).map_err(cannot)?;
                    let holder = holder.trim().to_owned();
                    return Err(LockError::Held { holder });
                }
                Err(error) => return Err(cannot(error.into())),
            }
        }
        file.set_len(0).map_err(cannot)?;
        file.rewind().map_err(cannot)?;
        writeln!(file, "pid {}", std::process::id()).map_err(cannot)?;
        Ok(Self { _file: file })
    }

    /// Whether a server is writing the store at `store`.
    ///
    /// # Errors
    /// Whatever opening the lock file says, but for its absence: then nobody is.
    pub fn is_held(store: &Path) -> io::Result<bool> {
        let file = match File::open(path_beside(store)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

fn path_beside(store: &Path) -> PathBuf {
    let mut path = store.as_os_str().to_owned();
    path.push("-lock");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_and_the_next_is_told_who() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("hawk.db");
        assert!(!Lock::is_held(&store).unwrap());
        let lock = Lock::take(&store).unwrap();
        assert!(Lock::is_held(&store).unwrap());
        let refused = Lock::take(&store).unwrap_err().to_string();
        let pid = std::process::id();
        assert_eq!(refused, format!("another hawk is writing it (pid {pid})"));
        drop(lock);
        assert!(!Lock::is_held(&store).unwrap());
        Lock::take(&store).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let refused = Lock::take(Path::new("/nowhere/hawk.db")).unwrap_err();
        assert!(
            refused.to_string().contains("/nowhere/hawk.db-lock"),
            "{refused}"
        );
    }
}
