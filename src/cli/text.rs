//! Text from agents, made safe for terminals and spreadsheets.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use crate::log_sink::{escape, is_blank};

/// Returns the text unchanged if every character is visible, otherwise quoted and escaped.
///
/// Escapes control characters (C0, C1), format characters (Unicode's category Cf:
/// bidirectional, zero-width, tags), line and paragraph separators, combining characters,
/// unassigned and private ones, all spaces but U+0020, and letters and symbols without a
/// shape.
pub(super) fn visible(text: &str) -> String {
    if !text.is_empty() && text.bytes().all(|byte| byte != b' ' && is_plain(byte)) {
        return text.to_owned();
    }
    let quoted = quoted(text);
    let is_plain = quoted.len() == text.len() + 2 && !text.is_empty() && !text.contains(' ');
    if is_plain { text.to_owned() } else { quoted }
}

/// Returns the text in quotes, escaped as in [`visible`].
pub(super) fn quoted(text: &str) -> String {
    // Most texts need no escape: these are copied, not read character by character.
    if text.bytes().all(is_plain) {
        return ["\"", text, "\""].concat();
    }
    // Rust escapes quotes, backslashes and what Unicode calls not printable.
    escape(&format!("{text:?}"), is_blank).into_owned()
}

/// Returns whether a byte is printable ASCII that needs no escape within quotes.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

/// Escapes only invisible characters of a text, such as a message that quotes an agent.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    escape(text, is_invisible)
}

fn is_invisible(character: char) -> bool {
    let is_escape = matches!(character, '\'' | '"' | '\\');
    (!is_escape && character.escape_debug().len() > 1) || is_blank(character)
}

/// Returns a name as [`visible`] does, and quotes a name that looks like an address or the number
/// of an agent, which are never in quotes.
pub(super) fn visible_name(name: &str) -> String {
    match could_be_another(name) {
        true => quoted(name),
        false => visible(name),
    }
}

fn could_be_another(name: &str) -> bool {
    let is_address = name.parse::<IpAddr>().is_ok() || name.parse::<SocketAddr>().is_ok();
    let looks_like_one = name
        .chars()
        .all(|c| c.is_ascii_digit() || ".:[]".contains(c));
    name.starts_with('#') || name == "-" || is_address || looks_like_one
}

/// Parses a text of [`quoted`]. Returns `None` without quotes or with an unknown escape.
pub(super) fn unquoted(text: &str) -> Option<String> {
    let mut rest = text.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut plain = String::new();
    while let Some(character) = rest.next() {
        plain.push(match character {
            '"' => return None,
            '\\' => match rest.next()? {
                '0' => '\0',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                same @ ('\\' | '"' | '\'') => same,
                'u' => {
                    let (digits, behind) = rest.as_str().strip_prefix('{')?.split_once('}')?;
                    rest = behind.chars();
                    char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
                }
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

/// Cuts a text to at most `most` characters; the last of a cut text is an ellipsis.
pub(super) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some(_) => {
            let kept: String = text.chars().take(most.saturating_sub(1)).collect();
            Cow::Owned(kept + "…")
        }
    }
}

/// Returns an address from the store, with or without a port, in hawk's form: an IPv4 address
/// inside an IPv6 one is an IPv4 address.
pub(super) fn address(text: &str) -> String {
    if let Ok(address) = text.parse::<IpAddr>() {
        return address.to_canonical().to_string();
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().to_canonical().is_ipv4() => {
            SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
        }
        Ok(address) => address.to_string(),
        // No server writes this.
        Err(_) => visible(text),
    }
}

/// Returns a cell that no spreadsheet takes for a formula, with an apostrophe if needed.
pub(super) fn formula_free(cell: &str) -> Cow<'_, str> {
    const STARTS: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    match cell.starts_with(STARTS) {
        true => Cow::Owned(format!("'{cell}")),
        false => Cow::Borrowed(cell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped() {
        assert_eq!(visible("web-01"), "web-01");
        assert_eq!(visible("späße"), "späße");
        assert_eq!(visible("日本"), "日本");
        assert_eq!(visible(""), "\"\"");
        assert_eq!(visible("a b"), "\"a b\"");
        assert_eq!(visible("a\"b"), "\"a\\\"b\"");
        assert_eq!(quoted("a b~"), "\"a b~\"");
        assert_eq!(quoted("a\\b"), "\"a\\\\b\"");
        assert_eq!(visible("it's"), "it's");
        for (character, escape) in [
            ('\x1b', "\\u{1b}"),
            ('\x7f', "\\u{7f}"),
            ('\u{9b}', "\\u{9b}"),
            ('\u{ad}', "\\u{ad}"),
            ('\u{200b}', "\\u{200b}"),
            ('\u{200d}', "\\u{200d}"),
            ('\u{200e}', "\\u{200e}"),
            ('\u{2028}', "\\u{2028}"),
            ('\u{2029}', "\\u{2029}"),
            ('\u{202e}', "\\u{202e}"),
            ('\u{2066}', "\\u{2066}"),
            ('\u{2060}', "\\u{2060}"),
            ('\u{feff}', "\\u{feff}"),
            ('\u{a0}', "\\u{a0}"),
            ('\u{301}', "\\u{301}"),
            ('\u{3164}', "\\u{3164}"),
            ('\u{2800}', "\\u{2800}"),
            ('\u{e0041}', "\\u{e0041}"),
            ('\u{fff9}', "\\u{fff9}"),
        ] {
            let text = format!("a{character}b");
            assert_eq!(visible(&text), format!("\"a{escape}b\""));
            assert_eq!(harmless(&text), format!("a{escape}b"));
            assert_eq!(unquoted(&visible(&text)), Some(text));
        }
        assert_eq!(harmless("it's \"a\" \\ b"), "it's \"a\" \\ b");
    }

    #[test]
    fn a_name_that_looks_like_something_else_is_in_quotes() {
        for name in [
            "#1",
            "#",
            "10.0.0.7",
            "::1",
            "10.0.0.7:80",
            "[::1]:80",
            "10.0.0.777",
            "-",
        ] {
            let shown = visible_name(name);
            assert_eq!(shown, format!("\"{name}\""));
            assert_eq!(unquoted(&shown).as_deref(), Some(name));
        }
        for name in ["web-01", "db.cafe", "a#1"] {
            assert_eq!(visible_name(name), name);
        }
        for text in [
            "web-01",
            "\"",
            "\"a",
            "\"a\"b\"",
            "\"\\x\"",
            "\"\\u{110000}\"",
        ] {
            assert_eq!(unquoted(text), None, "{text}");
        }
    }

    #[test]
    fn a_column_has_a_width() {
        assert_eq!(cut("späße", 5), "späße");
        assert_eq!(cut("späßer", 5), "späß…");
        assert_eq!(cut("", 5), "");
    }

    #[test]
    fn an_address_has_one_form() {
        for (text, form) in [
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("[::ffff:10.0.0.7]:80", "10.0.0.7:80"),
            ("0:0::1", "::1"),
            ("[fe80::1%2]:80", "[fe80::1%2]:80"),
            ("no\x1baddress", "\"no\\u{1b}address\""),
        ] {
            assert_eq!(address(text), form);
        }
    }

    #[test]
    fn a_cell_that_is_a_formula_gets_an_apostrophe() {
        for cell in ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "＝1"] {
            assert_eq!(formula_free(cell), format!("'{cell}"));
        }
        for cell in ["", "load 0.5", "1-1", "'=1"] {
            assert_eq!(formula_free(cell), cell);
        }
    }
}
