//! Which version this is, in Consul's count and in our own.

/// The version of Consul's API that clients should expect.
pub const CONSUL: &str = "1.20.0";

/// The program's own version.
pub const OWN: &str = env!("CARGO_PKG_VERSION");

/// Both, as one version by semver: ours is build metadata.
pub const BOTH: &str = concat!("1.20.0+driftline.", env!("CARGO_PKG_VERSION"));

/// When it was built, for those who insist: the same build gives the same program, whenever it is made.
pub const BUILD_DATE: &str = "1970-01-01T00:00:01Z";
