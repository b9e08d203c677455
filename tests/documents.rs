//! The documents name what exists: links and anchors resolve, paths in backticks are files of
//! the repository, and each step of docs/life-of-a-report.md names a function of its file.

#![allow(clippy::unwrap_used)] // The helpers below are tests too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const LIFE_OF_A_REPORT: &str = "docs/life-of-a-report.md";

/// Folders at the root of the repository that a path in backticks may begin with.
const FOLDERS: &[&str] = &[
    ".cargo", ".ci", "benches", "crates", "docs", "examples", "fuzz", "pool", "src", "systemd",
    "tests",
];

/// Test programs with modules that docs/limits.md abbreviates: `server/pool` stands for
/// `tests/server/pool.rs`.
const ABBREVIATED: &[&str] = &["server", "limits", "upgrade"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the repository, relative to its root; build output is left out.
fn files() -> Vec<PathBuf> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !matches!(name, ".git" | "target" | "tmp") {
                    walk(&path, root, found);
                }
            } else {
                found.push(path.strip_prefix(root).unwrap().to_path_buf());
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &root(), &mut found);
    found.sort();
    found
}

/// The documents by path, their code blocks blanked out, line by line.
fn documents() -> BTreeMap<String, Vec<String>> {
    let mut documents = BTreeMap::new();
    let names = files();
    let names = names.iter().map(|path| path.to_str().unwrap());
    for name in names.filter(|name| name.ends_with(".md")) {
        if !name.contains('/') || name.starts_with("docs/") {
            documents.insert(name.to_owned(), prose(name));
        }
    }
    assert!(documents.len() > 10, "{documents:?}");
    documents
}

fn prose(name: &str) -> Vec<String> {
    let mut within_block = false;
    let mut lines = Vec::new();
    for line in fs::read_to_string(root().join(name)).unwrap().lines() {
        let fence = line.trim_start().starts_with("```");
        lines.push(if fence || within_block {
            String::new()
        } else {
            line.to_owned()
        });
        within_block ^= fence;
    }
    assert!(!within_block, "{name}: a code block does not end");
    lines
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(lines: &[String]) -> Vec<String> {
    let mut anchors = Vec::new();
    for line in lines.iter().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let mut anchor = String::new();
        for character in heading.chars() {
            match character {
                ' ' => anchor.push('-'),
                '-' | '_' => anchor.push(character),
                _ if character.is_alphanumeric() => anchor.push(character),
                _ => {}
            }
        }
        let before = anchors.iter().filter(|other| **other == anchor).count();
        if before > 0 {
            write!(anchor, "-{before}").unwrap();
        }
        anchors.push(anchor);
    }
    anchors
}

/// The texts between single backticks of a line.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// The targets of a line's Markdown links. Text in backticks holds none.
fn links(line: &str) -> Vec<String> {
    let plain = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
    let mut targets = Vec::new();
    for after in plain.split("](").skip(1) {
        targets.push(after.split(')').next().unwrap().to_owned());
    }
    targets
}

#[test]
fn links_and_anchors_resolve() {
    let documents = documents();
    let mut wrong = String::new();
    let mut checked = 0;
    for (name, lines) in &documents {
        for (number, line) in lines.iter().enumerate() {
            for link in links(line) {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                checked += 1;
                let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
                let mut target = PathBuf::from(name);
                if !path.is_empty() {
                    target.pop();
                    for part in path.split('/') {
                        match part {
                            ".." => assert!(target.pop(), "{name}: {link}"),
                            part => target.push(part),
                        }
                    }
                }
                let found = root().join(&target).exists()
                    && (anchor.is_empty()
                        || documents
                            .get(target.to_str().unwrap())
                            .is_some_and(|lines| anchors(lines).iter().any(|it| it == anchor)));
                if !found {
                    writeln!(wrong, "{name}:{}: {link}", number + 1).unwrap();
                }
            }
        }
    }
    assert!(checked > 100, "only {checked} links");
    assert!(wrong.is_empty(), "these links lead nowhere:\n{wrong}");
}

#[test]
fn paths_in_backticks_exist() {
    let files = files();
    let is_suffix = |path: &str| files.iter().any(|file| file.ends_with(path));
    let mut wrong = String::new();
    let mut checked = 0;
    // A changelog names files of its time.
    for (name, lines) in documents()
        .iter()
        .filter(|(name, _)| *name != "CHANGELOG.md")
    {
        for (number, line) in lines.iter().enumerate() {
            for text in quoted(line) {
                if text.contains([' ', '*', '$', '<', '…', '(']) || text.contains("::") {
                    continue;
                }
                // A line number is no part of the path.
                let path = text.split(':').next().unwrap();
                let first = path.split('/').next().unwrap();
                let is_source = Path::new(path).extension().is_some_and(|it| it == "rs");
                let exists = if FOLDERS.contains(&first) && path.contains('/') {
                    root().join(path).exists()
                } else if is_source {
                    is_suffix(path)
                } else if name == "docs/limits.md"
                    && ABBREVIATED.contains(&first)
                    && path.contains('/')
                {
                    root().join("tests").join(format!("{path}.rs")).exists()
                } else {
                    continue;
                };
                checked += 1;
                if !exists {
                    writeln!(wrong, "{name}:{}: {text}", number + 1).unwrap();
                }
            }
        }
    }
    assert!(checked > 100, "only {checked} paths");
    assert!(wrong.is_empty(), "these paths do not exist:\n{wrong}");
}

/// A step is "`path/file.rs`: `function`".
#[test]
fn steps_of_a_report_name_functions_that_exist() {
    let text = prose(LIFE_OF_A_REPORT).join(" ");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut wrong = String::new();
    let mut steps = 0;
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(".rs`: `") {
        let path = format!("{}.rs", before.rsplit('`').next().unwrap());
        let (function, after) = after.split_once('`').unwrap();
        steps += 1;
        if !defines(&path, function) {
            writeln!(wrong, "{path} does not define {function}").unwrap();
        }
        rest = after;
    }
    assert!(steps > 20, "only {steps} steps");
    assert!(wrong.is_empty(), "{LIFE_OF_A_REPORT}:\n{wrong}");
}

fn defines(path: &str, function: &str) -> bool {
    let text = fs::read_to_string(root().join(path)).unwrap_or_default();
    ["(", "<"]
        .map(|end| format!("fn {function}{end}"))
        .iter()
        .any(|it| text.contains(it))
}
