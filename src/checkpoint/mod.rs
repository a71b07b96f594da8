//! Drivers: they join decisions to I/O.
