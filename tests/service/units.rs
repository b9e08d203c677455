//! The units that systemd gets.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use hawk_testkit::*;

/// Where the units have the binary.
const INSTALLED: &str = "/usr/local/bin/hawk";

/// Each unit's name and text.
fn units() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let files = fs::read_dir(folder).unwrap();
    let unit = |file: io::Result<fs::DirEntry>| {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        (name, fs::read_to_string(file.path()).unwrap())
    };
    files.map(unit).collect()
}

/// systemd's major version; `None`: it is not there.
fn version() -> Option<u32> {
    let told = Command::new("systemd-analyze").arg("--version").output();
    let told = told.ok()?.stdout;
    let text = String::from_utf8_lossy(&told).into_owned();
    text.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn systemd_understands_every_line_of_them() {
    let Some(version) = version() else {
        return skip("systemd-analyze is not there (Debian: systemd)");
    };
    let folder = tempfile::tempdir().unwrap();
    let units = units();
    for (name, text) in &units {
        let text = text.replace(INSTALLED, env!("CARGO_BIN_EXE_hawk"));
        fs::write(folder.path().join(name), text).unwrap();
    }
    for (name, text) in &units {
        if text.contains("Type=notify-reload") && version < 253 {
            continue;
        }
        let path = folder.path().join(name);
        let verify = Command::new("systemd-analyze")
            .arg("verify")
            .arg(&path)
            .output();
        let told = String::from_utf8_lossy(&verify.unwrap().stderr).into_owned();
        // It looks at units of this machine as well.
        let ours: Vec<_> = told.lines().filter(|line| line.contains(name)).collect();
        assert!(ours.is_empty(), "{ours:#?}");
    }
}

#[test]
fn the_services_run_in_a_sandbox() {
    if version().is_none() {
        return skip("systemd-analyze is not there (Debian: systemd)");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for (name, text) in units() {
        if !text.contains("[Service]") {
            continue;
        }
        // In tenths: an exposure of 2.0.
        let judged = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold=20"])
            .arg(folder.join(&name))
            .output()
            .unwrap();
        assert!(judged.status.success(), "{name}: {judged:?}");
        for line in ["UMask=0077", "StateDirectoryMode=0700"] {
            assert!(text.lines().any(|has| has == line), "{name}: no {line}");
        }
    }
}

#[test]
fn the_two_services_differ_only_in_how_they_reload() {
    let own = |wanted: &str| -> Vec<String> {
        let units = units();
        let (_, text) = units.iter().find(|(name, _)| name == wanted).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let [newer, older] = ["hawk.service", "hawk-notify.service"].map(own);
    let only = |one: &[String], other: &[String]| -> Vec<String> {
        let differ = one.iter().filter(|line| !other.contains(line));
        differ.cloned().collect()
    };
    assert_eq!(
        only(&newer, &older),
        ["Type=notify-reload", "ReloadSignal=SIGUSR2"]
    );
    assert_eq!(
        only(&older, &newer),
        ["Type=notify", "ExecReload=/bin/kill -USR2 $MAINPID"]
    );
}

#[test]
fn the_options_in_them_are_there() {
    for (name, text) in units() {
        for line in text.lines() {
            let Some(command) = line.strip_prefix("ExecStart=") else {
                continue;
            };
            let args = command.strip_prefix(INSTALLED).unwrap();
            let mut args: Vec<_> = args.split_whitespace().collect();
            args.push("--help");
            let exit = Launch::hawk(&args).run();
            assert_eq!(exit.code, Some(0), "{name}: {exit:?}");
        }
    }
}
