//! Services and checks as they are written down: in configuration files, and in the bodies of requests.
//!
//! The names of fields are Consul's, in the one form of [`loose`]. A request may have more in it than is known
//! here, as clients of newer versions send it; a file may not, since a misspelt key would be a setting that is not in force.
//! What a service or a check means, and whether it means anything, is said by [`crate::agent::local::define`].

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned, de::Error as _};
use serde_json::Value;

use super::loose::{self, GoDuration, Labels, ServiceAddress};
use crate::secret::Secret;

/// Why a service is refused that asks for the mesh.
pub const NO_MESH: &str = "There is no service mesh: Connect is not supported";

/// Keys of Consul's of which there is nothing here. A request passes over them, and a file must not.
const NOT_HERE: [(&str, &str); 5] = [
    ("connect", NO_MESH),
    ("proxy", NO_MESH),
    ("locality", "There is no service mesh: localities are not supported"),
    ("socketpath", "There is no service mesh: services at Unix sockets are not supported"),
    ("shell", "Docker checks are not supported"),
];

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct Service {
    /// What kind of service; empty for an ordinary one.
    pub kind: String,
    /// Its id on its node; empty: its name.
    pub id: String,
    /// Its name, as requests to the catalog call it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Labels to select it by.
    pub tags: Vec<String>,
    /// Where it listens; empty: at the node's address.
    pub address: String,
    /// The port.
    pub port: u16,
    /// Ports with names, of newer clients. One of them counts, if there is no `port`: see [`Service::port`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
    /// Labels with values.
    pub meta: Labels,
    /// Other addresses that it has, by what they are for.
    pub taggedaddresses: BTreeMap<String, ServiceAddress>,
    /// How much of the traffic it is to get.
    pub weights: Weights,
    /// Whether others may change its tags in the catalog.
    pub enabletagoverride: bool,
    /// By whose right it is entered into the catalog; empty: the agent's.
    pub token: Secret,
    /// A check of it.
    pub check: Option<Check>,
    /// Its checks.
    pub checks: Vec<Check>,
}

/// A port of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct NamedPort {
    /// What it is for.
    pub name: String,
    /// The port.
    pub port: u16,
    /// Whether it is the one to take if nothing is said.
    pub default: bool,
}

impl Service {
    /// Where it listens: its port, or of its ports with names the default one, or the first.
    pub fn port(&self) -> u16 {
        let named = || self.ports.iter().find(|one| one.default).or(self.ports.first());
        if self.port > 0 { self.port } else { named().map_or(0, |one| one.port) }
    }
}

/// How much of the traffic a service is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct Weights {
    /// While its checks pass.
    pub passing: u32,
    /// While one of them warns.
    pub warning: u32,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights { passing: 1, warning: 1 }
    }
}

/// A check. Which of the ways to find out is not empty is the way it finds out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct Check {
    /// Its id on its node; empty: its name.
    pub id: String,
    /// The same under another name, which comes first.
    pub checkid: String,
    /// Its name.
    pub name: String,
    /// What it is about, for people.
    pub notes: String,
    /// The service it is about; empty: the node.
    pub serviceid: String,
    /// What it says before it has found anything; empty: critical.
    pub status: String,
    /// By whose right it is entered into the catalog; empty: the agent's.
    pub token: Secret,
    /// It is told, at least so often.
    pub ttl: GoDuration,
    /// It asks this address by HTTP.
    pub http: String,
    /// The verb; empty: GET.
    pub method: String,
    /// Headers. What they say may be a secret.
    pub header: BTreeMap<String, Vec<Secret>>,
    /// The body.
    pub body: String,
    /// Whether an answer that refers to another address counts as it is. Otherwise that address is asked.
    pub disableredirects: bool,
    /// The name that the certificate of an `https://` address must have; empty: the host's.
    pub tlsservername: String,
    /// Whether any certificate will do there.
    pub tlsskipverify: bool,
    /// It connects to this address.
    pub tcp: String,
    /// Whether by TLS.
    pub tcpusetls: bool,
    /// It runs this program.
    pub args: Vec<String>,
    /// The same under an older name.
    pub scriptargs: Vec<String>,
    /// Not supported: a command line.
    pub script: String,
    /// It asks this server by gRPC's health protocol, `HOST:PORT` or `HOST:PORT/SERVICE`.
    pub grpc: String,
    /// Whether by TLS.
    pub grpcusetls: bool,
    /// Not supported.
    pub dockercontainerid: String,
    /// It pings this address by HTTP/2, `HOST:PORT`.
    pub h2ping: String,
    /// Whether by TLS; it does if nothing is said.
    pub h2pingusetls: Option<bool>,
    /// Not supported.
    pub udp: String,
    /// Not supported.
    pub osservice: String,
    /// It follows a service of this node; empty: of its own.
    pub aliasnode: String,
    /// It follows this service; empty, with a node: the node itself.
    pub aliasservice: String,
    /// How often it looks.
    pub interval: GoDuration,
    /// How long it waits.
    pub timeout: GoDuration,
    /// Its service is taken out when it has been critical for so long.
    pub deregistercriticalserviceafter: GoDuration,
    /// So many passes in a row until it passes.
    pub successbeforepassing: u32,
    /// So many failures in a row until it warns; 0: as many as make it critical.
    pub failuresbeforewarning: u32,
    /// So many failures in a row until it is critical.
    pub failuresbeforecritical: u32,
    /// What it says at most, in bytes; 0, or more than 4,096: 4,096.
    pub outputmaxsize: usize,
}

