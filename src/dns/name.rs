//! What a question's name asks for.
//!
//! ```text
//! NAME.node[.DC].consul                a node; NAME may have dots
//! [TAG.]NAME.service[.DC].consul       the instances of a service that serve; TAG may have dots
//! _NAME._TAG[.service][.DC].consul     the same, as RFC 2782 has it; the tag `tcp` stands for any. Without `service` for SRV only
//! NAME.query[.DC].consul               what a prepared query finds; NAME may have dots
//! _NAME._tcp.query[.DC].consul         the same, as RFC 2782 has it
//! HEX.addr[.DC].consul                 the address that is written in HEX, for targets that are no node
//! D.C.B.A.in-addr.arpa, ….ip6.arpa     the node at an address
//! consul, ns.consul                    the domain itself, and its name server
//! ```
//! `DC` may also be written `DC.dc`. Names are compared without regard to case: they arrive here in small letters.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::iana::Rtype;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The domain itself.
    Apex,
    /// The domain's name server.
    NameServer,
    /// A node.
    Node(String),
    /// The instances of a service.
    Service {
        /// Its name.
        name: String,
        /// Only those with this tag.
        tag: Option<String>,
    },
    /// What a prepared query finds.
    Query(String),
    /// The address that the name itself spells.
    Address(IpAddr),
    /// The node that has an address.
    Reverse(IpAddr),
    /// Something in the domain that cannot exist.
    Nothing,
    /// A name of another domain.
    Foreign,
}

/// Understands a name that is asked for records of this type, given as labels in small letters without the root.
pub fn wanted(labels: &[String], rtype: Rtype, domain: &[String], datacenter: &str) -> Wanted {
    if let Some(address) = reverse(labels) {
        return Wanted::Reverse(address);
    }
    let Some(labels) = labels.strip_suffix(domain) else { return Wanted::Foreign };
    let mut labels = match labels {
        [] => return Wanted::Apex,
        [one] if one == "ns" => return Wanted::NameServer,
        labels => labels,
    };
    let kind = match take_kind(&mut labels, rtype) {
        Some(kind) => kind,
        None => {
            // The last label names the datacenter then, or says that the one before does.
            let named = match take_last(&mut labels) {
                Some("dc") => take_last(&mut labels),
                named => named,
            };
            if named.is_none_or(|named| !named.eq_ignore_ascii_case(datacenter)) {
                return Wanted::Nothing;
            }
            let Some(kind) = take_kind(&mut labels, rtype) else { return Wanted::Nothing };
            kind
        }
    };
    match (kind, labels) {
        (_, []) => Wanted::Nothing,
        ("node", labels) => Wanted::Node(labels.join(".")),
        ("service", [name, tag]) if name.starts_with('_') && tag.starts_with('_') => {
            let tag = (tag != "_tcp").then(|| tag[1..].to_owned());
            Wanted::Service { name: name[1..].to_owned(), tag }
        }
        ("service", [name]) => Wanted::Service { name: name.clone(), tag: None },
        ("service", [tag @ .., name]) => Wanted::Service { name: name.clone(), tag: Some(tag.join(".")) },
        ("query", [name, protocol]) if name.starts_with('_') && protocol == "_tcp" => {
            Wanted::Query(name[1..].to_owned())
        }
        ("query", labels) => Wanted::Query(labels.join(".")),
        ("addr", [hex]) => spelled(hex).map_or(Wanted::Nothing, Wanted::Address),
        _ => Wanted::Nothing,
    }
}

/// What these labels end with, if that says what they are of. RFC 2782 has no such word: there it is a service.
fn take_kind<'a>(labels: &mut &'a [String], rtype: Rtype) -> Option<&'a str> {
    let last = labels.last()?;
    if rtype == Rtype::SRV && last.starts_with('_') {
        return Some("service");
    }
    is_kind(last).then(|| take_last(labels)).flatten()
}

/// What can stand before the domain.
fn is_kind(label: &str) -> bool {
    matches!(label, "node" | "service" | "addr" | "query" | "connect" | "ingress" | "virtual")
}

fn take_last<'a>(labels: &mut &'a [String]) -> Option<&'a str> {
    let (last, rest) = labels.split_last()?;
    *labels = rest;
    Some(last)
}

/// An address as the label of a target spells it.
pub fn spell(address: IpAddr) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match address {
        IpAddr::V4(address) => hex(&address.octets()),
        IpAddr::V6(address) => hex(&address.octets()),
    }
}

fn spelled(hex: &str) -> Option<IpAddr> {
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match hex.len() {
        8 => u32::from_str_radix(hex, 16).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
        32 => u128::from_str_radix(hex, 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into()),
        _ => None,
    }
}

