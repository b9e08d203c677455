//! The environment: variables for options, and `RUST_LOG`.
//!
//! An empty variable counts as unset. An error in a variable's value names the variable. An
//! unknown variable with the prefix of hawk is reported, with the most similar known one.

use std::collections::BTreeSet;
use std::env::{self, VarError};
use std::ffi::OsStr;

use clap::builder::{OsStr as Id, Resettable};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgMatches, Command, CommandFactory as _};
use env_logger::{Builder, DEFAULT_FILTER_ENV as RUST_LOG, DEFAULT_WRITE_STYLE_ENV as STYLE, Env};
use log::LevelFilter;

use super::Cli;
use crate::restart::SUCCESSOR;

/// The prefix of hawk's variables.
const PREFIX: &str = "HAWK_";

/// The prefix of variables of the project's tests.
const TESTS: &str = "HAWK_TEST_";

/// Variables without an option: for a successor, and for the tests of hand-overs.
const WITHOUT_OPTION: [&str; 2] = [SUCCESSOR, "HAWK_FAULT"];

/// The least similarity, from 0 to 1, of a misspelt name (Jaro-Winkler, without the common
/// prefix).
const SIMILAR: f64 = 0.75;

/// Returns the command of clap, without empty variables.
pub(super) fn command() -> Command {
    edit(Cli::command(), &|arg| {
        let is_empty = arg.get_env().is_some_and(|name| !is_set(name));
        if is_empty { without_variable(arg) } else { arg }
    })
}

/// Parses the command line and the environment. Ends the process for an invalid one (2), and for
/// `--help` and `--version` (0).
pub(super) fn parse() -> ArgMatches {
    match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => name_variable(error).exit(),
    }
}

/// Returns a line for each unknown variable with hawk's prefix.
pub(super) fn unknown_variables() -> Vec<String> {
    let names = env::vars_os().filter(|(_, value)| !value.is_empty());
    let names = names.map(|(name, _)| name.to_string_lossy().into_owned());
    unknown(names, &known())
}

fn unknown(names: impl Iterator<Item = String>, known: &BTreeSet<String>) -> Vec<String> {
    let foreign = names.filter(|name| {
        name.starts_with(PREFIX) && !name.starts_with(TESTS) && !known.contains(name)
    });
    let line = |name: String| {
        let hint = nearest(&name, known).map(|near| format!("; did you mean {near}?"));
        let hint = hint.unwrap_or_default();
        format!("the environment variable {name:?} is not known and has no effect{hint}")
    };
    foreign.map(line).collect()
}

fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let likeness = |other: &str| strsim::jaro_winkler(rest(name), rest(other));
    let options = known
        .iter()
        .filter(|known| !WITHOUT_OPTION.contains(&known.as_str()));
    let rated = options.map(|known| (likeness(known), known.as_str()));
    let (likeness, nearest) = rated.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (likeness >= SIMILAR).then_some(nearest)
}

fn rest(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Returns the names of all known variables.
fn known() -> BTreeSet<String> {
    let command = Cli::command();
    let options = all_arguments(&command).into_iter().filter_map(Arg::get_env);
    let options = options.map(|name| name.to_string_lossy().into_owned());
    options.chain(WITHOUT_OPTION.map(str::to_owned)).collect()
}

fn all_arguments(command: &Command) -> Vec<&Arg> {
    let own = command.get_arguments();
    let others = command.get_subcommands().flat_map(all_arguments);
    own.chain(others).collect()
}

/// Adds the variable to the error if its value is the cause.
fn name_variable(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg).cloned() else {
        return error;
    };
    let mut command = command();
    // An argument can be displayed only once its command is built.
    command.build();
    let blamed = all_arguments(&command).into_iter().find_map(|arg| {
        let name = arg.get_env()?;
        (arg.to_string() == option && is_set(name) && is_to_blame(name, &error))
            .then(|| name.to_string_lossy().into_owned())
    });
    if let Some(name) = blamed {
        let text = format!("{option} (environment variable {name})");
        error.insert(ContextKind::InvalidArg, ContextValue::String(text));
    }
    error
}

/// Returns whether the error disappears without the variable.
fn is_to_blame(name: &OsStr, error: &clap::Error) -> bool {
    let without = edit(command(), &|arg| {
        if arg.get_env() == Some(name) {
            without_variable(arg)
        } else {
            arg
        }
    });
    let option = |error: &clap::Error| error.get(ContextKind::InvalidArg).cloned();
    match without.try_get_matches() {
        Ok(_) => true,
        Err(other) => (other.kind(), option(&other)) != (error.kind(), option(error)),
    }
}

fn is_set(name: &OsStr) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty())
}

fn without_variable(arg: Arg) -> Arg {
    arg.env(Resettable::<Id>::Reset)
}

/// Changes every argument of a command and of its subcommands.
fn edit(command: Command, change: &impl Fn(Arg) -> Arg) -> Command {
    let command = command.mut_args(change);
    command.mut_subcommands(|subcommand| edit(subcommand, change))
}

