//! The script of the HTTP contract, and what its answers look like without what differs from run to run.

use std::net::SocketAddr;

use driftline::http::client::Response;
use hyper::Method;

use super::Node;

const SCRIPT: &str = include_str!("../../fixtures/scripts/http.script");

/// Runs the script against a node of a cluster whose servers are at these addresses.
pub fn transcript(node: &Node, servers: &[SocketAddr]) -> String {
    let mut ports = vec![(format!(":{}", node.at.http.port()), ":<http>")];
    ports.push((format!(":{}", node.at.gossip.port()), ":<gossip>"));
    ports.extend(servers.iter().map(|addr| (format!(":{}", addr.port()), ":<rpc>")));
    let mut mask = Mask { indexes: Vec::new(), ports };
    let mut transcript = String::new();
    for line in SCRIPT.lines() {
        if line.is_empty() || line.starts_with('#') {
            if line.starts_with("# --") {
                transcript += &format!("{line}\n\n");
            }
            continue;
        }
        let (request, body) = line.split_once(" <- ").unwrap_or((line, ""));
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let bytes = match body.strip_prefix("bytes:") {
            Some(count) => vec![b'x'; count.parse().expect("a number")],
            None => body.as_bytes().to_vec(),
        };
        let method: Method = method.parse().expect("a method");
        let response =
            node.http().call(method, path, bytes).unwrap_or_else(|error| panic!("{line}: {error}"));
        transcript += &format!("> {line}\n{}\n\n", mask.answer(&response));
    }
    transcript
}

/// The parts of a transcript, by their titles.
pub fn parts(transcript: &str) -> Vec<(&str, &str)> {
    let parts = transcript.split("# -- ").skip(1);
    parts.map(|part| part.split_once('\n').expect("a title")).collect()
}

/// Replaces what differs from run to run: indexes by `#1`, `#2`, … in the order of their first
/// appearance, event ids, and ports.
struct Mask {
    indexes: Vec<String>,
    ports: Vec<(String, &'static str)>,
}

impl Mask {
    fn index(&mut self, index: &str) -> String {
        let known = self.indexes.iter().position(|known| known == index);
        let place = known.unwrap_or_else(|| {
            self.indexes.push(index.to_owned());
            self.indexes.len() - 1
        });
        format!("#{}", place + 1)
    }

    fn body(&mut self, body: &str) -> String {
        let mut masked = body.to_owned();
        for (port, name) in &self.ports {
            masked = masked.replace(port, name);
        }
        let mut parts = masked.split("{\"ID\":\"");
        let mut joined = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            // Ids of events are as long as UUIDs are.
            joined += &format!("{{\"ID\":\"<uuid>{}", &part[36..]);
        }
        masked = joined;
        let fields = ["\"CreateIndex\":", "\"ModifyIndex\":", "\"LTime\":", "\"LastIndex\":", ",\"Index\":"];
        for field in fields {
            let mut parts = masked.split(field);
            let mut joined = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let digits = part.trim_start();
                let len = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
                let value = match field {
                    "\"LTime\":" if &digits[..len] == "0" => "0".to_owned(),
                    "\"LTime\":" => "<time>".to_owned(),
                    // Where the log stands is nobody's promise.
                    "\"LastIndex\":" | ",\"Index\":" => "<log index>".to_owned(),
                    _ => self.index(&digits[..len]),
                };
                joined += &format!("{field}{value}{}", &digits[len..]);
            }
            masked = joined;
        }
        masked
    }

    fn answer(&mut self, response: &Response) -> String {
        let mut line = response.status.to_string();
        let shown = [
            ("content-type", ""),
            ("allow", "allow="),
            ("x-content-type-options", ""),
            ("content-security-policy", ""),
            ("x-consul-knownleader", "leader="),
            ("x-consul-effective-consistency", ""),
            ("x-driftline-outcome", "outcome="),
        ];
        for (header, label) in shown {
            if let Some(value) = response.header(header) {
                line += &format!(" {label}{value}");
            }
        }
        if let Some(index) = response.header("x-consul-index") {
            line += &format!(" index={}", self.index(index));
        }
        let body = match response.body.len() {
            0..4096 => self.body(&response.text()),
            len => format!("({len} bytes)"),
        };
        if body.is_empty() { line } else { format!("{line}\n{}", body.trim_end()) }
    }
}
