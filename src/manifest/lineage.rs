//! The `lineage` extension: the history that a manifest belongs to, if it is not the job's first.

use bytes::Bytes;

use super::{Extension, Manifest};
use crate::error::{Error, Result};
use crate::id::Lineage;

const TAG: &str = "lineage";

/// Follows the lineage in a manifest that was copied to another place.
const COPIED: u8 = 1;

impl Extension {
    /// Returns the extension of a manifest of `lineage`.
    pub(crate) fn lineage(lineage: Lineage) -> Self {
        Self { tag: TAG.to_owned(), required: false, bytes: Bytes::copy_from_slice(&lineage.0) }
    }
}

impl Manifest {
    /// Returns the lineage that it belongs to.
    ///
    /// # Errors
    /// `Corrupt` if the extension is malformed.
    pub fn lineage(&self) -> Result<Lineage> {
        Ok(self.stored_lineage()?.map_or(Lineage(self.job.0), |(lineage, _)| lineage))
    }

    /// Returns whether it was copied from another place: what continues from here is another lineage.
    ///
    /// # Errors
    /// `Corrupt` if the extension is malformed.
    pub(crate) fn is_copy(&self) -> Result<bool> {
        Ok(self.stored_lineage()?.is_some_and(|(_, is_copy)| is_copy))
    }

    /// Marks it as copied to another place.
    ///
    /// # Errors
    /// `Corrupt` if the extension is malformed.
    pub(crate) fn mark_copied(&mut self) -> Result<()> {
        let lineage = self.lineage()?;
        self.extensions.retain(|extension| extension.tag != TAG);
        let bytes = [&lineage.0[..], &[COPIED]].concat();
        self.extensions.push(Extension { tag: TAG.to_owned(), required: false, bytes: bytes.into() });
        Ok(())
    }

    fn stored_lineage(&self) -> Result<Option<(Lineage, bool)>> {
        let Some(extension) = self.extensions.iter().find(|extension| extension.tag == TAG) else { return Ok(None) };
        let parsed = extension.bytes.split_first_chunk::<16>().and_then(|(lineage, rest)| match rest {
            [] => Some((Lineage(*lineage), false)),
            [COPIED] => Some((Lineage(*lineage), true)),
            _ => None,
        });
        parsed.map(Some).ok_or_else(|| Error::corrupt("lineage is malformed").with("bytes", extension.bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::manifest::tests::manifest;

    #[test]
    fn the_first_lineage_is_the_job() {
        let mut manifest = manifest();
        manifest.extensions.clear();
        assert_eq!(manifest.lineage().unwrap().0, manifest.job.0);
        manifest.extensions.push(Extension::lineage(Lineage([9; 16])));
        assert_eq!((manifest.lineage().unwrap(), manifest.is_copy().unwrap()), (Lineage([9; 16]), false));
        for _ in 0..2 {
            manifest.mark_copied().unwrap();
            assert_eq!((manifest.lineage().unwrap(), manifest.is_copy().unwrap()), (Lineage([9; 16]), true));
            assert_eq!(manifest.extensions.len(), 1);
        }
        for bad in [&[9; 15][..], &[9; 18], &[9; 17]] {
            manifest.extensions[0].bytes = Bytes::copy_from_slice(bad);
            assert_eq!(manifest.lineage().unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
