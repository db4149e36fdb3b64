//! What goes back: JSON, plain-text errors, and the headers that describe a read.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::agent::{Answer, Consistency, ReadError, WriteError};
use crate::config::DefaultPolicy;
use crate::state::Outcome;
use crate::state::acl::Denied;

/// What a handler returns.
pub type Reply = Result<Response, Failure>;

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const EFFECTIVE_CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
const QUERY_BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");
const DEFAULT_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");
const BECAUSE: &str = "x-consul-reason";
const FILTERED: HeaderName = HeaderName::from_static("x-consul-results-filtered-by-acls");
const OUTCOME: HeaderName = HeaderName::from_static("x-driftline-outcome");

/// Whether a write that failed may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedWrite {
    /// It was not applied and never will be.
    Refused,
    /// It may have been applied, or may yet be.
    Unknown,
}

/// A request that is answered with an error: a status and a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body.
    pub text: String,
    /// Set when the request was a write.
    pub write: Option<FailedWrite>,
    /// The methods that would be allowed, for a 405.
    pub allow: Option<String>,
}

impl Failure {
    /// An error of this status.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Failure {
        Failure { status, text: text.into(), write: None, allow: None }
    }

    /// 400: the client should change the request.
    pub fn bad_request(text: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, text)
    }

    /// 403: whoever asks may not.
    pub fn denied(text: impl Into<String>) -> Failure {
        Failure::new(StatusCode::FORBIDDEN, text)
    }

    /// 500: the API's answer to everything that went wrong here.
    pub fn internal(text: impl Into<String>) -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    /// 500 for a write that was certainly not applied.
    pub fn refused(text: impl Into<String>) -> Failure {
        Failure { write: Some(FailedWrite::Refused), ..Failure::internal(text) }
    }

    /// The log's answer to a late copy of a write; what the first copy came to is no longer known.
    pub fn forgotten() -> Failure {
        Failure::unknown("the outcome of this write is no longer known")
    }

    /// 500 for a write that may still be applied.
    pub fn unknown(text: impl Into<String>) -> Failure {
        Failure { write: Some(FailedWrite::Unknown), ..Failure::internal(text) }
    }
}

