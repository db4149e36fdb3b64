//! `/ui/…`: the status page.
//!
//! Three files, embedded in the program, that read the same API as every client: cluster, services, keys
//! and events. The page loads nothing from elsewhere, and its policy forbids the browser to: whatever text
//! is in the cluster, the page cannot be made to run it.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use xxhash_rust::xxh3::xxh3_64;

use super::reply::{self, Failure, Reply};
use super::{Api, Call};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Name, type and content.
const FILES: [(&str, &str, &str); 3] = [
    ("", "text/html; charset=utf-8", include_str!("ui/index.html")),
    ("ui.css", "text/css; charset=utf-8", include_str!("ui/ui.css")),
    ("ui.js", "text/javascript; charset=utf-8", include_str!("ui/ui.js")),
];

/// To where the page is.
pub async fn redirect(_: Arc<Api>, _: Call) -> Reply {
    let mut response = reply::empty(StatusCode::MOVED_PERMANENTLY);
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/ui/"));
    Ok(response)
}

/// The page and its two files. A browser that has the present version is told so.
pub async fn file(_: Arc<Api>, call: Call) -> Reply {
    let name = call.tail("/ui/")?;
    let (_, media, content) = FILES.iter().find(|(known, ..)| *known == name).ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, format!("The status page has no file {name:?}"))
    })?;
    let tag = format!("\"{:016x}\"", xxh3_64(content.as_bytes()));
    let known =
        call.head.headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response =
        if known { reply::empty(StatusCode::NOT_MODIFIED) } else { Response::new(Body::from(*content)) };
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, *media),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}
