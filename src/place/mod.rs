//! Where bytes lie.
