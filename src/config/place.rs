//! Where others may be found: an address, or a name that is looked up whenever it is needed.
//!
//! A name is worth more than the address it had: a member that starts elsewhere keeps its name, and a name that nobody has yet
//! may be given to somebody soon.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Place {
    host: String,
    port: u16,
}

impl Place {
    /// What `host:port` means, or `host` alone with the default port. An address of IPv6 with a port is in brackets.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, default_port: u16) -> Result<Place, String> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, default_port).into());
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(addr.into());
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()),
            None => (text, Some(default_port)),
        };
        let in_names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        match port {
            Some(port) if !host.is_empty() && host.len() <= 253 && host.bytes().all(in_names) => {
                Ok(Place { host: host.to_owned(), port })
            }
            _ => Err(format!(
                "{text:?} is no address: want IP, NAME, IP:PORT, NAME:PORT or [IPv6]:PORT, and nothing before it"
            )),
        }
    }

    /// A name, or an address in words.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port there.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, if it need not be looked up.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for Place {
    fn from(addr: SocketAddr) -> Place {
        Place { host: addr.ip().to_string(), port: addr.port() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(addr) => addr.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let place = Place::parse(text, 0)?;
        if place.port == 0 {
            return Err(format!("{text:?} has no port"));
        }
        Ok(place)
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Place, String> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> String {
        place.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_with_and_without_ports() {
        for (text, means) in [
            ("10.0.0.1", "10.0.0.1:8301"),
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("::1", "[::1]:8301"),
            ("[::1]", "[::1]:8301"),
            ("[::1]:9", "[::1]:9"),
            ("consul-0.consul", "consul-0.consul:8301"),
            ("consul-0.consul:9", "consul-0.consul:9"),
        ] {
            let place = Place::parse(text, 8301).unwrap();
            assert_eq!(place.to_string(), means);
            assert_eq!(means.parse(), Ok(place.clone()));
            let json = serde_json::to_string(&place).unwrap();
            assert_eq!(serde_json::from_str::<Place>(&json).unwrap(), place);
        }
        for text in ["", ":9", "a b", "a:b", "a:70000", "provider=aws tag=x", "a/b"] {
            assert!(Place::parse(text, 8301).is_err(), "{text}");
        }
        let url = Place::parse("http://10.0.0.1", 8301).unwrap_err();
        assert!(url.contains("http://10.0.0.1") && url.contains("NAME:PORT"), "{url}");
        assert!("consul-0.consul".parse::<Place>().is_err());
        assert_eq!(Place::parse("a.b", 1).unwrap().address(), None);
    }
}
