//! A snapshot in transit: a file in memory that no process can change.
//!
//! A memfd with all four seals (`memfd_create(2)`, `fcntl(2)`). The receiver checks the seals:
//! then length and bytes are final, whatever the sender does.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// Against further seals, and against fewer, more and other bytes.
const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// A sealed file.
#[derive(Debug)]
pub struct SealedFile {
    file: File,
    length: u64,
}

/// Why a received file is refused.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A seal is missing, or the file is of another type.
    #[error("the file with the state lacks a seal")]
    Seals,
    /// The length differs from the one in the message.
    #[error("the file with the state has {found} bytes, not {claimed}")]
    Length {
        /// The length in the message.
        claimed: u64,
        /// The length of the file.
        found: u64,
    },
    /// The file cannot be read.
    #[error("cannot read the file with the state")]
    Failed(#[from] io::Error),
}

impl SealedFile {
    /// Creates a sealed file with these `bytes`.
    ///
    /// # Errors
    /// The error of `memfd_create(2)` or `write(2)`.
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

    /// Checks a received file against the `length` in its message.
    ///
    /// # Errors
    /// [`SealError`] if a seal is missing or the length differs.
    pub fn check(file: OwnedFd, length: u64) -> Result<Self, SealError> {
        // fcntl(2) fails for a file of another type.
        let seals = fcntl_get_seals(&file).map_err(|_| SealError::Seals)?;
        if !seals.contains(SEALS) {
            return Err(SealError::Seals);
        }
        let file = File::from(file);
        let (claimed, found) = (length, file.metadata()?.len());
        if claimed != found {
            return Err(SealError::Length { claimed, found });
        }
        Ok(Self { file, length })
    }

    /// Returns the length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Reads the whole file into `buffer`, which the caller reuses.
    ///
    /// # Errors
    /// The error of `read(2)`.
    pub fn read(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let length = usize::try_from(self.length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        buffer.resize(length, 0);
        // From the beginning: the sender's writes moved the shared offset.
        self.file.read_exact_at(buffer, 0)
    }
}

impl AsFd for SealedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn sent(sealed: &SealedFile) -> OwnedFd {
        sealed.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_sealed_file_is_read_as_written_and_cannot_change() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let written = SealedFile::write(&bytes).unwrap();
        let read = SealedFile::check(sent(&written), 100_000).unwrap();
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
            let refused = SealedFile::check(file, 0).unwrap_err();
            assert!(matches!(refused, SealError::Seals), "{missing:?}");
        }
        let file = tempfile::tempfile().unwrap();
        let refused = SealedFile::check(file.into(), 0).unwrap_err();
        assert!(matches!(refused, SealError::Seals));
        let pipe = OpenOptions::new().read(true).open("/dev/null").unwrap();
        assert!(SealedFile::check(pipe.into(), 0).is_err());
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let written = SealedFile::write(b"state").unwrap();
        for told in [0, 4, 6, u64::MAX] {
            let refused = SealedFile::check(sent(&written), told).unwrap_err();
            assert!(matches!(refused, SealError::Length { found: 5, .. }));
        }
    }
}
