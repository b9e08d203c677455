//! The command line and the variables of the environment that stand for its options.
//!
//! An empty variable counts as unset. An error in a variable's value names the variable.
//! A variable that looks like one of hawk's and is none is reported, with the nearest one.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;

use clap::builder::{OsStr as Id, Resettable};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgMatches, Command, CommandFactory as _};

use super::Cli;
use crate::restart::SUCCESSOR;

/// What the name of each of hawk's variables begins with.
const PREFIX: &str = "HAWK_";

/// What the names of variables of the project's own tests begin with.
const TESTS: &str = "HAWK_TEST_";

/// Variables of hawk's without an option: between two processes, and for the tests of
/// hand-overs.
const WITHOUT_OPTION: [&str; 2] = [SUCCESSOR, "HAWK_FAULT"];

/// Similarity, from 0 to 1, of two names that may be a slip of each other (Jaro-Winkler;
/// all names share their first five letters, which are left out).
const SIMILAR: f64 = 0.75;

/// The command line as clap knows it, without the variables that are empty.
pub(super) fn command() -> Command {
    edit(Cli::command(), &|arg| {
        let is_empty = arg.get_env().is_some_and(|name| !is_set(name));
        if is_empty { without_variable(arg) } else { arg }
    })
}

/// Parses the command line and the environment, or ends the process: with 2 for what makes
/// no sense, with 0 for `--help` and `--version`.
pub(super) fn parse() -> ArgMatches {
    match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => name_variable(error).exit(),
    }
}

/// Variables that look like hawk's and are none of them, each in a line that says so.
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

/// The names of all variables that have a meaning.
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

/// The error, which names the variable if its value is to blame.
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

/// Whether the error disappears without the variable.
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
}
