//! Jobs over several processes, joined by their messages: workers come and go, and lie.

mod counts;
mod forged;
mod members;
mod restore;
mod running;
mod scale;
