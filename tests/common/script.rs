//! Golden scripts: one HTTP request a line, against one node, with everything masked that differs from run
//! to run.
//!
//! A line is `METHOD PATH`, and after ` <- ` a body. `bytes:N` stands for a body of N bytes. A UUID that an
//! answer shows becomes `$1`, `$2`, … in the order of first appearance, and can be written so in later
//! requests. Indexes become `#1`, `#2`, … likewise. Lines that begin with `# --` are headings.

use driftline::http::client::Response;
use hyper::Method;

use super::Http;

/// What was seen so far.
#[derive(Default)]
struct Seen {
    indexes: Vec<String>,
    uuids: Vec<String>,
}

fn place(seen: &mut Vec<String>, value: &str) -> usize {
    let known = seen.iter().position(|known| known == value);
    known.unwrap_or_else(|| {
        seen.push(value.to_owned());
        seen.len() - 1
    }) + 1
}

/// The UUID that a text begins with.
fn uuid(text: &str) -> Option<&str> {
    let start = text.get(..36)?;
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    start.bytes().enumerate().all(fits).then_some(start)
}

impl Seen {
    fn mask(&mut self, text: &str) -> String {
        let mut masked = String::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            if let Some(uuid) = uuid(rest) {
                masked += &format!("${}", place(&mut self.uuids, uuid));
                rest = &rest[36..];
                continue;
            }
            let field = ["\"CreateIndex\":", "\"ModifyIndex\":", "current modify index "];
            if let Some(field) = field.into_iter().find(|field| rest.starts_with(field)) {
                let value = rest[field.len()..].trim_start();
                let len = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
                // 0 is no index: an entry that is not there.
                let shown = match &value[..len] {
                    "0" => "0".to_owned(),
                    index => format!("#{}", place(&mut self.indexes, index)),
                };
                masked += &format!("{field}{shown}");
                rest = &value[len..];
                continue;
            }
            masked.push(next);
            rest = &rest[next.len_utf8()..];
        }
        masked
    }

    fn unmask(&self, text: &str) -> String {
        // From the last: `$12` is not `$1` and a 2.
        let numbered = self.uuids.iter().enumerate().rev();
        let text =
            numbered.fold(text.to_owned(), |text, (i, uuid)| text.replace(&format!("${}", i + 1), uuid));
        let numbered = self.indexes.iter().enumerate().rev();
        numbered.fold(text, |text, (i, index)| text.replace(&format!("#{}", i + 1), index))
    }

    fn answer(&mut self, response: &Response) -> String {
        let mut line = response.status.to_string();
        let shown = [
            ("content-type", ""),
            ("allow", "allow="),
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
            line += &format!(" index=#{}", place(&mut self.indexes, index));
        }
        let body = self.mask(response.text().trim_end());
        if body.is_empty() { line } else { format!("{line}\n{body}") }
    }
}

/// Asks everything that the script asks, and writes down what was answered.
pub fn transcript(http: &Http, script: &str) -> String {
    let mut seen = Seen::default();
    let mut transcript = String::new();
    for line in script.lines() {
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
            None => seen.unmask(body).into_bytes(),
        };
        let method: Method = method.parse().expect("a method");
        let path = seen.unmask(path);
        let response = http.call(method, &path, bytes).unwrap_or_else(|error| panic!("{line}: {error}"));
        transcript += &format!("> {line}\n{}\n\n", seen.answer(&response));
    }
    transcript
}
