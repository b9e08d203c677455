//! Checks the dependency rule of `src/lib.rs`: which module may use which. Reads the source
//! text, because the compiler accepts any use within a crate.

#![allow(clippy::unwrap_used)] // The helpers below are tests too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module, the modules of this crate and its pool that it may use, and whether it may use
/// files, sockets, processes or JSON.
const RULE: &[(&str, &[&str])] = &[
    ("transfer", &[]),
    ("dirty_set", &[]),
    ("interval", &[]),
    ("network", &[]),
    ("admission", &["network"]),
    ("children", &["std::io", "std::process"]),
    (
        "notify",
        &[
            "children",
            "stats",
            "store",
            "std::io",
            "std::process",
            "serde",
            "serde_json",
        ],
    ),
    ("log_sink", &["std::io"]),
    ("session", &["interval", "stats"]),
    ("roster", &["dirty_set", "interval", "network", "transfer"]),
    (
        "handler",
        &[
            "network", "notify", "roster", "session", "stats", "store", "transfer",
        ],
    ),
    // The store aborts the process if its writer's thread panics.
    ("store", &["stats", "rusqlite", "std::io", "std::process"]),
    ("stats", &["hawk_pool"]),
    (
        "reactor",
        &[
            "hawk_pool",
            "admission",
            "dirty_set",
            "log_sink",
            "network",
            "session",
            "stats",
            "transfer",
            "mio",
            "std::net",
            "std::io",
        ],
    ),
    (
        "restart/snapshot",
        &["handler", "reactor", "roster", "session", "stats", "store"],
    ),
    ("peer_credentials", &["std::io"]),
    (
        "restart/channel",
        &["peer_credentials", "restart/snapshot", "std::io"],
    ),
    (
        "restart",
        &[
            "children",
            "handler",
            "peer_credentials",
            "reactor",
            "roster",
            "session",
            "stats",
            "store",
            "transfer",
            "std::io",
            "std::process",
        ],
    ),
    ("descriptors", &[]),
    ("control", &["peer_credentials", "mio", "std::io"]),
    ("service", &["std::net", "std::io"]),
    (
        "server",
        &[
            "admission",
            "children",
            "control",
            "descriptors",
            "handler",
            "log_sink",
            "notify",
            "reactor",
            "restart",
            "roster",
            "service",
            "session",
            "stats",
            "store",
            "std::io",
            "std::net",
        ],
    ),
    (
        "cli",
        &[
            "control",
            "descriptors",
            "handler",
            "log_sink",
            "restart",
            "roster",
            "server",
            "service",
            "stats",
            "store",
            "std::net",
            "std::io",
            "serde",
            "std::process",
            "serde_json",
        ],
    ),
];

/// What a module must be allowed by name; everything else is common ground.
const RULED: &[&str] = &[
    "hawk_pool",
    "mio",
    "rusqlite",
    "serde",
    "serde_json",
    "std::net",
    "std::io",
    "std::process",
];

#[test]
fn every_module_uses_only_allowed_modules() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut offences = Vec::new();
    for (module, allowed) in RULE {
        for file in files_of(&source, module) {
            let text = fs::read_to_string(&file).unwrap();
            for known in known_by(&text) {
                let top = known.split('/').next().unwrap_or(&known);
                let is_own = known == *module || top == *module;
                if !is_own && !allowed.contains(&known.as_str()) && !allowed.contains(&top) {
                    offences.push(format!("{} knows {known}", file.display()));
                }
            }
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn every_module_is_ruled() {
    let lib = include_str!("../src/lib.rs");
    let declared: BTreeSet<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let ruled: BTreeSet<&str> = RULE.iter().map(|(module, _)| *module).collect();
    assert!(declared.is_subset(&ruled), "{declared:?} {ruled:?}");
}

#[test]
fn the_pool_depends_on_nothing() {
    let manifest = include_str!("../pool/Cargo.toml");
    let (_, dependencies) = manifest.split_once("[dependencies]\n").unwrap();
    let own = dependencies.split("\n[").next().unwrap();
    assert_eq!(own.trim(), "");
}

#[test]
fn an_offence_would_be_seen() {
    let text = "use crate::reactor::Config;\n#[cfg(test)]\nmod tests {\n    use crate::stats;\n}\n";
    assert_eq!(known_by(text), BTreeSet::from(["reactor".to_owned()]));
    let text = "use crate::restart::channel::Line;\nuse crate::restart::Attempt;\n";
    let expected = ["restart", "restart/channel"].map(str::to_owned);
    assert_eq!(known_by(text), BTreeSet::from(expected));
    let text = "/// See crate::load.\nfn f(_: std::net::Ipv4Addr, _: serde_json::Value) {}\n";
    let expected = ["serde_json", "std::net"].map(str::to_owned);
    assert_eq!(known_by(text), BTreeSet::from(expected));
}

/// The source files of a module, its tests aside: these may use every module.
fn files_of(source: &Path, module: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![source.join(module), source.join(format!("{module}.rs"))];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.is_file() && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    found
}

/// The modules and ruled crates that a source text names outside its comments
/// and tests; a part of a module that has a rule of its own as `module/part`.
fn known_by(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    let mut known = BTreeSet::new();
    for line in code.lines() {
        let line = line.split("//").next().unwrap_or("");
        for (at, _) in line.match_indices("crate::") {
            let path: Vec<&str> = line[at + "crate::".len()..].splitn(3, "::").collect();
            let name = |text: &str| -> String {
                let is_name = |c: &char| c.is_ascii_lowercase() || *c == '_';
                text.chars().take_while(is_name).collect()
            };
            let module = name(path[0]);
            let part = path.get(1).map(|part| format!("{module}/{}", name(part)));
            let is_ruled = |part: &String| RULE.iter().any(|(ruled, _)| ruled == part);
            known.insert(part.filter(is_ruled).unwrap_or(module));
        }
        for ruled in RULED {
            let names_it = line.match_indices(&format!("{ruled}::")).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
            });
            if names_it && !is_plain_data(line) {
                known.insert((*ruled).to_owned());
            }
        }
    }
    known
}

/// An address in a `use` is a value like any other, and so is our own number.
fn is_plain_data(line: &str) -> bool {
    if line.contains("std::process::id()") {
        return true;
    }
    let imports = line.trim().strip_prefix("use std::net::");
    imports.is_some_and(|what| {
        let names = what.trim_end_matches(';').trim_matches(['{', '}']);
        let family = ['V', '4', '6'];
        names
            .split(", ")
            .all(|name| name.trim_end_matches(family).ends_with("Addr"))
    })
}
