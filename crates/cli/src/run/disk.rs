//! The `--disk` flag: a folder of this machine, and how much of it a run may use.

use std::path::PathBuf;
use std::str::FromStr;

use bytesize::ByteSize;

/// A folder and a budget in bytes, without bound unless one is given: `/var/cache/alluvium:20GiB`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskArg {
    pub(crate) folder: PathBuf,
    pub(crate) budget: u64,
}

impl DiskArg {
    /// Returns the budget of each of two uses.
    pub(crate) fn half(&self) -> u64 {
        if self.budget == u64::MAX { u64::MAX } else { self.budget.div_ceil(2) }
    }
}

impl FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (folder, budget) = match text.rsplit_once(':') {
            // A colon in the middle of a path.
            Some((_, size)) if !size.starts_with(|first: char| first.is_ascii_digit()) || size.contains('/') => {
                (text, u64::MAX)
            }
            Some((folder, size)) => {
                let size: ByteSize = size.parse().map_err(|why| format!("`{size}`: {why}"))?;
                (folder, size.as_u64())
            }
            None => (text, u64::MAX),
        };
        match (folder, budget) {
            ("", _) => Err("a folder is missing".to_owned()),
            (_, 0) => Err("a size must be at least 1".to_owned()),
            _ => Ok(Self { folder: folder.into(), budget }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_may_follow_the_folder() {
        for (text, folder, budget) in [
            ("cache", "cache", u64::MAX),
            ("/a/b:20GiB", "/a/b", 20 << 30),
            ("/a:b/c", "/a:b/c", u64::MAX),
            ("/a:1/c", "/a:1/c", u64::MAX),
            ("a:b:1KiB", "a:b", 1024),
        ] {
            assert_eq!(text.parse(), Ok(DiskArg { folder: folder.into(), budget }), "{text}");
        }
        for wrong in ["", ":1GiB", "cache:0", "cache:10X"] {
            assert!(wrong.parse::<DiskArg>().is_err(), "{wrong}");
        }
    }
}
