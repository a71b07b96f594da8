//! Bounds-checked little-endian reading and writing; varints have one spelling.
