//! Where bytes lie.

pub mod pack;
