//! Versions of what two builds of hawk say to each other.

use std::fmt;

use super::Damage;
use super::fields::{Value, layout};

/// The versions that a build understands: all from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    oldest: u16,
    newest: u16,
}

impl Versions {
    /// From `oldest` to `newest`, whichever way round they are given.
    #[must_use]
    pub const fn new(oldest: u16, newest: u16) -> Self {
        if oldest <= newest {
            Self { oldest, newest }
        } else {
            Self {
                oldest: newest,
                newest: oldest,
            }
        }
    }

    /// What a text such as `2` or `1-2` says. For constants: a text that says
    /// nothing fails the build.
    #[must_use]
    #[expect(clippy::panic, reason = "what it is for is to fail a build")]
    pub(crate) const fn parse(text: &str) -> Self {
        let text = text.as_bytes();
        let (mut numbers, mut at, mut i) = ([0_u16; 2], 0, 0);
        while i < text.len() {
            match text[i] {
                b'-' if at == 0 => at = 1,
                digit @ b'0'..=b'9' => numbers[at] = numbers[at] * 10 + (digit - b'0') as u16,
                _ => panic!("versions are written as 2 or as 1-2"),
            }
            i += 1;
        }
        Self::new(numbers[0], numbers[at])
    }

    /// The oldest.
    #[must_use]
    pub const fn oldest(self) -> u16 {
        self.oldest
    }

    /// The newest.
    #[must_use]
    pub const fn newest(self) -> u16 {
        self.newest
    }

    /// Whether `version` is among them.
    #[must_use]
    pub const fn contain(self, version: u16) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// The newest version that both understand, if there is one.
    #[must_use]
    pub const fn common(self, other: Self) -> Option<u16> {
        let newest = if self.newest < other.newest {
            self.newest
        } else {
            other.newest
        };
        if self.contain(newest) && other.contain(newest) {
            Some(newest)
        } else {
            None
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

struct Both {
    oldest: u16,
    newest: u16,
}

layout! { Both {
    0x81 oldest: must,
    0x82 newest: must,
} }

impl Value for Versions {
    fn write(&self, out: &mut Vec<u8>) {
        let Self { oldest, newest } = *self;
        Both { oldest, newest }.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let Both { oldest, newest } = Value::read(bytes)?;
        if oldest > newest {
            return Err(Damage::Value);
        }
        Ok(Self { oldest, newest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_agree_on_the_newest_that_both_understand() {
        let agreed = |one: (u16, u16), other: (u16, u16)| {
            let [one, other] = [one, other].map(|(oldest, newest)| Versions::new(oldest, newest));
            assert_eq!(one.common(other), other.common(one));
            one.common(other)
        };
        assert_eq!(agreed((1, 1), (1, 1)), Some(1));
        assert_eq!(agreed((1, 3), (2, 5)), Some(3));
        assert_eq!(agreed((1, 9), (2, 5)), Some(5));
        assert_eq!(agreed((1, 2), (3, 5)), None);
    }

    #[test]
    fn a_text_says_one_version_or_a_range() {
        assert_eq!(Versions::parse("2"), Versions::new(2, 2));
        assert_eq!(Versions::parse("1-12"), Versions::new(1, 12));
        assert_eq!(Versions::new(1, 12).to_string(), "1 to 12");
    }

    #[test]
    fn a_range_that_has_no_version_is_refused() {
        let mut bytes = Vec::new();
        Versions::new(3, 4).write(&mut bytes);
        assert_eq!(Versions::read(&bytes), Ok(Versions::new(3, 4)));
        bytes[5] = 5;
        assert_eq!(Versions::read(&bytes), Err(Damage::Value));
    }
}
