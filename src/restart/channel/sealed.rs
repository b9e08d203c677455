//! A snapshot on its way: a file in memory that nobody can change any more.
//!
//! It is a memfd with all four seals (`memfd_create(2)`, `fcntl(2)`): who receives its
//! descriptor and finds them there knows that its length and its bytes will stay as they
//! are, whatever becomes of the process that wrote it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// No more seals; no fewer bytes, no more bytes, no other bytes.
const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// A file with its seals on.
#[derive(Debug)]
pub struct Sealed {
    file: File,
    length: u64,
}

/// Why a file is not taken as what it should be.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A seal is missing, or it is a file of another kind.
    #[error("the file with the state has not the seals it should have")]
    Seals,
    /// It is not as long as was said.
    #[error("the file with the state has {found} bytes, not {told}")]
    Length {
        /// How long it should be.
        told: u64,
        /// How long it is.
        found: u64,
    },
    /// It cannot be looked at or read.
    #[error("cannot read the file with the state")]
    Failed(#[from] io::Error),
}

impl Sealed {
    /// Writes `bytes` into a new file and seals it.
    ///
    /// # Errors
    /// What `memfd_create(2)` and `write(2)` say: too many files open, no memory.
    pub fn write(bytes: &[u8]) -> io::Result<Self> {
        // The name is for /proc alone.
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("hawk-snapshot", flags)?);
        file.write_all(bytes)?;
        fcntl_add_seals(&file, SEALS)?;
        Ok(Self {
            file,
            length: bytes.len() as u64,
        })
    }

    /// The file that another process has sent, which says that it has `length` bytes.
    ///
    /// # Errors
    /// [`SealError`] if it could still change, or has not that length.
    pub fn check(file: OwnedFd, length: u64) -> Result<Self, SealError> {
        // What is no file in memory has no seals, and says so.
        let seals = fcntl_get_seals(&file).map_err(|_| SealError::Seals)?;
        if !seals.contains(SEALS) {
            return Err(SealError::Seals);
        }
        let file = File::from(file);
        let (told, found) = (length, file.metadata()?.len());
        if told != found {
            return Err(SealError::Length { told, found });
        }
        Ok(Self { file, length })
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// All its bytes, in a buffer that is used again; it grows to that many.
    ///
    /// # Errors
    /// What `read(2)` says.
    pub fn read(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let length = usize::try_from(self.length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        buffer.resize(length, 0);
        // From its beginning, wherever the other process's writing has left off.
        self.file.read_exact_at(buffer, 0)
    }
}

/// To be sent.
impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn sent(sealed: &Sealed) -> OwnedFd {
        sealed.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_can_never_change() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let written = Sealed::write(&bytes).unwrap();
        let read = Sealed::check(sent(&written), 100_000).unwrap();
        let mut buffer = vec![7; 3];
        read.read(&mut buffer).unwrap();
        assert!(buffer == bytes);

        let mut file = File::from(sent(&written));
        assert!(file.write_all(b"more").is_err());
        assert!(file.write_at(b"other", 0).is_err());
        assert!(file.set_len(5).is_err());
        assert!(file.set_len(200_000).is_err());
        assert!(fcntl_add_seals(&file, SealFlags::FUTURE_WRITE).is_err());
        read.read(&mut buffer).unwrap();
        assert!(buffer == bytes);
    }

    #[test]
    fn a_file_that_could_still_change_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        for missing in SEALS.iter() {
            let file = memfd_create("missing", flags).unwrap();
            fcntl_add_seals(&file, SEALS.difference(missing)).unwrap();
            let refused = Sealed::check(file, 0).unwrap_err();
            assert!(matches!(refused, SealError::Seals), "{missing:?}");
        }
        let file = tempfile::tempfile().unwrap();
        let refused = Sealed::check(file.into(), 0).unwrap_err();
        assert!(matches!(refused, SealError::Seals));
        let pipe = OpenOptions::new().read(true).open("/dev/null").unwrap();
        assert!(Sealed::check(pipe.into(), 0).is_err());
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let written = Sealed::write(b"state").unwrap();
        for told in [0, 4, 6, u64::MAX] {
            let refused = Sealed::check(sent(&written), told).unwrap_err();
            assert!(matches!(refused, SealError::Length { found: 5, .. }));
        }
    }
}
