//! The commands of the tool, one module each.

#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "the driver that uses it follows"))]
mod run;
