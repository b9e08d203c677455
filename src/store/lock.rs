//! One server writes a store at a time, and others can tell whether one does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
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
///
/// It belongs to the open file description: a descriptor of it that is
/// [shared](Self::share) with another process holds the same lock, which is given back
/// when both are closed. So it passes to the other without ever being free.
#[derive(Debug)]
pub struct Lock {
    /// Held open: closing it gives the lock back.
    file: File,
    path: PathBuf,
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
    /// What was handed over is no lock of this store.
    #[error("the lock that was handed over is another file than {}", .0.display())]
    Strange(PathBuf),
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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(cannot)?;
        let lock = Self::hold(file, path)?;
        lock.sign()?;
        Ok(lock)
    }

    /// A descriptor of the lock, for another process to hold it with.
    #[must_use]
    pub fn share(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Holds the lock of the store at `store` with a descriptor that another process
    /// has [shared](Self::share).
    ///
    /// # Errors
    /// [`LockError`] if it is another file's, or one through which nobody holds the lock
    /// while somebody else does.
    pub fn adopt(shared: OwnedFd, store: &Path) -> Result<Self, LockError> {
        let path = path_beside(store);
        let cannot = |error| LockError::File(path.clone(), error);
        let file = File::from(shared);
        let (ours, theirs) = (
            fs::metadata(&path).map_err(cannot)?,
            file.metadata().map_err(cannot)?,
        );
        if (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino()) {
            return Err(LockError::Strange(path));
        }
        // If it holds the lock already, nothing changes: the kernel lets be what is as
        // it is to be (Linux, fs/locks.c, `flock_lock_inode`).
        Self::hold(file, path)
    }

    /// Says in the file that it is this process that writes the store.
    ///
    /// # Errors
    /// [`LockError::File`]; the lock is held all the same.
    pub fn sign(&self) -> Result<(), LockError> {
        let cannot = |error| LockError::File(self.path.clone(), error);
        let holder = format!("pid {}\n", std::process::id());
        self.file.set_len(0).map_err(cannot)?;
        // Its offset belongs to all who share it.
        self.file.write_all_at(holder.as_bytes(), 0).map_err(cannot)
    }

    fn hold(mut file: File, path: PathBuf) -> Result<Self, LockError> {
        for attempt in 1.. {
            let error = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if attempt < ATTEMPTS => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    match file.read_to_string(&mut holder) {
                        Ok(_) => {
                            let holder = holder.trim().to_owned();
                            return Err(LockError::Held { holder });
                        }
                        Err(error) => error,
                    }
                }
                Err(error) => error.into(),
            };
            return Err(LockError::File(path, error));
        }
        Ok(Self { file, path })
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
    fn a_lock_that_is_shared_is_held_until_both_have_let_it_go() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("hawk.db");
        let first = Lock::take(&store).unwrap();
        let shared = first.share().try_clone_to_owned().unwrap();
        let second = Lock::adopt(shared, &store).unwrap();
        drop(first);
        let refused = Lock::take(&store).unwrap_err();
        assert!(matches!(refused, LockError::Held { .. }), "{refused}");
        // Who it is of is said when it is wanted, however often.
        std::fs::write(&second.path, "pid of somebody else\n").unwrap();
        (0..2).for_each(|_| second.sign().unwrap());
        let signed = std::fs::read_to_string(&second.path).unwrap();
        assert_eq!(signed, format!("pid {}\n", std::process::id()));
        // Another attempt to go on, which is broken off.
        let shared = second.share().try_clone_to_owned().unwrap();
        drop(Lock::adopt(shared, &store).unwrap());
        assert!(Lock::is_held(&store).unwrap());
        drop(second);
        assert!(!Lock::is_held(&store).unwrap());
    }

    #[test]
    fn what_is_no_lock_of_the_store_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let [store, other] = ["hawk.db", "other.db"].map(|name| directory.path().join(name));
        let lock = Lock::take(&store).unwrap();
        let strange = Lock::take(&other).unwrap();
        let adopt = |lock: &Lock| {
            let shared = lock.share().try_clone_to_owned().unwrap();
            Lock::adopt(shared, &store).unwrap_err()
        };
        assert!(matches!(adopt(&strange), LockError::Strange(path) if path == lock.path));
        // The right file, and not the descriptor that has the lock.
        let same = File::open(&lock.path).unwrap();
        let refused = Lock::adopt(same.into(), &store).unwrap_err();
        assert!(matches!(refused, LockError::Held { .. }), "{refused}");
        // Somebody has removed it, and another has taken its place.
        std::fs::remove_file(&lock.path).unwrap();
        assert!(matches!(adopt(&lock), LockError::File(..)));
        let _placed = Lock::take(&store).unwrap();
        assert!(matches!(adopt(&lock), LockError::Strange(_)));
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
