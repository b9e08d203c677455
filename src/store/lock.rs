//! One server writes a store at a time, and others can tell whether one does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::location::{FileId, beside, open_or_create};

/// How often, and at what distance, an attempt is repeated: a reader that looks
/// whether a server is writing holds the lock for an instant.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// How often the lock file is opened again because another one has taken its place.
const PLACEMENTS: u32 = 10;

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
///
/// A lock on a file that is no longer at `PATH-lock` keeps no other server out; `renew`
/// takes it anew.
#[derive(Debug)]
pub struct Lock {
    /// Held open: closing it gives the lock back.
    file: Mutex<Arc<File>>,
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
    /// Something else is in the lock file's place.
    #[error("{} is a link or no regular file, and not a lock; remove it", .0.display())]
    Unfit(PathBuf),
    /// The lock file is replaced each time it is locked.
    #[error("its lock file {} is replaced again and again", .0.display())]
    Unsteady(PathBuf),
    /// What was handed over is no lock of this store.
    #[error("the lock that was handed over is another file than {}", .0.display())]
    Strange(PathBuf),
}

impl Lock {
    /// Takes the right to write the store at `store`, a [resolved](super::resolve) path.
    ///
    /// # Errors
    /// [`LockError`] if another process has it, or if the file beside the store
    /// cannot be made.
    pub fn take(store: &Path) -> Result<Self, LockError> {
        let path = beside(store, "-lock");
        let file = acquire(&path)?;
        let lock = Self {
            file: Mutex::new(Arc::new(file)),
            path,
        };
        lock.sign()?;
        Ok(lock)
    }

