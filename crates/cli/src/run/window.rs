//! Event time: parsing, windows, and when windows close.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use alluvium::{Error, Result};
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};

/// The length of tumbling windows in milliseconds, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowSize(i64);

impl FromStr for WindowSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::usage("a window is tumbling:DURATION, like tumbling:30d");
        let duration = text.strip_prefix("tumbling:").ok_or_else(invalid)?;
        let duration = humantime::parse_duration(duration).map_err(|source| invalid().with_source(source))?;
        let whole = Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        match i64::try_from(duration.as_millis()) {
            Ok(millis @ 1..) if whole == duration => Ok(Self(millis)),
            _ => Err(Error::usage("a window is a whole number of milliseconds, at least 1")),
        }
    }
}

/// Tumbling windows over a column of event times, aligned to the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Window {
    size_ms: i64,
    lateness_ms: i64,
    /// The column with the event time.
    pub(crate) time: String,
}

impl Window {
    /// Returns windows of `size` over the column `time`, which stay open for `lateness` after their end.
    pub(crate) fn new(size: WindowSize, time: String, lateness: Duration) -> Self {
        // A longer lateness has the same effect: no window closes.
        Self { size_ms: size.0, lateness_ms: i64::try_from(lateness.as_millis()).unwrap_or(i64::MAX), time }
    }

    /// Returns the start of the window that contains `time`; `None` if the start is out of range.
    pub(crate) fn start(&self, time: i64) -> Option<i64> {
        let start = time.checked_sub(time.checked_rem_euclid(self.size_ms)?)?;
        jiff::Timestamp::from_millisecond(start).is_ok().then_some(start)
    }

    /// Returns whether the window from `start` is closed at `watermark`.
    pub(crate) fn closed(&self, start: i64, watermark: i64) -> bool {
        start.saturating_add(self.size_ms).saturating_add(self.lateness_ms) <= watermark
    }

    /// Returns the length of windows.
    pub(crate) fn size(&self) -> Duration {
        Duration::from_millis(self.size_ms.unsigned_abs())
    }

    /// Returns the time that a window stays open after its end.
    pub(crate) fn lateness(&self) -> Duration {
        Duration::from_millis(self.lateness_ms.unsigned_abs())
    }
}

/// Parses an event time into milliseconds since the Unix epoch, rounded down. An integer is in milliseconds; a date and
/// time without an offset is UTC. A time zone name is ignored beside an offset, and refused without one: resolving it
/// would need the time zone database.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let millis = text.parse().ok()?;
        return jiff::Timestamp::from_millisecond(millis).is_ok().then_some(millis);
    }
    let (clock, annotation) = text.find('[').map_or((text, ""), |at| text.split_at(at));
    // An offset can only follow the date; a civil time has none.
    let has_offset = clock.get(10..).is_some_and(|rest| rest.contains(['Z', 'z', '+', '-']));
    let time = if has_offset && !annotation.contains('!') {
        PARSER.parse_timestamp(text).ok()?
    } else if annotation.is_empty() {
        Offset::UTC.to_timestamp(PARSER.parse_datetime(text).ok()?).ok()?
    } else {
        return None;
    };
    i64::try_from(time.as_nanosecond().div_euclid(1_000_000)).ok()
}

/// A window's start as RFC 3339 text.
pub(crate) struct Rfc3339(pub(crate) i64);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => time.fmt(f),
            Err(_) => self.0.fmt(f),
        }
    }
}

/// Returns the namespace of a window: eight bytes, ordered as the windows' starts.
pub(crate) fn namespace(start: i64) -> [u8; 8] {
    (start.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// Returns the window's start, from its namespace.
///
/// # Errors
/// `Corrupt` if the namespace is not eight bytes.
pub(crate) fn start_of(namespace: &[u8]) -> Result<i64> {
    let bytes = namespace.try_into().map_err(|_| Error::corrupt("namespace is not a window"))?;
    Ok((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_in_three_spellings() {
        let time = 1_685_303_933_260;
        for text in [
            "2023-05-28 19:58:53.260",
            "2023-05-28T19:58:53.26Z",
            "2023-05-28t19:58:53.2609z",
            "2023-05-28T21:58:53.260+02:00",
            "2023-05-28 14:58:53.260-05:00",
            "1685303933260",
        ] {
            assert_eq!(parse_time(text), Some(time), "{text}");
        }
        assert_eq!(parse_time("1969-12-31T23:59:59.9999Z"), Some(-1));
        assert_eq!(parse_time("-1"), Some(-1));
        for bad in ["", "NA", "-", "2023-13-01 00:00:00", "yesterday", "1e3", "1.5", "99999999999999999999", "é"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
        // A zone name is ignored beside an offset.
        for text in ["2023-05-28T14:58:53.260-05:00[America/Chicago]", "2023-05-28T19:58:53.260Z[America/Chicago]"] {
            assert_eq!(parse_time(text), Some(time), "{text}");
        }
        for bad in [
            "2023-05-28T14:58:53[America/Chicago]",
            "2023-05-28T14:58:53[UTC]",
            "2023-05-28T14:58:53[Etc/GMT-5]",
            "2023-05-28[America/Port-au-Prince]",
            "2023-05-28T14:58:53[u-ca=hebrew]",
            "2023-05-28T14:58:53-05:00[!America/Chicago]",
            "2023-05-28T14:58:53 -05:00",
            "2023-05-28 14:58:53 CDT",
            "2023-05-28T14:58:53 UTC",
            "2023-05-28T14:58:53\u{2212}05:00",
            "28/05/2023 14:58:53",
            "05-28-2023",
            "1.6e12",
            "1600000000000.0",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
        // Integers and offsets out of range.
        assert_eq!(parse_time("9223372036854775807"), None);
        assert_eq!(parse_time("2023-05-28 19:58:53+99:99"), None);
    }

    #[test]
    fn windows_align_to_the_epoch_on_both_sides() {
        let window = Window::new("tumbling:10s".parse().unwrap(), "t".into(), Duration::from_secs(5));
        let starts = [-10_001, -10_000, -1, 0, 9_999, 10_000].map(|time| window.start(time).unwrap());
        assert_eq!(starts, [-20_000, -10_000, -10_000, 0, 0, 10_000]);
        assert!(window.closed(0, 15_000) && !window.closed(0, 14_999));
        assert!(!Window::new("tumbling:1ms".parse().unwrap(), "t".into(), Duration::MAX).closed(0, i64::MAX - 1));
    }

    #[test]
    fn namespaces_sort_as_windows() {
        let starts = [i64::MIN, -30, -1, 0, 1, 1 << 40, i64::MAX];
        assert!(starts.map(namespace).is_sorted());
        assert_eq!(starts.map(|start| start_of(&namespace(start)).unwrap()), starts);
        assert!(start_of(b"short").is_err());
        assert_eq!(Rfc3339(1_685_232_000_000).to_string(), "2023-05-28T00:00:00Z");
        assert_eq!(Rfc3339(-1).to_string(), "1969-12-31T23:59:59.999Z");
    }
}
