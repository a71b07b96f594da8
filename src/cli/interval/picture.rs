//! A picture of the controller's first run.

use std::path::Path;

use alluvium::{Error, Result};

use super::compare::{Case, Comparison};

pub(super) fn draw(path: &Path, _case: &Case, _comparison: &Comparison) -> Result<()> {
    Err(Error::unavailable("not drawn").with("file", path.display()))
}
