//! SWIM gossip.

mod timing;

pub use timing::Timing;

mod standin;
pub use standin::*;
