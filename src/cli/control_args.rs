//! The control socket, as the commands that use it take it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use rustix::process::geteuid;

/// The control socket of the systemd unit.
const UNIT: &str = "/run/hawk/control";

/// The control socket of a server.
#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// The control socket of the server [default: /run/hawk/control, that of the systemd
    /// unit, where it exists]
    #[arg(long, env = "HAWK_CONTROL", value_name = "PATH")]
    control: Option<PathBuf>,
}

impl ControlArgs {
    pub(super) fn path(&self) -> anyhow::Result<PathBuf> {
        self.path_or(Path::new(UNIT))
    }

    fn path_or(&self, unit: &Path) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.control {
            return Ok(path.clone());
        }
        match fs::symlink_metadata(unit) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "there is no {}; give --control PATH, the control socket of the server",
                unit.display()
            ),
            // Connecting reports any other error.
            _ => Ok(unit.to_owned()),
        }
    }
}

/// The control socket of a server for which none is given: the unit's, if its folder is
/// there and is this user's own.
pub(super) fn default_for_server() -> Option<PathBuf> {
    let unit = PathBuf::from(UNIT);
    let folder = unit
        .parent()
        .and_then(|folder| fs::symlink_metadata(folder).ok())?;
    (folder.is_dir() && folder.uid() == geteuid().as_raw()).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_socket_is_the_default_where_it_exists() {
        let folder = tempfile::tempdir().unwrap();
        let unit = folder.path().join("control");
        let given = |control: Option<&str>| ControlArgs {
            control: control.map(PathBuf::from),
        };
        let missing = given(None).path_or(&unit).unwrap_err().to_string();
        assert!(missing.contains("give --control PATH"), "{missing}");
        fs::write(&unit, "").unwrap();
        assert_eq!(given(None).path_or(&unit).unwrap(), unit);
        assert_eq!(given(Some("x")).path_or(&unit).unwrap(), Path::new("x"));
    }
}
