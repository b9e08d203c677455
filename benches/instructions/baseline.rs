//! The last counts, in a file, and the conditions under which they hold.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

/// Counts, by the operation's name.
pub(crate) struct Baseline {
    pub(crate) conditions: Conditions,
    pub(crate) counts: Vec<(String, f64)>,
}

/// Conditions that determine the counts. Checksums, searches and base64 choose their code
/// by the processor's features, of which valgrind emulates a part; compilers differ too.
#[derive(PartialEq, Eq)]
pub(crate) struct Conditions {
    features: String,
    compiler: String,
    valgrind: String,
}

/// The beginning of a line of conditions.
const FEATURES: &str = "# processor: ";
const COMPILER: &str = "# compiler: ";
const VALGRIND: &str = "# counted by: ";

impl Baseline {
    /// Reads the file. `None`: it does not exist.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Option<Self>> {
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| file.display().to_string())?,
        };
        let condition = |start| {
            let line = text.lines().find_map(|line| line.strip_prefix(start));
            line.unwrap_or_default().to_owned()
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let counts = lines.map(|line| {
            let (count, name) = line.trim().split_once(' ').context("no name")?;
            Ok((name.trim().to_owned(), count.parse()?))
        });
        Ok(Some(Self {
            conditions: Conditions {
                features: condition(FEATURES),
                compiler: condition(COMPILER),
                valgrind: condition(VALGRIND),
            },
            counts: counts
                .collect::<anyhow::Result<_>>()
                .with_context(|| format!("{} is damaged", file.display()))?,
        }))
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let Conditions {
            features,
            compiler,
            valgrind,
        } = &self.conditions;
        let mut text = format!(
            "# Instructions of each operation: make bench-instructions UPDATE=1\n\
             {FEATURES}{features}\n{COMPILER}{compiler}\n{VALGRIND}{valgrind}\n"
        );
        for (name, count) in &self.counts {
            text += &format!("{count:>9.1} {name}\n");
        }
        fs::write(file, text).with_context(|| file.display().to_string())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.counts.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn count(&self, name: &str) -> Option<f64> {
        let mut counts = self.counts.iter();
        counts.find(|(it, _)| it == name).map(|(_, count)| *count)
    }
}

impl Conditions {
    pub(crate) fn here() -> anyhow::Result<Self> {
        Ok(Self {
            features: first_line(
                Command::new("valgrind")
                    .args(["--tool=none", "-q"])
                    .arg(std::env::current_exe()?)
                    .arg("--features"),
            )?,
            compiler: first_line(Command::new("rustc").arg("--version"))?,
            valgrind: first_line(Command::new("valgrind").arg("--version"))?,
        })
    }
}

impl Display for Conditions {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            features,
            compiler,
            valgrind,
        } = self;
        write!(f, "{compiler}, {valgrind}, {features}")
    }
}

/// Returns the first line of a program's output.
fn first_line(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Returns the features by which libraries choose their code, and the C library.
pub(crate) fn features() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("ssse3", is_x86_feature_detected!("ssse3")),
            ("sse4.1", is_x86_feature_detected!("sse4.1")),
            ("sse4.2", is_x86_feature_detected!("sse4.2")),
            ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
            ("avx2", is_x86_feature_detected!("avx2")),
            ("bmi2", is_x86_feature_detected!("bmi2")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
            ("vpclmulqdq", is_x86_feature_detected!("vpclmulqdq")),
        ];
        let found = known.iter().filter(|(_, is_there)| *is_there);
        let names: Vec<_> = found.map(|(name, _)| *name).collect();
        format!("x86_64 {}", names.join(" "))
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        std::env::consts::ARCH.to_owned()
    }
}
