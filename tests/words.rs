//! Comments and documents name the subjects of their sentences: pronouns and phrases that
//! stand for an unnamed one are rare in them (CONTRIBUTING.md, Style).

#![allow(clippy::unwrap_used)] // The helpers below are tests too.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Most of these words and phrases in 1,000 lines of comments.
const MOST_IN_COMMENTS: usize = 2;
/// The same for documents, their code blocks aside.
const MOST_IN_DOCUMENTS: usize = 2;

const WORDS: &[&str] = &[
    "who",
    "whose",
    "whom",
    "whoever",
    "somebody",
    "nobody",
    "anybody",
    "everybody",
];
const PHRASES: &[&[&str]] = &[
    &["those", "who"],
    &["those", "which"],
    &["the", "one", "that"],
    &["nothing", "but"],
];

/// A file's prose: lines with their numbers, from 1 on.
type Prose = Vec<(usize, String)>;

/// All files with this extension below `folder`; build output is left out.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = path.file_name().unwrap().to_str().unwrap();
            if !matches!(name, ".git" | "target" | "tmp") {
                files(&path, extension, found);
            }
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
}

/// The comments of a Rust source. A line with a quotation mark before its `//` has none.
fn comments(source: &str) -> Prose {
    let mut comments = Prose::new();
    for (number, line) in source.lines().enumerate() {
        let Some((code, comment)) = line.split_once("//") else {
            continue;
        };
        if !code.contains('"') && (code.is_empty() || code.ends_with(char::is_whitespace)) {
            comments.push((number + 1, comment.to_owned()));
        }
    }
    comments
}

/// The lines of a Markdown document outside of its code blocks.
fn text(document: &str) -> Prose {
    let mut within_block = false;
    let mut lines = Prose::new();
    for (number, line) in document.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            within_block = !within_block;
        } else if !within_block {
            lines.push((number + 1, line.to_owned()));
        }
    }
    lines
}

/// The numbers of the lines on which a word or phrase begins, with it.
fn found(prose: &Prose) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    for (number, line) in prose {
        let line = line.to_lowercase();
        for word in line.split(|it: char| !it.is_alphanumeric() && it != '_') {
            if !word.is_empty() {
                words.push((*number, word.to_owned()));
            }
        }
    }
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((number, word)) = words.get(at) {
        let phrase = PHRASES.iter().find(|phrase| {
            words[at..].len() >= phrase.len()
                && phrase
                    .iter()
                    .zip(&words[at..])
                    .all(|(it, (line, word))| it == word && line - number < phrase.len())
        });
        if let Some(phrase) = phrase {
            found.push((*number, phrase.join(" ")));
            at += phrase.len();
        } else {
            if WORDS.contains(&word.as_str()) {
                found.push((*number, word.clone()));
            }
            at += 1;
        }
    }
    found
}

fn check(extension: &str, most: usize, prose: fn(&str) -> Prose) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files(root, extension, &mut paths);
    paths.sort();
    let (mut lines, mut count, mut list) = (0, 0, String::new());
    for path in paths {
        let prose = prose(&fs::read_to_string(&path).unwrap());
        lines += prose.len();
        for (number, word) in found(&prose) {
            let path = path.strip_prefix(root).unwrap().display();
            writeln!(list, "{path}:{number}: {word}").unwrap();
            count += 1;
        }
    }
    assert!(lines > 1000, "only {lines} lines");
    assert!(
        count * 1000 <= most * lines,
        "{count} in {lines} lines, at most {most} in 1,000 lines may be; \
         name the subject of the sentence instead:\n{list}"
    );
}

#[test]
fn comments_name_their_subjects() {
    check("rs", MOST_IN_COMMENTS, comments);
}

#[test]
fn documents_name_their_subjects() {
    check("md", MOST_IN_DOCUMENTS, text);
}

#[test]
fn words_and_phrases_are_found_across_lines() {
    let lines = [
        "Whoever reads this, and those",
        "who do not. The one that was, nothing but trouble.",
        "The whole, a whoop.",
    ];
    let mut source = lines.map(|line| format!("// {line}\n")).concat();
    source += "let address = \"http://who\"; // Nobody, and not counted.\n";
    let expected = [
        (1, "whoever"),
        (1, "those who"),
        (2, "the one that"),
        (2, "nothing but"),
    ];
    let expected = expected.map(|(line, word)| (line, word.to_owned()));
    assert_eq!(found(&comments(&source)), expected);
}
