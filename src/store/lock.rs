//! The lock of a store: one server writes it at a time, and readers see whether a server does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::files::{FileId, beside, open_or_create};

/// Number and interval of attempts: a reader that checks for a server takes the lock for an
/// instant.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Maximum number of times that the lock file is opened because it was replaced.
const PLACEMENTS: u32 = 10;

/// The right to write a store, released when dropped.
///
/// It is a `flock(2)` on a file beside the store, `PATH-lock`, which the kernel releases when the
/// process ends. It is not on the store itself: closing any descriptor of that file would
/// release the locks that SQLite has on it (`fcntl(2)`, "Record locking").
///
/// The lock belongs to the open file description: a descriptor that is [shared](Self::share)
/// with another process has the same lock, which is released when both are closed. So it
/// passes to the successor process without ever being free.
///
/// A lock on a file that is no longer at `PATH-lock` excludes no other server; `renew` takes it
/// again.
#[derive(Debug)]
pub struct Lock {
    /// The open lock file: closing it releases the lock.
    file: Mutex<Arc<File>>,
    path: PathBuf,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another server has the lock.
    #[error("another hawk is writing it ({holder}); stop that process, or give another --store")]
    Held {
        /// The contents of the lock file, such as `pid 4711`.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("cannot use its lock file {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// A link or a special file is at the lock file's path.
    #[error("{} is a link or no regular file, and not a lock; remove it", .0.display())]
    Unfit(PathBuf),
    /// The lock file was replaced each time it was locked.
    #[error("its lock file {} is replaced repeatedly", .0.display())]
    Unsteady(PathBuf),
    /// The descriptor from the predecessor is not this store's lock file.
    #[error("the lock that was handed over is another file than {}", .0.display())]
    Strange(PathBuf),
}

impl Lock {
    /// Takes the lock of the store at `store`, a [resolved](super::resolve) path.
    ///
    /// # Errors
    /// [`LockError`] if another process has it, or if the lock file cannot be created.
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

