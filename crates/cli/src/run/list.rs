//! Lists of names in flags: comma-separated, with double quotes around a name that contains a comma.

use std::str::FromStr;

use alluvium::{Error, Result};

use super::aggregate::Aggregate;

/// The columns of one `--key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns(pub(crate) Vec<String>);

impl FromStr for Columns {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        split(text).map(Self)
    }
}

/// The aggregates of one `--agg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aggregates(pub(crate) Vec<Aggregate>);

impl FromStr for Aggregates {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        split(text)?.iter().map(|item| item.parse()).collect::<Result<_>>().map(Self)
    }
}

/// Splits a list into its items, without their quotes. A quote opens at the start of an item or after its first colon:
/// both `"sum:a, b"` and `sum:"a, b"` are one item. A doubled quote within quotes is a literal quote.
fn split(text: &str) -> Result<Vec<String>> {
    let (mut items, mut item) = (Vec::new(), String::new());
    let mut rest = text.chars().peekable();
    let (mut quoted, mut may_open, mut had_colon) = (false, true, false);
    while let Some(next) = rest.next() {
        match next {
            ',' if !quoted => {
                items.push(std::mem::take(&mut item));
                (may_open, had_colon) = (true, false);
                continue;
            }
            '"' if quoted && rest.peek() == Some(&'"') => item.extend(rest.next()),
            '"' if quoted => quoted = false,
            '"' if may_open => quoted = true,
            _ => item.push(next),
        }
        may_open = next == ':' && !had_colon && !quoted;
        had_colon |= next == ':';
    }
    items.push(item);
    if quoted { Err(Error::usage("a quote is never closed")) } else { Ok(items) }
}

/// Joins items into a list that [`split`] accepts.
pub(crate) fn join(items: impl IntoIterator<Item = String>) -> String {
    let quoted = |item: String| match item.contains([',', '"']) {
        true => format!("\"{}\"", item.replace('"', "\"\"")),
        false => item,
    };
    items.into_iter().map(quoted).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_commas_are_quoted() {
        for (text, items) in [
            ("a", &["a"][..]),
            ("a,b", &["a", "b"]),
            ("a,,b", &["a", "", "b"]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("sum:\"price, USD\",count", &["sum:price, USD", "count"]),
            ("\"sum:price, USD\"", &["sum:price, USD"]),
            ("\"say \"\"hi\"\", you\"", &["say \"hi\", you"]),
            ("5\" pipe,a:b:\"c", &["5\" pipe", "a:b:\"c"]),
            ("a,\"\"", &["a", ""]),
        ] {
            let split = split(text).unwrap();
            assert_eq!(split, items, "{text}");
            assert_eq!(super::split(&join(split.clone())).unwrap(), split, "{text}");
        }
        for bad in ["\"a", "a,\"b", "sum:\"a"] {
            assert!(bad.parse::<Columns>().is_err(), "{bad}");
        }
        assert!("sum:\"a, b\",nope".parse::<Aggregates>().is_err());
    }
}
