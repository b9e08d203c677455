//! The values of options, on the command line and in the environment.

use std::ffi::OsString;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use bytesize::ByteSize;
use ipnet::IpNet;

use crate::store::FreeSpace;
use hawk_time::UnixNanos;

/// Parses a span of time such as `90s`, `1m 30s` or `250us`; never zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 90s, 1m30s or 250ms"))?;
    if span.is_zero() {
        return Err("it must be longer than zero".into());
    }
    Ok(span)
}

/// Parses a time limit or period of the server: at least 1 ms, the resolution of its event loop.
pub(super) fn period(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span < Duration::from_millis(1) {
        return Err("it must be at least 1ms".into());
    }
    Ok(span)
}

/// Parses an address to listen on: numbers, because a name may have several addresses.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write it like 127.0.0.1:9876, 0.0.0.0:9876 or [::]:9876; host names are not supported"
            .to_owned()
    })
}

/// Parses the address of a server: a name or an IP address, with a port.
pub(super) fn server_address(text: &str) -> Result<String, &'static str> {
    let is_number = text.parse::<SocketAddr>().is_ok();
    let is_name = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(':') && port.parse::<u16>().is_ok()
    });
    match is_number || is_name {
        true => Ok(text.to_owned()),
        false => Err("write it like 127.0.0.1:9876, [::1]:9876 or host:9876"),
    }
}

/// Parses a network such as `10.0.0.0/8` or `fd00::/8`, or an address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let alone = text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or(alone);
    net.map_err(|_| "write it like 10.0.0.0/8, fd00::/8 or 10.0.0.7".to_owned())
}

/// Where reports are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StorePath {
    /// They are not stored.
    Nowhere,
    /// In this file.
    File(PathBuf),
}

/// Parses the path of a store, or `none`.
pub(super) fn store_path(text: &str) -> Result<StorePath, String> {
    match text {
        "" => Err("give a path, or none to store nothing".to_owned()),
        "none" => Ok(StorePath::Nowhere),
        ":memory:" => Err("a store in memory is not supported; give a path, or none".to_owned()),
        uri if uri.starts_with("file:") => Err(format!(
            "URIs are not supported; give a path (for a file of that name, ./{uri})"
        )),
        path => Ok(StorePath::File(path.into())),
    }
}

/// A point in time, absolute or before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// Before now.
    Span(Duration),
    /// Absolute.
    Time(UnixNanos),
}

impl Since {
    /// Returns the point in time.
    pub(super) fn time(&self) -> UnixNanos {
        match *self {
            Self::Span(span) => UnixNanos::now().before(span),
            Self::Time(time) => time,
        }
    }
}

/// Parses a span of time, or a time in UTC in the format of RFC 3339.
pub(super) fn since(text: &str) -> Result<Since, String> {
    let advice = "write it like 10m, 2d or 2026-11-24T08:00:00Z (UTC)";
    let is_date = text.contains('-');
    if !is_date {
        let span = humantime::parse_duration(text).map_err(|_| advice)?;
        return Ok(Since::Span(span));
    }
    let time = humantime::parse_rfc3339_weak(text).map_err(|error| format!("{error}; {advice}"))?;
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Since::Time(UnixNanos::from_nanos(0).after(since_1970)))
}

/// A part of a total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Portion {
    /// A number.
    Number(u32),
    /// A percentage.
    Percent(u32),
}

impl Portion {
    /// Returns the number, at least 1 for a percentage above 0.
    pub(super) fn of(self, all: u32) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Percent(0) => 0,
            Self::Percent(percent) => {
                let share = (u64::from(all) * u64::from(percent) + 50) / 100;
                u32::try_from(share).unwrap_or(all).max(1)
            }
        }
    }
}

/// Parses a number, or a whole percentage of up to 100.
pub(super) fn portion(text: &str) -> Result<Portion, String> {
    let unknown = |_| "write it like 20 or 20%".to_owned();
    match text.strip_suffix('%') {
        Some(percent) => match percent.parse().map_err(unknown)? {
            percent @ 0..=100 => Ok(Portion::Percent(percent)),
            _ => Err("the greatest percentage is 100%".to_owned()),
        },
        None => Ok(Portion::Number(text.parse().map_err(unknown)?)),
    }
}

/// Refuses an empty shell command, which would always succeed.
pub(super) fn command(text: OsString) -> Result<OsString, &'static str> {
    match text.is_empty() {
        true => Err("give a command, or omit the option"),
        false => Ok(text),
    }
}

/// Parses an amount of memory such as `64MiB`, `500kB` or plain bytes.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let ByteSize(bytes) = text
        .parse()
        .map_err(|_| "write it like 64MiB, 500kB or 65536".to_owned())?;
    usize::try_from(bytes).map_err(|_| "more than this machine can address".to_owned())
}

/// The least limit of a store. An empty store takes 56 KiB, so a lower limit would remove
/// reports at once. Most such limits lack their unit.
const LEAST_STORE: usize = 1 << 20;

/// Parses the limit of a store.
pub(super) fn store_size(text: &str) -> Result<usize, String> {
    match size(text)? {
        ..LEAST_STORE => Err("it must be at least 1MiB; write it like 10GiB".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Parses the free space of a file system: a size, or a percentage of the whole.
pub(super) fn free_space(text: &str) -> Result<FreeSpace, String> {
    let Some(percent) = text.strip_suffix('%') else {
        let bytes = size(text).map_err(|_| "write it like 5% or 10GiB".to_owned())?;
        return Ok(FreeSpace::Bytes(bytes as u64));
    };
    match percent.parse() {
        Ok(percent @ 0..=90) => Ok(FreeSpace::Percent(percent)),
        _ => Err("write it as a whole percentage from 0% to 90%, or as a size".to_owned()),
    }
}

/// Returns a parser of whole numbers in this range.
pub(super) fn number<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            format!("write it as a whole number from {least} to {most}")
        })
    }
}

