//! The deterministic simulation testbed of driftline.
#[cfg(madsim)]
pub mod clock;
#[cfg(madsim)]
pub mod disk;
#[cfg(madsim)]
pub mod executor;
pub mod fault;
#[cfg(madsim)]
pub mod net;
pub mod scenario;
pub mod trace;
