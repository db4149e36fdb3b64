//! The catalog's shapes in JSON: nodes, services and checks as clients know them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::state::catalog::{CheckRow, Instance, NodeInfo, Row, ServiceInfo, Status};

/// Consul's Go types write an empty map of labels as an object, never as null.
type Labels = BTreeMap<String, String>;

/// Text by text. Nodes of agents carry the four names that clients look for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    #[serde(rename = "ID")]
    pub id: String,
    pub node: String,
    pub address: String,
    pub datacenter: String,
    pub tagged_addresses: Option<Labels>,
    pub meta: Labels,
    pub create_index: u64,
    pub modify_index: u64,
}

impl Node {
    pub fn new(row: &Row<NodeInfo>, datacenter: &str) -> Node {
        let NodeInfo { name, id, address, tagged_addresses, meta } = row.info.clone();
        Node {
            id,
            node: name,
            address,
            datacenter: datacenter.to_owned(),
            tagged_addresses: (!tagged_addresses.is_empty()).then_some(tagged_addresses),
            meta,
            create_index: row.create_index,
            modify_index: row.modify_index,
        }
    }
}

/// An address of a service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Address {
    pub address: String,
    pub port: u16,
}

/// The addresses of a service, by the network they are for.
pub fn addresses(service: &ServiceInfo) -> BTreeMap<String, Address> {
    let all = service.tagged_addresses.iter();
    all.map(|(name, (address, port))| (name.clone(), Address { address: address.clone(), port: *port }))
        .collect()
}

/// A service's share of the traffic.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Weights {
    pub passing: u32,
    pub warning: u32,
}

/// There is no service mesh; clients look for the field.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Nothing {}

/// A service as its node knows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(rename = "ID")]
    pub id: String,
    pub service: String,
    pub tags: Vec<String>,
    pub meta: Labels,
    pub port: u16,
    pub address: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, Address>,
    pub weights: Weights,
    pub enable_tag_override: bool,
    pub proxy: Nothing,
    pub connect: Nothing,
    pub create_index: u64,
    pub modify_index: u64,
}

impl Service {
    pub fn new(row: &Row<ServiceInfo>) -> Service {
        let service = &row.info;
        Service {
            kind: service.kind.clone(),
            id: service.id.clone(),
            service: service.name.clone(),
            tags: service.tags.clone(),
            meta: service.meta.clone(),
            port: service.port,
            address: service.address.clone(),
            tagged_addresses: addresses(service),
            weights: Weights { passing: service.weights.0, warning: service.weights.1 },
            enable_tag_override: service.enable_tag_override,
            proxy: Nothing {},
            connect: Nothing {},
            create_index: row.create_index,
            modify_index: row.modify_index,
        }
    }
}

/// An instance with its node, flat.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CatalogService {
    #[serde(rename = "ID")]
    pub id: String,
    pub node: String,
    pub address: String,
    pub datacenter: String,
    pub tagged_addresses: Option<Labels>,
    pub node_meta: Labels,
    pub service_kind: String,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    pub service_name: String,
    pub service_tags: Vec<String>,
    pub service_address: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub service_tagged_addresses: BTreeMap<String, Address>,
    pub service_weights: Weights,
    pub service_meta: Labels,
    pub service_port: u16,
    pub service_enable_tag_override: bool,
    pub service_proxy: Nothing,
    pub service_connect: Nothing,
    pub create_index: u64,
    pub modify_index: u64,
}

impl CatalogService {
    pub fn new(instance: &Instance, datacenter: &str) -> CatalogService {
        let node = Node::new(&instance.node, datacenter);
        let service = Service::new(&instance.service);
        CatalogService {
            id: node.id,
            node: node.node,
            address: node.address,
            datacenter: node.datacenter,
            tagged_addresses: node.tagged_addresses,
            node_meta: node.meta,
            service_kind: service.kind,
            service_id: service.id,
            service_name: service.service,
            service_tags: service.tags,
            service_address: service.address,
            service_tagged_addresses: service.tagged_addresses,
            service_weights: service.weights,
            service_meta: service.meta,
            service_port: service.port,
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: Nothing {},
            service_connect: Nothing {},
            create_index: service.create_index,
            modify_index: service.modify_index,
        }
    }
}

/// A check.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Check {
    pub node: String,
    #[serde(rename = "CheckID")]
    pub check_id: String,
    pub name: String,
    pub status: &'static str,
    pub notes: String,
    pub output: String,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    pub service_name: String,
    pub service_tags: Vec<String>,
    pub r#type: String,
    pub interval: String,
    pub timeout: String,
    pub exposed_port: u16,
    pub definition: Nothing,
    pub create_index: u64,
    pub modify_index: u64,
}

impl Check {
    pub fn new(row: &CheckRow) -> Check {
        let check = row.check.info.clone();
        Check {
            node: row.node.clone(),
            check_id: check.id,
            name: check.name,
            status: check.status.word(),
            notes: check.notes,
            output: check.output,
            service_id: check.service_id,
            service_name: row.service_name.clone(),
            service_tags: row.service_tags.clone(),
            r#type: check.kind,
            interval: check.interval,
            timeout: check.timeout,
            exposed_port: 0,
            definition: Nothing {},
            create_index: row.check.create_index,
            modify_index: row.check.modify_index,
        }
    }
}

/// A service behind a gateway. There are no gateways, and so none of these; lists of them may be filtered all the same.
#[derive(Clone, Debug, Serialize)]
pub enum GatewayService {}

/// An instance with its node and the checks of both.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CheckedService {
    pub node: Node,
    pub service: Service,
    pub checks: Vec<Check>,
}

impl CheckedService {
    pub fn new(instance: &Instance, datacenter: &str) -> CheckedService {
        CheckedService {
            node: Node::new(&instance.node, datacenter),
            service: Service::new(&instance.service),
            checks: instance.checks.iter().map(Check::new).collect(),
        }
    }

    /// Whether all its checks pass.
    pub fn is_passing(&self) -> bool {
        self.checks.iter().all(|check| check.status == Status::Passing.word())
    }
}
