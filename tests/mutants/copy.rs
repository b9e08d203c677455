//! A copy of the source in which every mutant sleeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

use super::table::{Change, Mutant, mutants};

/// The modules of the library that the worlds run; nothing else is compiled.
const MODULES: [&str; 14] = [
    "admission",
    "children",
    "dirty_set",
    "handler",
    "interval",
    "log_sink",
    "network",
    "notify",
    "reactor",
    "roster",
    "session",
    "stats",
    "store",
    "transfer",
];

/// The other crates that they need.
const CRATES: [&str; 3] = ["pool", "crates/time", "crates/wire"];

/// The test programs.
const PROGRAMS: [&str; 2] = ["tests/sim", "tests/worlds"];

/// Dependencies of other modules, which take long to compile.
const UNNEEDED: [&str; 10] = [
    "anstream",
    "anyhow",
    "bytesize",
    "clap",
    "csv",
    "env_logger",
    "hawk-client",
    "hawk-load",
    "nix",
    "tabwriter",
];

/// The crate in the copy that asks the environment once which mutant runs; 0: none.
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

/// Its manifest.
const MANIFEST_OF_THE_QUESTION: &str = "[package]\nname = \"hawk-mutant\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n";

/// The manifest of the part of `hawk-testkit` that the simulator needs.
const TESTKIT: &str = "[package]\nname = \"hawk-testkit\"\nversion = \"0.0.0\"\n\
    edition = \"2024\"\n\n[dependencies]\ncrc32fast.workspace = true\nmemchr.workspace = true\n\
    rustix.workspace = true\n";

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
    let sources = CRATES.map(|of| format!("{of}/src"));
    for folder in sources
        .iter()
        .map(String::as_str)
        .chain(["src"])
        .chain(PROGRAMS)
    {
        let _absent = fs::remove_dir_all(to.join(folder));
        copy_folder(&root.join(folder), &to.join(folder))?;
    }
    let mut testkit = "#![allow(warnings)]\n".to_owned();
    for module in ["reference", "worlds"] {
        let file = format!("crates/testkit/src/{module}.rs");
        put(&to.join(&file), &read(&root.join(&file))?)?;
        testkit += &format!("pub mod {module};\n");
    }
    put(&to.join("crates/testkit/src/lib.rs"), &testkit)?;
    put(&to.join("crates/testkit/Cargo.toml"), TESTKIT)?;
    for (file, mut changes) in changes {
        let mut text = read(&root.join(file))?;
        changes.extend(constant_functions(&text, &changes));
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
    put(
        &to.join("src/lib.rs"),
        &format!("#![allow(warnings)]\n{modules}"),
    )?;
    put(&to.join("mutant/src/lib.rs"), QUESTION)?;
    put(&to.join("mutant/Cargo.toml"), MANIFEST_OF_THE_QUESTION)?;
    for folder in CRATES {
        let manifest = Path::new(folder).join("Cargo.toml");
        let text = read(&root.join(&manifest))?;
        put(
            &to.join(&manifest),
            &asking(&text, &place_of_the_question(folder)),
        )?;
    }
    put(&to.join("Cargo.lock"), &read(&root.join("Cargo.lock"))?)?;
    let text = manifest(&read(&root.join("Cargo.toml"))?);
    let text = text.replacen(
        "\n[dependencies]",
        "\n[dependencies]\nhawk-testkit.workspace = true\ntempfile.workspace = true",
        1,
    );
    put(&to.join("Cargo.toml"), &asking(&text, "mutant"))
}

/// Changes that make the functions around these changes ordinary ones: a constant function
/// cannot ask which mutant runs.
fn constant_functions(
    text: &str,
    changes: &[(Range<usize>, String)],
) -> Vec<(Range<usize>, String)> {
    const WORD: &str = "const ";
    let functions = changes.iter().filter_map(|(place, _)| {
        let function = text[..place.start].rfind("fn ")?;
        text[..function].ends_with(WORD).then_some(function)
    });
    let functions: BTreeSet<_> = functions.collect();
    let words = functions
        .into_iter()
        .map(|function| function - WORD.len()..function);
    words.map(|word| (word, String::new())).collect()
}

/// `manifest`, with a dependency on the crate at `path` that asks which mutant runs.
fn asking(manifest: &str, path: &str) -> String {
    let dependency = format!("\n[dependencies]\nhawk-mutant = {{ path = \"{path}\" }}");
    manifest.replacen("\n[dependencies]", &dependency, 1)
}

/// The path from a crate's folder to that crate.
fn place_of_the_question(folder: &str) -> String {
    "../".repeat(Path::new(folder).components().count()) + "mutant"
}

/// The original and the mutant, and the question which of the two.
fn asked(mutant: &Mutant, number: usize) -> String {
    let question = format!("hawk_mutant::is({number})");
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
                "[workspace.package]",
                "[workspace.dependencies]",
                "[package]",
                "[dependencies]",
            ];
            keeps = kept.contains(&line);
        }
        let name = line.split([' ', '=', '.']).next().unwrap_or_default();
        if keeps && !UNNEEDED.contains(&name) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out + "[workspace]\nmembers = [\"pool\", \"crates/*\"]\nresolver = \"3\"\n[workspace.lints]\n[profile.mutants]\ninherits = \"release\"\nincremental = false\n\
         [profile.mutants.package.libsqlite3-sys]\nopt-level = 1\n"
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

fn put(path: &Path, text: &str) -> Result<(), String> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| told(folder, &error))?;
    }
    fs::write(path, text).map_err(|error| told(path, &error))
}

fn told(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
