//! Opening the file, for those who only read it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::store::OpenError;
use crate::store::location::{FileId, beside, resolve};
use crate::store::lock::Lock;
use crate::store::open::{LOCK_PATIENCE, check_tables, harden};
use crate::store::schema::{self, Fitness};

/// The file at `path`, which is followed if it is a symbolic link.
pub(in crate::store) fn file_id(path: &Path) -> Result<FileId, OpenError> {
    match fs::metadata(path) {
        Ok(found) => Ok(FileId::of(&found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            resolve(path)?;
            Err(OpenError::Missing(path.to_owned()))
        }
        Err(error) => Err(OpenError::File(path.to_owned(), error)),
    }
}

/// Opens the store at `path` without changing it.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let (connection, fitness) = match connect(path, OpenFlags::empty()) {
        Err(error) if wants_to_write(&error) => {
            let at_rest = is_at_rest(path)?;
            if !at_rest {
                return Err(OpenError::LogUnreadable(path.to_owned()));
            }
            connect(&unchanging(path), OpenFlags::SQLITE_OPEN_URI)
        }
        outcome => outcome,
    }
    .map_err(failed)?;
    check_tables(path, &connection, fitness)?;
    match fitness {
        Fitness::Ready => Ok(connection),
        Fitness::Empty => Err(OpenError::Empty(path.to_owned())),
        Fitness::Older(_) => Err(OpenError::Older(path.to_owned())),
        Fitness::Newer(found) => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known: schema::VERSION,
        }),
        Fitness::Foreign => Err(OpenError::Foreign(path.to_owned())),
    }
}

pub(in crate::store) fn connect(
    path: &Path,
    more: OpenFlags,
) -> rusqlite::Result<(Connection, Fitness)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags)?;
    harden(&connection)?;
    connection.busy_timeout(LOCK_PATIENCE)?;
    // Only now does SQLite read the file, and its log.
    let fitness = schema::examine(&connection)?;
    Ok((connection, fitness))
}

/// Even a reader writes, to the index of the log. SQLite refuses where it cannot
/// (<https://sqlite.org/wal.html>, "Read-Only Databases").
fn wants_to_write(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// Whether nobody writes the file and nothing is left in its log: then it is all
/// there is, and will not change.
fn is_at_rest(path: &Path) -> Result<bool, OpenError> {
    let failed = |error| OpenError::File(path.to_owned(), error);
    let log = match fs::metadata(beside(path, "-wal")) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(error)),
    };
    Ok(log == 0 && !Lock::is_held(path).map_err(failed)?)
}

/// The file, with the word that nobody changes it
/// (<https://sqlite.org/uri.html>, "immutable").
fn unchanging(path: &Path) -> PathBuf {
    let mut uri = b"file:".to_vec();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            // What has a meaning of its own in a URI.
            b'%' | b'?' | b'#' => uri.extend(format!("%{byte:02x}").bytes()),
            _ => uri.push(byte),
        }
    }
    uri.extend(b"?immutable=1");
    OsStr::from_bytes(&uri).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_as_an_uri() {
        let uri = unchanging(Path::new("a/50%?#.db"));
        assert_eq!(uri, Path::new("file:a/50%25%3f%23.db?immutable=1"));
    }
}
