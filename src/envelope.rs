//! The envelope of every object: who wrote what, which version, and whether it arrived whole.
