//! A text that must not be shown.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A secret of the configuration. It is written where a configuration is written out as a file, and nowhere else:
/// [`Config::shown`](super::Config::shown) is what people get to see.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// This text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.0.trim().is_empty()
    }

    /// What stands for it where people look.
    pub fn hidden(&self) -> Secret {
        Secret(if self.is_empty() { String::new() } else { "hidden".to_owned() })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "hidden" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_shown() {
        let secret = Secret::new("open sesame");
        assert_eq!(format!("{secret:?} {:?}", secret.hidden().reveal()), "hidden \"hidden\"");
        assert_eq!(format!("{:?} {:?}", Secret::default(), Secret::default().hidden().reveal()), "none \"\"");
    }
}
