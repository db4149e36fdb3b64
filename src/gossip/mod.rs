//! SWIM gossip.

mod timing;

pub use timing::Timing;
