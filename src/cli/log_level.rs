//! `RUST_LOG`: which lines are logged.

use std::env::{self, VarError};

use env_logger::{Builder, DEFAULT_FILTER_ENV as VARIABLE, DEFAULT_WRITE_STYLE_ENV as STYLE, Env};
use log::LevelFilter;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT: &str = "info";

/// What is to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogLevel {
    /// In the form of `RUST_LOG`.
    pub(super) filter: String,
    /// Whether the filter is that of `RUST_LOG`.
    pub(super) is_given: bool,
    /// Why `RUST_LOG` is not obeyed.
    pub(super) complaint: Option<String>,
}

impl LogLevel {
    /// As the environment says it; the default if that makes no sense.
    pub(super) fn from_env() -> Self {
        match env::var(VARIABLE) {
            Ok(text) => Self::parse(&text),
            Err(VarError::NotPresent) => Self::default(),
            Err(VarError::NotUnicode(text)) => {
                let complaint = format!("it is not UTF-8 text: {text:?}");
                Self::refused(&complaint)
            }
        }
    }

    /// A logger that has this level.
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
            .filter(|directive| !makes_sense(directive.trim()));
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
        let complaint = format!("{VARIABLE} is not used, and the level is {DEFAULT}: {why}");
        Self {
            complaint: Some(complaint),
            ..Self::default()
        }
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self {
            filter: DEFAULT.to_owned(),
            is_given: false,
            complaint: None,
        }
    }
}

/// Whether a directive is what its writer must have meant. env_logger takes any word for
/// the name of a module: a misspelt level would switch the log off.
fn makes_sense(directive: &str) -> bool {
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
    fn what_makes_sense_is_obeyed() {
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
    fn what_makes_no_sense_is_the_default_with_a_complaint() {
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
            assert_eq!(level.filter, DEFAULT, "{text}");
            assert!(
                level.complaint.is_some_and(|why| why.contains(VARIABLE)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_empty_is_the_default() {
        for text in ["", " "] {
            assert_eq!(LogLevel::parse(text), LogLevel::default());
        }
    }
}