fn reverse(labels: &[String]) -> Option<IpAddr> {
    let (rest, tail) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
    match (tail[0].as_str(), tail[1].as_str(), rest) {
        ("in-addr", "arpa", [d, c, b, a]) => {
            let octet = |label: &String| label.parse::<u8>().ok();
            Some(Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?).into())
        }
        ("ip6", "arpa", nibbles) if nibbles.len() == 32 => {
            let mut bits = 0u128;
            for nibble in nibbles.iter().rev() {
                let digit =
                    if nibble.len() == 1 { nibble.chars().next()?.to_digit(16)? } else { return None };
                bits = bits << 4 | u128::from(digit);
            }
            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(name: &str) -> Vec<String> {
        name.split('.').filter(|label| !label.is_empty()).map(str::to_owned).collect()
    }

    fn ask(name: &str, rtype: Rtype) -> Wanted {
        wanted(&labels(name), rtype, &labels("consul"), "dc1")
    }

    fn service(name: &str, tag: Option<&str>) -> Wanted {
        Wanted::Service { name: name.into(), tag: tag.map(str::to_owned) }
    }

    #[test]
    fn names_are_understood_as_consul_does() {
        let cases = [
            ("consul", Wanted::Apex),
            ("ns.consul", Wanted::NameServer),
            ("n1.node.consul", Wanted::Node("n1".into())),
            ("n1.example.com.node.dc1.consul", Wanted::Node("n1.example.com".into())),
            ("web.service.consul", service("web", None)),
            ("web.service.dc1.consul", service("web", None)),
            ("web.service.dc1.dc.consul", service("web", None)),
            ("web.service.dc2.consul", Wanted::Nothing),
            ("web.service.dc.consul", Wanted::Nothing),
            ("v1.web.service.consul", service("web", Some("v1"))),
            ("v1.2.web.service.consul", service("web", Some("v1.2"))),
            ("_web._tcp.service.consul", service("web", None)),
            ("_web._v1.service.consul", service("web", Some("v1"))),
            ("service.consul", Wanted::Nothing),
            ("node.consul", Wanted::Nothing),
            ("0a000001.addr.dc1.consul", Wanted::Address([10, 0, 0, 1].into())),
            ("0a00000.addr.consul", Wanted::Nothing),
            ("+a000001.addr.consul", Wanted::Nothing),
            ("web.query.consul", Wanted::Query("web".into())),
            ("geo.web.query.dc1.consul", Wanted::Query("geo.web".into())),
            ("_web._tcp.query.consul", Wanted::Query("web".into())),
            ("query.consul", Wanted::Nothing),
            ("web.connect.consul", Wanted::Nothing),
            ("web.consul", Wanted::Nothing),
            ("example.com", Wanted::Foreign),
            ("", Wanted::Foreign),
            ("2.0.0.10.in-addr.arpa", Wanted::Reverse([10, 0, 0, 2].into())),
            ("0.0.10.in-addr.arpa", Wanted::Foreign),
            ("256.0.0.10.in-addr.arpa", Wanted::Foreign),
        ];
        for (name, expected) in cases {
            assert_eq!(ask(name, Rtype::A), expected, "{name:?}");
        }
        let by_srv = [
            ("_web._tcp.consul", service("web", None)),
            ("_web._v1.dc1.consul", service("web", Some("v1"))),
            ("_web._v1.dc1.dc.consul", service("web", Some("v1"))),
            ("_web._v1.dc2.consul", Wanted::Nothing),
        ];
        for (name, expected) in by_srv {
            assert_eq!(ask(name, Rtype::SRV), expected, "{name:?}");
            assert_eq!(ask(name, Rtype::A), Wanted::Nothing, "{name:?}");
        }
        let v6 = "2001:db8::2".parse::<Ipv6Addr>().unwrap();
        let nibbles: Vec<String> = spell(v6.into()).chars().rev().map(String::from).collect();
        assert_eq!(ask(&format!("{}.ip6.arpa", nibbles.join(".")), Rtype::PTR), Wanted::Reverse(v6.into()));
        assert_eq!(wanted(&labels("web.service.a.b"), Rtype::A, &labels("a.b"), "dc1"), service("web", None));
    }

    proptest! {
        #[test]
        fn every_name_means_something_and_addresses_are_read_as_written(
            labels in prop::collection::vec("[a-z0-9._-]{0,4}|node|service|addr|dc|dc1|consul|arpa|ip6", 0..40),
            bits in any::<u128>(),
        ) {
            for rtype in [Rtype::A, Rtype::SRV] {
                let _ = wanted(&labels, rtype, &["consul".to_owned()], "dc1");
            }
            for address in [IpAddr::from(Ipv6Addr::from_bits(bits)), Ipv4Addr::from_bits(bits as u32).into()] {
                prop_assert_eq!(spelled(&spell(address)), Some(address));
            }
        }
    }
}
