//! The settings of `hawk serve` as the log shows them: each option of the command line,
//! its effective value, and where it comes from if it is not the default.

use std::fmt::{self, Display};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// Settings in the order of `--help`, displayed as `key=value` pairs.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings(Vec<Setting>);

#[derive(Clone, Debug)]
struct Setting {
    key: String,
    value: String,
    /// Where the value comes from; `None`: it is the default.
    origin: Option<&'static str>,
}

impl Settings {
    /// The settings of a parsed subcommand: every option that `command` declares.
    pub(super) fn of(command: &Command, matches: &ArgMatches) -> Self {
        let options = command.get_arguments().filter(|arg| is_setting(arg));
        Self(options.map(|arg| Setting::of(arg, matches)).collect())
    }

    /// Replaces the value of a setting whose effective value is known only at run time.
    pub(super) fn resolve(&mut self, key: &str, value: &impl Display) {
        let found = self.0.iter_mut().find(|setting| setting.key == key);
        debug_assert!(found.is_some(), "there is no option {key}");
        if let Some(setting) = found {
            setting.value = word(&value.to_string());
        }
    }

    /// Replaces a setting whose value comes from somewhere else than the options.
    pub(super) fn replace(&mut self, key: &str, value: &impl Display, origin: &'static str) {
        self.resolve(key, value);
        let found = self.0.iter_mut().find(|setting| setting.key == key);
        if let Some(setting) = found {
            setting.origin = Some(origin);
        }
    }

    /// Adds a setting that has no option.
    pub(super) fn add(&mut self, key: &str, value: &str, origin: Option<&'static str>) {
        self.0.push(Setting {
            key: key.to_owned(),
            value: word(value),
            origin,
        });
    }
}

/// Where a value comes from that a variable sets.
pub(super) const ENVIRONMENT: &str = "environment";

fn is_setting(arg: &Arg) -> bool {
    let is_action = matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    );
    !is_action && !arg.is_positional()
}

impl Setting {
    fn of(arg: &Arg, matches: &ArgMatches) -> Self {
        let id = arg.get_id().as_str();
        let origin = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Some("command-line"),
            Some(ValueSource::EnvVariable) => Some(ENVIRONMENT),
            _ => None,
        };
        let value = match arg.get_action() {
            ArgAction::SetTrue => matches.get_flag(id).to_string(),
            _ => {
                let values = matches.get_raw(id).into_iter().flatten();
                let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
                match values.is_empty() {
                    true => "none".to_owned(),
                    false => values.join(","),
                }
            }
        };
        Self {
            key: id.to_owned(),
            value: word(&value),
            origin,
        }
    }
}

/// The text as one word: quoted and escaped unless it is plain.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:;/%+@[]".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("{text:?}"),
    }
}

impl Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Setting { key, value, origin }) in self.0.iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(f, "{space}{key}={value}")?;
            if let Some(origin) = origin {
                write!(f, " {key}_from={origin}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Settings {
        let command = Command::new("x")
            .arg(Arg::new("size").long("size").default_value("64MiB"))
            .arg(
                Arg::new("allow")
                    .long("allow")
                    .value_delimiter(',')
                    .action(ArgAction::Append),
            )
            .arg(Arg::new("command").long("command"))
            .arg(Arg::new("quick").long("quick").action(ArgAction::SetTrue));
        let matches = command.clone().try_get_matches_from(args).unwrap();
        Settings::of(&command, &matches)
    }

    #[test]
    fn each_option_is_a_pair_and_tells_its_origin_unless_it_is_the_default() {
        let text = settings(&["x"]).to_string();
        assert_eq!(text, "size=64MiB allow=none command=none quick=false");
        let args = [
            "x",
            "--quick",
            "--allow=10.0.0.0/8,::1",
            "--command",
            "a b\n",
        ];
        let mut settings = settings(&args);
        settings.resolve("size", &17);
        settings.add("rust_log", "warn,hawk::stats=info", Some(ENVIRONMENT));
        let text = settings.to_string();
        let expected = "size=17 allow=10.0.0.0/8,::1 allow_from=command-line \
                        command=\"a b\\n\" command_from=command-line quick=true \
                        quick_from=command-line rust_log=\"warn,hawk::stats=info\" \
                        rust_log_from=environment";
        assert_eq!(text, expected);
    }
}
