//! A copy of the source in which every mutant sleeps.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::table::{Change, Mutant, mutants};

/// What the simulator needs of the library; nothing else is compiled.
const MODULES: [&str; 11] = [
    "admission",
    "interval",
    "log_sink",
    "network",
    "reactor",
    "session",
    "stats",
    "throttle",
    "time",
    "wheel",
    "wire",
];

/// Worlds of the simulator that run other modules, which take long to compile.
const OTHER_WORLDS: [&str; 2] = ["dishonest", "notified"];

/// Dependencies of other modules, which take long to compile.
const UNNEEDED: [&str; 10] = [
    "anstream",
    "anyhow",
    "bytesize",
    "clap",
    "csv",
    "env_logger",
    "hdrhistogram",
    "indicatif",
    "rusqlite",
    "tabwriter",
];

/// Asks the environment once which mutant runs; 0: none.
const QUESTION: &str = r#"//! Which mutant runs.
use std::sync::LazyLock;

static MUTANT: LazyLock<u32> = LazyLock::new(|| {
    std::env::var("HAWK_MUTANT").map_or(0, |number| number.parse().expect("a number"))
});

/// Whether it is this one.
#[must_use]
pub fn is(number: u32) -> bool {
    *MUTANT == number
}
"#;

/// Where each mutant's original stands.
pub fn places(root: &Path) -> Vec<Result<Range<usize>, String>> {
    let place = |mutant: &Mutant| {
        let text = fs::read_to_string(root.join(mutant.file)).map_err(|error| error.to_string())?;
        let mut places = text.match_indices(mutant.original);
        match (places.next(), places.count()) {
            (Some((start, found)), 0) => Ok(start..start + found.len()),
            (first, more) => Err(format!(
                "mutant {:?}: its original stands {} times in {}, not once; bring \
                 tests/mutants/table up to date: {}",
                mutant.name,
                usize::from(first.is_some()) + more,
                mutant.file,
                mutant.original,
            )),
        }
    };
    mutants().map(place).collect()
}

/// Writes the copy to `to`.
pub fn write(root: &Path, to: &Path) -> Result<(), String> {
    let mut changes: BTreeMap<&str, Vec<(Range<usize>, String)>> = BTreeMap::new();
    for (index, (mutant, place)) in mutants().zip(places(root)).enumerate() {
        let change = changes.entry(mutant.file).or_default();
        change.push((place?, asked(mutant, index + 1)));
    }
    for folder in ["src", "pool/src", "tests/sim"] {
        let _absent = fs::remove_dir_all(to.join(folder));
        copy_folder(&root.join(folder), &to.join(folder))?;
    }
    let worlds = "tests/sim/main.rs";
    let mut simulator = read(&root.join(worlds))?;
    for world in OTHER_WORLDS {
        simulator = simulator.replace(&format!("mod {world};\n"), "");
    }
    put(&to.join(worlds), &simulator)?;
    let (support, reference) = ("tests/support", "tests/support/reference.rs");
    fs::create_dir_all(to.join(support)).map_err(|error| told(&to.join(support), &error))?;
    put(&to.join(reference), &read(&root.join(reference))?)?;
    for (file, mut changes) in changes {
        let mut text = read(&root.join(file))?;
        changes.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
        let mut end = text.len();
        for (place, change) in changes {
            assert!(place.end <= end, "two mutants overlap in {file}");
            end = place.start;
            text.replace_range(place, &change);
        }
        put(&to.join(file), &text)?;
    }
    let modules: String = MODULES
        .iter()
        .map(|name| format!("pub mod {name};\n"))
        .collect();
    let library = format!("#![allow(warnings)]\npub use hawk_pool::mutant;\n{modules}");
    put(&to.join("src/lib.rs"), &library)?;
    put(&to.join("pool/src/mutant.rs"), QUESTION)?;
    let pool = read(&root.join("pool/src/lib.rs"))?;
    put(&to.join("pool/src/lib.rs"), &(pool + "\npub mod mutant;\n"))?;
    put(
        &to.join("pool/Cargo.toml"),
        &read(&root.join("pool/Cargo.toml"))?,
    )?;
    put(&to.join("Cargo.lock"), &read(&root.join("Cargo.lock"))?)?;
    put(
        &to.join("Cargo.toml"),
        &manifest(&read(&root.join("Cargo.toml"))?),
    )
}

/// The original and the mutant, and the question which of the two.
fn asked(mutant: &Mutant, number: usize) -> String {
    let question = format!("crate::mutant::is({number})");
    let original = mutant.original;
    match mutant.change {
        Change::Expression(other) => format!("(if {question} {{ {other} }} else {{ {original} }})"),
        Change::Statement(other) => format!("if {question} {{ {other} }} else {{ {original} }}"),
        Change::Text(text) => text.replace("MUTANT", &question),
    }
}

/// The manifest without what the simulator does not need.
fn manifest(text: &str) -> String {
    let mut out = String::new();
    let mut keeps = true;
    for line in text.lines() {
        if line.starts_with('[') {
            let kept = [
                "[workspace]",
                "[workspace.package]",
                "[package]",
                "[dependencies]",
            ];
            keeps = kept.contains(&line);
        }
        let name = line.split([' ', '=']).next().unwrap_or_default();
        if keeps && !UNNEEDED.contains(&name) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out + "[workspace.lints]\n[profile.mutants]\ninherits = \"release\"\nincremental = false\n"
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), String> {
    fs::create_dir_all(to).map_err(|error| told(to, &error))?;
    for entry in fs::read_dir(from).map_err(|error| told(from, &error))? {
        let path = entry.map_err(|error| told(from, &error))?.path();
        let name = path.file_name().unwrap_or_default();
        if name == "main.rs" && from.ends_with("src") {
            continue;
        }
        if path.is_dir() {
            copy_folder(&path, &to.join(name))?;
        } else {
            put(&to.join(name), &read(&path)?)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| told(path, &error))
}

fn put(path: &PathBuf, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| told(path, &error))
}

fn told(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