/// Reads a list of services in a file.
pub(super) fn services<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Service>, D::Error> {
    list(deserializer)
}

/// Reads a list of checks in a file.
pub(super) fn checks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Check>, D::Error> {
    list(deserializer)
}

fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Serialize + Default,
{
    let values = Vec::<Value>::deserialize(deserializer)?;
    let read = |(number, value)| strict(value).map_err(|reason| format!("number {number}: {reason}"));
    (1..).zip(values).map(read).collect::<Result<_, _>>().map_err(D::Error::custom)
}

/// Reads what somebody wrote into a file: without keys that nobody knows.
fn strict<T: DeserializeOwned + Serialize + Default>(value: Value) -> Result<T, String> {
    let value = loose::squashed(value);
    only_known::<T>(&value)?;
    let checks = value.get("checks").and_then(Value::as_array).into_iter().flatten();
    for check in value.get("check").into_iter().chain(checks) {
        only_known::<Check>(check).map_err(|reason| format!("its check: {reason}"))?;
    }
    loose::exact(value).map_err(|error| error.to_string())
}

fn only_known<T: Serialize + Default>(value: &Value) -> Result<(), String> {
    let Value::Object(given) = value else { return Err("must be a table of keys".to_owned()) };
    // Plain data always has a form, and all its fields are in it.
    let known = serde_json::to_value(T::default()).unwrap_or_default();
    match given.keys().find(|key| known.get(key.as_str()).is_none()) {
        None => Ok(()),
        Some(key) => {
            if let Some((_, reason)) = NOT_HERE.iter().find(|(absent, _)| absent == key) {
                return Err(format!("the key {key}: {reason}"));
            }
            let known = known.as_object().into_iter().flat_map(|known| known.keys().map(String::as_str));
            Err(format!("the key {key} is unknown; known are {}", known.collect::<Vec<_>>().join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_may_write_keys_as_consul_does() {
        let written = json!({
            "Name": "web", "enable_tag_override": true, "token": "s3cr3t",
            "check": { "HTTP": "http://127.0.0.1:1/", "interval": "10s", "header": { "X-Key": ["v"] } },
        });
        let service: Service = strict(written).unwrap();
        assert_eq!((service.name.as_str(), service.enabletagoverride), ("web", true));
        assert_eq!(service.check.as_ref().unwrap().interval.0.as_secs(), 10);
        let shown = serde_json::to_string(&service).unwrap();
        assert!(!shown.contains("s3cr3t") && !shown.contains("\"v\""), "{shown}");
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let of = |value| strict::<Service>(value).unwrap_err();
        assert!(of(json!({ "name": "a", "prot": 1 })).starts_with("the key prot is unknown; known are "));
        let check = json!({ "name": "a", "checks": [{ "tcp": "x", "intervall": "1s" }] });
        assert!(of(check).starts_with("its check: the key intervall is unknown"));
        assert_eq!(of(json!("web")), "must be a table of keys");
        let weights = json!({ "name": "a", "weights": [1, 1] });
        assert!(of(weights).starts_with("invalid type: sequence, expected struct Weights"));
        assert!(of(json!({ "name": 1 })).contains("expected a string"));
    }

    #[test]
    fn what_is_not_here_is_not_called_misspelt() {
        let of = |value| strict::<Service>(value).unwrap_err();
        let mesh = "There is no service mesh: Connect is not supported";
        assert_eq!(
            of(json!({ "name": "a", "Connect": { "native": true } })),
            format!("the key connect: {mesh}")
        );
        assert_eq!(of(json!({ "name": "a", "proxy": {} })), format!("the key proxy: {mesh}"));
        for key in ["socket_path", "locality"] {
            let said = of(json!({ "name": "a", key: "x" }));
            assert!(said.contains("There is no service mesh: "), "{said}");
        }
        let docker = json!({ "docker_container_id": "x", "shell": "/bin/sh", "interval": "1s" });
        let said = of(json!({ "name": "a", "check": docker }));
        assert_eq!(said, "its check: the key shell: Docker checks are not supported");
    }
}
