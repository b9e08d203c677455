//! The control socket, as the commands that use it take it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;

use crate::server::CONTROL_SOCKET;

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
        self.path_or(Path::new(CONTROL_SOCKET))
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