/// What a write came to that is answered by yes or no: whether its condition held.
///
/// # Errors
/// When it was refused, or nobody knows.
pub fn yes_or_no(outcome: Outcome) -> Result<bool, Failure> {
    match outcome {
        Outcome::Done { .. } | Outcome::Answered { .. } | Outcome::Returned { .. } => Ok(true),
        Outcome::ConditionFailed { .. } => Ok(false),
        Outcome::Refused { refusal, .. } => Err(Failure::refused(refusal.to_string())),
        Outcome::Stale => Err(Failure::forgotten()),
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error {
            ReadError::Denied(text) => Failure::denied(text),
            ReadError::NoLeader(text) => Failure::internal(text),
        }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Failure {
        Failure::denied(denied.0)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Failure {
        match error {
            WriteError::Refused(_) => Failure::refused(error.to_string()),
            WriteError::Unknown(_) => Failure::unknown(error.to_string()),
            WriteError::Denied(text) => {
                Failure { write: Some(FailedWrite::Refused), ..Failure::denied(text) }
            }
            WriteError::OtherCluster { .. } => {
                Failure { status: StatusCode::CONFLICT, ..Failure::refused(error.to_string()) }
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = text(self.status, self.text);
        let headers = response.headers_mut();
        if let Some(write) = self.write {
            let outcome = match write {
                FailedWrite::Refused => "refused",
                FailedWrite::Unknown => "unknown",
            };
            headers.insert(OUTCOME, HeaderValue::from_static(outcome));
        }
        if let Some(allow) = self.allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Plain text that no browser may take for anything else.
pub fn text(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A stored value as it is. Whoever wrote it must not be able to run it in a reader's browser.
pub fn raw(value: impl Into<Body>) -> Response {
    let mut response = Response::new(value.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    response
}

/// 200 with a JSON body: compact, or for people with four spaces and a line end.
///
/// # Errors
/// A 500 if the value cannot be JSON, which no type here is capable of.
pub fn json(value: &impl Serialize, pretty: bool) -> Reply {
    let body = if pretty {
        let mut body = Vec::new();
        let four_spaces = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut body, four_spaces);
        value.serialize(&mut serializer).map(|()| {
            body.push(b'\n');
            body
        })
    } else {
        serde_json::to_vec(value)
    };
    let body = body.map_err(|error| Failure::internal(format!("cannot encode the answer: {error}")))?;
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Adds the headers that describe a read of the replicated state. `index` is what the client should
/// block on next; it never goes out as 0, which would mean "do not block".
pub fn describe<T>(response: Response, index: u64, answer: &Answer<T>, consistency: Consistency) -> Response {
    let mut response = describe_unindexed(response, answer, consistency);
    response.headers_mut().insert(INDEX, HeaderValue::from(index.max(1)));
    response
}

/// What a read found, as JSON and described.
///
/// # Errors
/// Those of [`json`].
pub fn found<T>(shown: &impl Serialize, pretty: bool, answer: &Answer<T>, consistency: Consistency) -> Reply {
    Ok(describe(json(shown, pretty)?, answer.index, answer, consistency))
}

/// The same as [`describe`] for a read that has no index to block on.
pub fn describe_unindexed<T>(
    mut response: Response,
    answer: &Answer<T>,
    consistency: Consistency,
) -> Response {
    let headers = response.headers_mut();
    headers
        .insert(KNOWN_LEADER, HeaderValue::from_static(if answer.known_leader { "true" } else { "false" }));
    let last_contact = u64::try_from(answer.last_contact.as_millis()).unwrap_or(u64::MAX);
    headers.insert(LAST_CONTACT, HeaderValue::from(last_contact));
    let consistency = match consistency {
        Consistency::Default => "leader",
        Consistency::Consistent => "consistent",
        Consistency::Stale => "stale",
    };
    headers.insert(EFFECTIVE_CONSISTENCY, HeaderValue::from_static(consistency));
    // The other backend of Consul's is a stream between its agents; there is none here.
    headers.insert(QUERY_BACKEND, HeaderValue::from_static("blocking-query"));
    sifted(response, answer.filtered)
}

/// Says that something was left out which whoever asks may not see, if something was. See [`unsifted`].
pub fn sifted(mut response: Response, filtered: bool) -> Response {
    if filtered {
        response.headers_mut().insert(FILTERED, HeaderValue::from_static("true"));
    }
    response
}

/// Does not say it after all, as Consul does not. Whoever shows no token is not told that there is something that may not be seen: by asking
/// for one beginning of a name after the other, anybody could read the names.
pub fn unsifted(mut response: Response) -> Response {
    response.headers_mut().remove(FILTERED);
    response
}

/// Says in a header too why the answer is what it is.
pub fn because(mut response: Response, reason: &str) -> Response {
    // What cannot stand in a header is in the body all the same.
    if let Ok(reason) = HeaderValue::from_str(reason) {
        response.headers_mut().insert(BECAUSE, reason);
    }
    response
}

/// Says what is allowed where no rule says anything. Every answer does, whether rights are looked at or not.
pub fn under_policy(mut response: Response, policy: DefaultPolicy) -> Response {
    let word = match policy {
        DefaultPolicy::Allow => "allow",
        DefaultPolicy::Deny => "deny",
    };
    response.headers_mut().insert(DEFAULT_POLICY, HeaderValue::from_static(word));
    response
}

/// Adds the index of an answer that does not come from the replicated state.
pub fn indexed(mut response: Response, index: u64) -> Response {
    response.headers_mut().insert(INDEX, HeaderValue::from(index.max(1)));
    response
}