/// Parses a switch in the environment.
pub(super) fn switch(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "t" | "1" => Ok(true),
        "false" | "no" | "off" | "n" | "f" | "0" => Ok(false),
        _ => Err("write it as true or false, or omit the variable"),
    }
}

/// Parses an optional limit.
pub(super) fn limit(text: &str) -> Result<NonZeroU32, String> {
    number(NonZeroU32::MIN..=NonZeroU32::MAX)(text)
        .map_err(|error| format!("{error}; for no limit, omit the option"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_some_length() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("90").is_err());
        assert!(duration("0s").is_err());
        assert!(duration("999us").is_ok());
        assert!(period("999us").is_err());
        assert!(period("1ms").is_ok());
    }

    #[test]
    fn a_store_has_room_for_something() {
        assert_eq!(store_size("1MiB"), Ok(1 << 20));
        for too_little in ["0", "10", "1MB"] {
            assert!(store_size(too_little).unwrap_err().contains("1MiB"));
        }
    }

    #[test]
    fn free_space_is_a_size_or_a_percentage() {
        assert_eq!(free_space("5%"), Ok(FreeSpace::Percent(5)));
        assert_eq!(free_space("1GiB"), Ok(FreeSpace::Bytes(1 << 30)));
        assert_eq!(free_space("0"), Ok(FreeSpace::Bytes(0)));
        for bad in ["", "%", "-1%", "91%", "1.5%", "much"] {
            assert!(free_space(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_limit_is_no_number() {
        assert_eq!(limit("1").map(NonZeroU32::get), Ok(1));
        for bad in ["0", "", "-1", "99999999999", "many"] {
            assert!(limit(bad).unwrap_err().contains("omit the option"));
        }
    }

    #[test]
    fn a_number_is_whole_and_in_its_range() {
        let depth = number(NonZeroU32::MIN..=NonZeroU32::MAX);
        assert_eq!(depth("128").map(NonZeroU32::get), Ok(128));
        let expected = "write it as a whole number from 1 to 4294967295";
        for bad in ["0", "", "-1", "1.5", "4294967296", "many"] {
            assert_eq!(depth(bad), Err(expected.to_owned()), "{bad}");
        }
        let sources = number(1..=254_u8);
        assert_eq!(sources("254"), Ok(254));
        assert!(sources("255").unwrap_err().contains("from 1 to 254"));
    }

    #[test]
    fn a_switch_is_on_or_off() {
        assert_eq!((switch("Yes"), switch("0")), (Ok(true), Ok(false)));
        for bad in ["", "2", "maybe"] {
            assert!(switch(bad).unwrap_err().contains("true or false"));
        }
    }

    #[test]
    fn a_server_is_a_name_or_a_number_with_a_port() {
        for good in ["127.0.0.1:9876", "[::1]:80", "web-01:9876"] {
            assert_eq!(server_address(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "127.0.0.1",
            "::1",
            ":9876",
            "web-01:http",
            "web-01:65536",
        ] {
            assert!(server_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_have_a_prefix_or_stand_for_one_address() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.7", "10.0.0.7/32"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(
                network(text).map(|net| net.to_string()),
                Ok(expected.to_owned())
            );
        }
        for text in ["", "10.0.0.0/33", "localhost", "10.0.0"] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_store_is_a_file_or_none() {
        assert_eq!(store_path("none"), Ok(StorePath::Nowhere));
        assert_eq!(store_path("./none"), Ok(StorePath::File("./none".into())));
        for (bad, advice) in [
            ("", "give a path"),
            (":memory:", "or none"),
            ("file:hawk.db", "./file:hawk.db"),
            (
                "file:///var/lib/hawk/hawk.db?mode=ro",
                "URIs are not supported",
            ),
        ] {
            assert!(store_path(bad).unwrap_err().contains(advice), "{bad}");
        }
    }

    #[test]
    fn the_past_is_a_span_or_a_time() {
        assert_eq!(since("10m"), Ok(Since::Span(Duration::from_secs(600))));
        let time = Since::Time(UnixNanos::from_nanos(1_475_249_220_500_000_000));
        assert_eq!(since("2016-09-30T15:27:00.5Z"), Ok(time));
        assert_eq!(since("2016-09-30 15:27:00.5"), Ok(time));
        assert!(since("yesterday").unwrap_err().contains("2026-11-24T"));
        assert!(since("2016-09-31T00:00:00Z").is_err());
    }

    #[test]
    fn a_portion_is_a_number_or_a_share() {
        let of = |text, all| portion(text).unwrap().of(all);
        assert_eq!((of("3", 7), of("0", 7), of("9", 7)), (3, 0, 9));
        assert_eq!((of("20%", 100), of("20%", 7), of("100%", 7)), (20, 1, 7));
        assert_eq!(
            (of("1%", 7), of("0%", 7), of("100%", u32::MAX)),
            (1, 0, u32::MAX)
        );
        for text in ["", "%", "-1", "101%", "1.5%", "many"] {
            assert!(portion(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("500kB"), Ok(500_000));
        assert_eq!(size("4096"), Ok(4096));
        assert!(size("many").is_err());
    }
}