/// The level without `RUST_LOG`.
const DEFAULT_LEVEL: &str = "info";

/// The filter of log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogLevel {
    /// In the form of `RUST_LOG`.
    pub(super) filter: String,
    /// Whether the filter is from `RUST_LOG`.
    pub(super) is_given: bool,
    /// Why `RUST_LOG` is not used; `None` if it is used or unset.
    pub(super) complaint: Option<String>,
}

impl LogLevel {
    /// Returns the filter in `RUST_LOG`, or the default if that is invalid.
    pub(super) fn from_env() -> Self {
        match env::var(RUST_LOG) {
            Ok(text) => Self::parse(&text),
            Err(VarError::NotPresent) => Self::default(),
            Err(VarError::NotUnicode(text)) => {
                let complaint = format!("it is not UTF-8 text: {text:?}");
                Self::refused(&complaint)
            }
        }
    }

    /// Returns a logger with this filter.
    pub(super) fn logger(&self) -> Builder {
        let mut logger = Builder::new();
        logger.parse_env(Env::new().filter("").write_style(STYLE));
        logger.parse_filters(&self.filter);
        logger
    }

    fn parse(text: &str) -> Self {
        if text.trim().is_empty() {
            return Self::default();
        }
        let directives = text
            .split_once('/')
            .map_or(text, |(directives, _)| directives);
        let mut wrong = directives
            .split(',')
            .filter(|directive| !is_valid(directive.trim()));
        match wrong.next() {
            None if text.matches('/').count() > 1 => Self::refused("it has more than one \"/\""),
            None => Self {
                filter: text.to_owned(),
                is_given: true,
                complaint: None,
            },
            Some(wrong) => Self::refused(&format!(
                "{wrong:?} is neither a level (off, error, warn, info, debug, trace) nor \
                 TARGET=LEVEL nor a part of hawk"
            )),
        }
    }

    fn refused(why: &str) -> Self {
        let complaint = format!("{RUST_LOG} is not used, and the level is {DEFAULT_LEVEL}: {why}");
        Self {
            complaint: Some(complaint),
            ..Self::default()
        }
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self {
            filter: DEFAULT_LEVEL.to_owned(),
            is_given: false,
            complaint: None,
        }
    }
}

/// Returns whether a directive is a level or has a known target. env_logger takes any word for
/// the name of a module: a misspelt level would switch the log off.
fn is_valid(directive: &str) -> bool {
    let is_level = |text: &str| text.trim().parse::<LevelFilter>().is_ok();
    match directive.split_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level),
        None => {
            let is_ours = directive == "hawk" || directive.starts_with("hawk::");
            directive.is_empty() || is_level(directive) || is_ours
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_misspelt_variable_is_reported_with_the_nearest_one() {
        let known = known();
        let told = |name: &str| unknown(std::iter::once(name.to_owned()), &known);
        for (name, near) in [
            ("HAWK_STOR", "HAWK_STORE"),
            ("HAWK_LISTEN_ADDRESS", "HAWK_LISTEN"),
            ("HAWK_IDLE_TIME", "HAWK_IDLE_TIMEOUT"),
            ("HAWK_ONEVENT", "HAWK_ON_EVENT"),
        ] {
            let lines = told(name);
            let expected =
                format!("\"{name}\" is not known and has no effect; did you mean {near}?");
            assert!(
                lines.len() == 1 && lines[0].ends_with(&expected),
                "{lines:?}"
            );
        }
        assert!(told("HAWK_XYZZY")[0].ends_with("has no effect"));
        for name in ["HAWK_STORE", "HAWK_TEST_STORE", "HOME", SUCCESSOR] {
            assert!(told(name).is_empty(), "{name}");
        }
    }

    #[test]
    fn a_valid_filter_is_used() {
        for text in [
            "warn",
            "DEBUG",
            "off",
            "hawk=debug",
            "hawk",
            "hawk::stats",
            "warn,hawk::stats=info",
            "mio=trace, info",
            "info/junk",
        ] {
            let level = LogLevel::parse(text);
            assert_eq!((level.filter.as_str(), level.complaint), (text, None));
        }
    }

    #[test]
    fn an_invalid_filter_is_replaced_by_the_default_with_a_complaint() {
        for text in [
            "infos",
            "warning",
            "hawk=infos",
            "hawk=",
            "=info",
            "info/a/b",
            "warn,deb",
        ] {
            let level = LogLevel::parse(text);
            assert_eq!(level.filter, DEFAULT_LEVEL, "{text}");
            assert!(
                level.complaint.is_some_and(|why| why.contains(RUST_LOG)),
                "{text}"
            );
        }
    }

    #[test]
    fn an_empty_filter_is_the_default() {
        for text in ["", " "] {
            assert_eq!(LogLevel::parse(text), LogLevel::default());
        }
    }
}