    /// Returns the lock file, for the successor process.
    #[must_use]
    pub fn share(&self) -> Arc<File> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&file)
    }

    /// Takes over the lock of the store at `store` with a descriptor that the predecessor has
    /// [shared](Self::share).
    ///
    /// # Errors
    /// [`LockError`] if it is another file, or if another descriptor has the lock.
    pub fn adopt(shared: OwnedFd, store: &Path) -> Result<Self, LockError> {
        let path = beside(store, "-lock");
        let file = File::from(shared);
        if !is_at(&file, &path)? {
            return Err(LockError::Strange(path));
        }
        // Has no effect if it has the lock already (Linux, fs/locks.c, `flock_lock_inode`).
        hold(&file, &path)?;
        Ok(Self {
            file: Mutex::new(Arc::new(file)),
            path,
        })
    }

    /// Takes the lock at its path again if another file or none is there: another server could
    /// lock that file. Releases the old lock after the new lock is taken.
    ///
    /// # Errors
    /// As [`take`](Self::take); the old lock is kept.
    pub(super) fn renew(&self) -> Result<(), LockError> {
        if self.is_in_place() {
            return Ok(());
        }
        let file = acquire(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
        self.sign()
    }

    /// Whether the locked file is at its path.
    pub(super) fn is_in_place(&self) -> bool {
        is_at(&self.share(), &self.path).unwrap_or(false)
    }

    /// Writes this process's id into the lock file.
    ///
    /// # Errors
    /// [`LockError::File`]; the lock is kept.
    pub fn sign(&self) -> Result<(), LockError> {
        let cannot = |error| LockError::File(self.path.clone(), error);
        let holder = format!("pid {}\n", std::process::id());
        let file = self.share();
        file.set_len(0).map_err(cannot)?;
        // The offset is shared with other processes.
        file.write_all_at(holder.as_bytes(), 0).map_err(cannot)
    }

    /// Whether a server is writing the store at `store`.
    ///
    /// # Errors
    /// If the lock file cannot be opened. A missing lock file means that no server writes.
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

/// Locks the file at `path`, and creates it if it does not exist. Checks that the path still
/// names the locked file: a lock on a removed file would exclude no other server.
fn acquire(path: &Path) -> Result<File, LockError> {
    for _ in 0..PLACEMENTS {
        let file = open_or_create(path).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => LockError::Unfit(path.to_owned()),
            _ => LockError::File(path.to_owned(), error),
        })?;
        let found = file.metadata();
        let found = found.map_err(|error| LockError::File(path.to_owned(), error))?;
        // A file with a second name may be any file, and the lock file is written to.
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

/// Whether `file` is at `path`, without a link.
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

    /// Waits until the lock is free. A child process of another test has a duplicate of the
    /// descriptor between its fork and its exec.
    fn wait_for_release(store: &Path) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while Lock::is_held(store).unwrap() {
            assert!(std::time::Instant::now() < deadline, "the lock is held");
            std::thread::yield_now();
        }
    }

    /// Returns the descriptor that the successor process gets.
    fn descriptor(lock: &Lock) -> OwnedFd {
        lock.share().try_clone().unwrap().into()
    }

    #[test]
    fn a_second_process_is_refused_with_the_pid_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("hawk.db");
        assert!(!Lock::is_held(&store).unwrap());
        let lock = Lock::take(&store).unwrap();
        assert!(Lock::is_held(&store).unwrap());
        let refused = Lock::take(&store).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(
            refused.starts_with(&format!("another hawk is writing it (pid {pid});")),
            "{refused}"
        );
        drop(lock);
        wait_for_release(&store);
        Lock::take(&store).unwrap();
    }

    #[test]
    fn a_shared_lock_is_released_when_both_descriptors_are_closed() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("hawk.db");
        let first = Lock::take(&store).unwrap();
        let shared = descriptor(&first);
        let second = Lock::adopt(shared, &store).unwrap();
        drop(first);
        let refused = Lock::take(&store).unwrap_err();
        assert!(matches!(refused, LockError::Held { .. }), "{refused}");
        // `sign` may be called repeatedly.
        std::fs::write(&second.path, "pid of another process\n").unwrap();
        (0..2).for_each(|_| second.sign().unwrap());
        let signed = std::fs::read_to_string(&second.path).unwrap();
        assert_eq!(signed, format!("pid {}\n", std::process::id()));
        // Another hand-over that is aborted.
        let shared = descriptor(&second);
        drop(Lock::adopt(shared, &store).unwrap());
        assert!(Lock::is_held(&store).unwrap());
        drop(second);
        wait_for_release(&store);
    }

    #[test]
    fn a_descriptor_that_is_not_the_stores_lock_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let [store, other] = ["hawk.db", "other.db"].map(|name| directory.path().join(name));
        let lock = Lock::take(&store).unwrap();
        let strange = Lock::take(&other).unwrap();
        let adopt = |lock: &Lock| Lock::adopt(descriptor(lock), &store).unwrap_err();
        assert!(matches!(adopt(&strange), LockError::Strange(path) if path == lock.path));
        // The right file, but a descriptor without the lock.
        let same = File::open(&lock.path).unwrap();
        let refused = Lock::adopt(same.into(), &store).unwrap_err();
        assert!(matches!(refused, LockError::Held { .. }), "{refused}");
        // The file is removed, and then replaced.
        std::fs::remove_file(&lock.path).unwrap();
        assert!(matches!(adopt(&lock), LockError::Strange(_)));
        let _placed = Lock::take(&store).unwrap();
        assert!(matches!(adopt(&lock), LockError::Strange(_)));
    }

    #[test]
    fn a_link_at_the_locks_path_is_neither_followed_nor_written_to() {
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
    fn a_lock_is_taken_again_after_its_file_was_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("hawk.db");
        let lock = Lock::take(&store).unwrap();
        fs::remove_file(&lock.path).unwrap();
        assert!(!lock.is_in_place());
        lock.renew().unwrap();
        assert!(lock.is_in_place() && Lock::is_held(&store).unwrap());
        lock.renew().unwrap();
        // Another server takes it first.
        fs::remove_file(&lock.path).unwrap();
        let other = Lock::take(&store).unwrap();
        let refused = lock.renew().unwrap_err();
        assert!(matches!(refused, LockError::Held { .. }), "{refused}");
        drop(other);
        lock.renew().unwrap();
        drop(lock);
        wait_for_release(&store);
    }

    #[test]
    fn the_error_names_a_missing_folder() {
        let refused = Lock::take(Path::new("/nowhere/hawk.db")).unwrap_err();
        assert!(
            refused.to_string().contains("/nowhere/hawk.db-lock"),
            "{refused}"
        );
    }
}
