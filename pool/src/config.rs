//! The settings of a pool, and their errors.

use std::{error::Error, fmt};

/// The settings of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The sizes of the buffers in bytes: strictly ascending, none zero. A handful, as the
    /// search is linear.
    pub classes: Vec<usize>,
    /// The most bytes of all buffers together, in use and free: at least two buffers of the
    /// longest class, of which one is the reserve.
    pub limit: usize,
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let (Some(&shortest), Some(&longest)) = (self.classes.first(), self.classes.last()) else {
            return Err(ConfigError::NoClasses);
        };
        if shortest == 0 {
            return Err(ConfigError::ZeroClass);
        }
        if let Some(pair) = self.classes.windows(2).find(|pair| pair[0] >= pair[1]) {
            let (class, next) = (pair[0], pair[1]);
            return Err(ConfigError::NotAscending { class, next });
        }
        // Halving the limit cannot overflow, as doubling the class could.
        if self.limit / 2 < longest {
            let limit = self.limit;
            return Err(ConfigError::LimitTooLow { limit, longest });
        }
        // Buffers store offsets as `u32`.
        if u32::try_from(longest).is_err() {
            return Err(ConfigError::ClassTooLong { class: longest });
        }
        Ok(())
    }
}

/// Why a [`Config`] is refused. The text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// There is no class.
    NoClasses,
    /// The first class is zero bytes.
    ZeroClass,
    /// A class is not longer than the one before it.
    NotAscending {
        /// A class, in bytes.
        class: usize,
        /// The class listed after it, in bytes.
        next: usize,
    },
    /// The limit is below two buffers of the longest class.
    LimitTooLow {
        /// The limit, in bytes.
        limit: usize,
        /// The longest class, in bytes.
        longest: usize,
    },
    /// A class is longer than 4 GiB less one byte.
    ClassTooLong {
        /// The class, in bytes.
        class: usize,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClasses => f.write_str("the pool has no buffer class: name at least one size"),
            Self::ZeroClass => f.write_str("a buffer class of 0 bytes holds nothing: omit it"),
            Self::NotAscending { class, next } => write!(
                f,
                "buffer class {next} follows class {class}: \
                 list each size once, in ascending order"
            ),
            Self::LimitTooLow { limit, longest } => write!(
                f,
                "the pool's limit of {limit} bytes is below two buffers of the longest class \
                 (2 x {longest} bytes): raise the limit or shorten the class"
            ),
            Self::ClassTooLong { class } => write!(
                f,
                "buffer class {class} is longer than {} bytes: shorten it",
                u32::MAX
            ),
        }
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(classes: &[usize], limit: usize) -> Result<(), ConfigError> {
        let classes = classes.to_vec();
        Config { classes, limit }.check()
    }

    #[test]
    fn two_buffers_of_the_longest_class_are_enough() {
        assert_eq!(check(&[1], 2), Ok(()));
        assert_eq!(check(&[16, 64], 128), Ok(()));
    }

    #[test]
    fn each_fault_is_named() {
        let not_ascending = |class, next| ConfigError::NotAscending { class, next };
        let too_low = |limit, longest| ConfigError::LimitTooLow { limit, longest };
        const MAX: usize = usize::MAX;
        const LONG: usize = u32::MAX as usize + 1;
        let cases: [(&[usize], usize, ConfigError); 7] = [
            (&[], 9, ConfigError::NoClasses),
            (&[0, 4], 9, ConfigError::ZeroClass),
            (&[4, 4], 9, not_ascending(4, 4)),
            (&[2, 4, 3], 9, not_ascending(4, 3)),
            (&[2, 4], 7, too_low(7, 4)),
            (&[MAX], MAX, too_low(MAX, MAX)),
            (&[LONG], MAX, ConfigError::ClassTooLong { class: LONG }),
        ];
        for (classes, limit, error) in cases {
            assert_eq!(check(classes, limit), Err(error));
        }
    }

    #[test]
    fn the_error_text_says_what_to_do() {
        let text = check(&[64], 100).unwrap_err().to_string();
        assert_eq!(
            text,
            "the pool's limit of 100 bytes is below two buffers of the longest class \
             (2 x 64 bytes): raise the limit or shorten the class"
        );
    }
}