    /// The lock's file, for another process to hold it with.
    #[must_use]
    pub fn share(&self) -> Arc<File> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&file)
    }

    /// Holds the lock of the store at `store` with a descriptor that another process
    /// has [shared](Self::share).
    ///
    /// # Errors
    /// [`LockError`] if it is another file's, or one through which nobody holds the lock
    /// while somebody else does.
    pub fn adopt(shared: OwnedFd, store: &Path) -> Result<Self, LockError> {
        let path = beside(store, "-lock");
        let file = File::from(shared);
        if !is_at(&file, &path)? {
            return Err(LockError::Strange(path));
        }
        // If it holds the lock already, nothing changes: the kernel lets be what is as
        // it is to be (Linux, fs/locks.c, `flock_lock_inode`).
        hold(&file, &path)?;
        Ok(Self {
            file: Mutex::new(Arc::new(file)),
            path,
        })
    }

    /// Takes the lock at the same path again if the file there is another file or is missing:
    /// another server could lock that file. Releases the old lock after the new lock is taken.
    ///
    /// # Errors
    /// As [`take`](Self::take); the lock that is held stays so.
    pub(super) fn renew(&self) -> Result<(), LockError> {
        if self.is_in_place() {
            return Ok(());
        }
        let file = acquire(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
        self.sign()
    }

    /// Whether the file that is locked is the one at its path.
    pub(super) fn is_in_place(&self) -> bool {
        is_at(&self.share(), &self.path).unwrap_or(false)
    }

    /// Says in the file that it is this process that writes the store.
    ///
    /// # Errors
    /// [`LockError::File`]; the lock is held all the same.
    pub fn sign(&self) -> Result<(), LockError> {
        let cannot = |error| LockError::File(self.path.clone(), error);
        let holder = format!("pid {}\n", std::process::id());
        let file = self.share();
        file.set_len(0).map_err(cannot)?;
        // Its offset belongs to all who share it.
        file.write_all_at(holder.as_bytes(), 0).map_err(cannot)
    }

    /// Whether a server is writing the store at `store`.
    ///
    /// # Errors
    /// Whatever opening the lock file says, but for its absence: then nobody is.
    pub fn is_held(store: &Path) -> io::Result<bool> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(beside(store, "-lock"));
        let file = match opened {
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

/// Locks the file at `path`, which is made if there is none. Checks that the path still names
/// the locked file: a lock on a removed file would not exclude another server.
fn acquire(path: &Path) -> Result<File, LockError> {
    for _ in 0..PLACEMENTS {
        let file = open_or_create(path).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => LockError::Unfit(path.to_owned()),
            _ => LockError::File(path.to_owned(), error),
        })?;
        let found = file.metadata();
        let found = found.map_err(|error| LockError::File(path.to_owned(), error))?;
        // One that has a second name may be any file, and this one is written to.
        if !found.is_file() || found.nlink() > 1 {
            return Err(LockError::Unfit(path.to_owned()));
        }
        hold(&file, path)?;
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
    Err(LockError::Unsteady(path.to_owned()))
}

/// Whether `path` leads to `file`, and by no link.
fn is_at(file: &File, path: &Path) -> Result<bool, LockError> {
    let cannot = |error| LockError::File(path.to_owned(), error);
    let held = file.metadata().map_err(cannot)?;
    match FileId::at(path) {
        Ok(found) => Ok(found == FileId::of(&held)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot(error)),
    }
}

/// Locks `file`.
fn hold(mut file: &File, path: &Path) -> Result<(), LockError> {
    for _ in 1..ATTEMPTS {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            outcome => {
                return outcome.map_err(|error| LockError::File(path.to_owned(), error.into()));
            }
        }
    }
    let mut holder = String::new();
    match file.read_to_string(&mut holder) {
        Ok(_) => {
            let holder = holder.trim().to_owned();
            Err(LockError::Held { holder })
        }
        Err(error) => Err(LockError::File(path.to_owned(), error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// What another process gets.
    fn descriptor(lock: &Lock) -> OwnedFd {
        lock.share().try_clone().unwrap().into()
    }

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
        let shared = descriptor(&first);
        let second = Lock::adopt(shared, &store).unwrap();
        drop(first);
        let refused = Lock::take(&store).unwrap_err();
        assert!(matches!(refused, LockError::Held { .. }), "{refused}");
        // Who it is of is said when it is wanted, however often.
        std::fs::write(&second.path, "pid of another process\n").unwrap();
        (0..2).for_each(|_| second.sign().unwrap());
        let signed = std::fs::read_to_string(&second.path).unwrap();
        assert_eq!(signed, format!("pid {}\n", std::process::id()));
        // Another attempt to go on, which is broken off.
        let shared = descriptor(&second);
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
        let adopt = |lock: &Lock| Lock::adopt(descriptor(lock), &store).unwrap_err();
        assert!(matches!(adopt(&strange), LockError::Strange(path) if path == lock.path));
        // The right file, and not the descriptor that has the lock.
        let same = File::open(&lock.path).unwrap();
        let refused = Lock::adopt(same.into(), &store).unwrap_err();
        assert!(matches!(refused, LockError::Held { .. }), "{refused}");
        // It is removed, and then another one is in its place.
        std::fs::remove_file(&lock.path).unwrap();
        assert!(matches!(adopt(&lock), LockError::Strange(_)));
        let _placed = Lock::take(&store).unwrap();
        assert!(matches!(adopt(&lock), LockError::Strange(_)));
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_neither_followed_nor_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let [store, other] = ["hawk.db", "other"].map(|name| directory.path().join(name));
        let path = beside(&store, "-lock");
        fs::write(&other, "precious").unwrap();
        let refused = || {
            let refused = Lock::take(&store).unwrap_err();
            assert!(matches!(refused, LockError::Unfit(_)), "{refused}");
            fs::remove_file(&path).unwrap();
        };
        symlink(&other, &path).unwrap();
        assert!(Lock::is_held(&store).is_err());
        refused();
        fs::hard_link(&other, &path).unwrap();
        refused();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        refused();
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        fs::create_dir(&path).unwrap();
        let refused = Lock::take(&store).unwrap_err();
        assert!(matches!(refused, LockError::Unfit(_)), "{refused}");
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_taken_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("hawk.db");
        let lock = Lock::take(&store).unwrap();
        fs::remove_file(&lock.path).unwrap();
        assert!(!lock.is_in_place());
        lock.renew().unwrap();
        assert!(lock.is_in_place() && Lock::is_held(&store).unwrap());
        lock.renew().unwrap();
        // Another server is faster.
        fs::remove_file(&lock.path).unwrap();
        let other = Lock::take(&store).unwrap();
        let refused = lock.renew().unwrap_err();
        assert!(matches!(refused, LockError::Held { .. }), "{refused}");
        drop(other);
        lock.renew().unwrap();
        drop(lock);
        assert!(!Lock::is_held(&store).unwrap());
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
