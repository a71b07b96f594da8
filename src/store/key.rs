//! Building and parsing keys, which nothing else does.
//!
//! ```text
//! <job>/attempt/<20 digits>       create-once, dense, never deleted
//! <job>/manifest/<20 digits>      create-once, dense
//! <job>/data/<attempt>-<32 hex>   create-once, named at random
//! <job>/probe/<32 hex>            left by a start-up probe that crashes
//! ```
//!
//! Invariants: a key has one spelling; a key is made of numbers alone, never of text from a store.

use std::fmt;

use object_store::path::{Path, PathPart};

use crate::id::{Attempt, ObjectId, PutId, Seq};

/// The key of an object below its job's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Marker of an attempt.
    Attempt(Attempt),
    /// A manifest.
    Manifest(Seq),
    /// A data object.
    Data(ObjectId),
    /// Scratch of a start-up probe.
    Probe(PutId),
}

/// The classes of keys, each listed on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyClass {
    /// Markers of attempts.
    Attempt,
    /// Manifests.
    Manifest,
    /// Data objects.
    Data,
    /// Scratch of start-up probes.
    Probe,
}

impl KeyClass {
    /// Returns the name of the folder that holds its keys.
    const fn folder(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Manifest => "manifest",
            Self::Data => "data",
            Self::Probe => "probe",
        }
    }

    /// Returns the path of its folder below `root`.
    pub(super) fn path(self, root: &Path) -> Path {
        root.clone().join(self.folder())
    }
}

impl Key {
    /// Returns its class.
    #[must_use]
    pub const fn class(&self) -> KeyClass {
        match self {
            Self::Attempt(_) => KeyClass::Attempt,
            Self::Manifest(_) => KeyClass::Manifest,
            Self::Data(_) => KeyClass::Data,
            Self::Probe(_) => KeyClass::Probe,
        }
    }

    /// Returns whether it is that of a data object.
    pub(super) const fn is_data(&self) -> bool {
        matches!(self, Self::Data(_))
    }

    /// Returns its path below `root`.
    pub(super) fn path(&self, root: &Path) -> Path {
        self.class().path(root).join(self.name())
    }

    /// Parses a key of class `class` from a `path` below `root`; `None` for a foreign file.
    pub(super) fn parse(class: KeyClass, root: &Path, path: &Path) -> Option<Self> {
        let mut below = path.prefix_match(root)?;
        let folder: PathPart<'_> = below.next()?;
        let name = below.next()?;
        if folder.as_ref() != class.folder() || below.next().is_some() {
            return None;
        }
        let key = match class {
            KeyClass::Attempt => Self::Attempt(Attempt(name.as_ref().parse().ok()?)),
            KeyClass::Manifest => Self::Manifest(Seq(name.as_ref().parse().ok()?)),
            KeyClass::Data => Self::Data(name.as_ref().parse().ok()?),
            KeyClass::Probe => Self::Probe(name.as_ref().parse().ok()?),
        };
        // `+1` and `01` parse as 1, too. Accept only the spelling that `name` gives.
        (key.name() == name.as_ref()).then_some(key)
    }

    /// Returns its last path segment.
    fn name(&self) -> String {
        match self {
            Self::Attempt(attempt) => format!("{:020}", attempt.0),
            Self::Manifest(seq) => format!("{:020}", seq.0),
            Self::Data(id) => id.to_string(),
            Self::Probe(id) => id.to_string(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.class().folder(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> [Key; 6] {
        [
            Key::Attempt(Attempt(1)),
            Key::Attempt(Attempt(u64::MAX)),
            Key::Manifest(Seq(0)),
            Key::Manifest(Seq(12_345)),
            Key::Data(ObjectId { attempt: Attempt(7), random: [0xab; 16] }),
            Key::Probe(PutId([1; 16])),
        ]
    }

    #[test]
    fn keys_parse_as_they_print() {
        for root in ["job", "a/deep/prefix/job"] {
            let root = Path::from(root);
            for key in keys() {
                let path = key.path(&root);
                assert_eq!(path.as_ref(), format!("{root}/{key}"));
                assert_eq!(Key::parse(key.class(), &root, &path), Some(key));
            }
        }
        assert_eq!(Key::Manifest(Seq(12)).to_string(), "manifest/00000000000000000012");
    }

    #[test]
    fn keys_sort_by_number() {
        let root = Path::from("job");
        let paths = [9, 10, 99, 100, u64::MAX].map(|seq| Key::Manifest(Seq(seq)).path(&root));
        assert!(paths.is_sorted());
    }

    #[test]
    fn g01_foreign_files_are_no_keys() {
        let root = Path::from("job");
        let foreign = [
            "job/manifest/12",
            "job/manifest/+0000000000000000012",
            "job/manifest/99999999999999999999",
            "job/manifest/00000000000000000012/x",
            "job/manifest",
            "job/attempt/00000000000000000012",
            "job/manifest/00000000000000000012.tmp",
            "job/manifest/00000000000000000012#1",
            "other/manifest/00000000000000000012",
            "manifest/00000000000000000012",
        ];
        for path in foreign {
            assert_eq!(Key::parse(KeyClass::Manifest, &root, &Path::parse(path).unwrap()), None, "{path}");
        }
        for path in ["job/data/7", "job/data/07-abababababababababababababababab", "job/data/.."] {
            let Ok(path) = Path::parse(path) else { continue };
            assert_eq!(Key::parse(KeyClass::Data, &root, &path), None, "{path}");
        }
    }
}
