//! `/v1/snapshot`: the whole state as one file, and back.
//!
//! A file is taken apart and checked before anything is proposed to the cluster; what then goes there goes in pieces:
//! see [`crate::agent::archive`] and [`crate::state::restore`]. One restore at a time, as each holds the whole state in
//! memory; another is told 503.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt;

use crate::agent::{Consistency, archive};
use crate::mutant;
use crate::state::query::Applied;

use super::reply::{self, Failure, Reply};
use super::{Api, Call};

/// `GET` and `PUT /v1/snapshot`
pub async fn snapshot(api: Arc<Api>, call: Call) -> Reply {
    if call.head.method == Method::PUT { restore(api, call).await } else { save(api, call).await }
}

/// Gives the state as a file. With `?stale`, from whichever server is asked, as it is there.
async fn save(api: Arc<Api>, call: Call) -> Reply {
    let mut options = call.params.query_options(|| 0.0)?;
    options.min_index = 0;
    // Mutant H27: it is the state of whichever server is asked, as it is there.
    if mutant::is("H27") {
        options.consistency = Consistency::Stale;
    }
    let answer = api.agent.query(options, &Applied).await?;
    let state = api.agent.snapshot(options.consistency == Consistency::Stale).await?;
    let packed = api.agent.env().blocking(move || archive::pack(&state).map(|file| (state, file))).await;
    let packed = packed.map_err(|error| Failure::internal(error.to_string()))?;
    let (state, file) = packed.map_err(|error| Failure::internal(error.to_string()))?;
    let summary = crate::state::snapshot::describe(&state);
    let index = summary.map_or(answer.index, |summary| summary.applied);
    let mut response = Response::new(Body::from(file));
    let kind = HeaderValue::from_static("application/x-gzip");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(reply::describe(response, index, &answer, options.consistency))
}

/// Makes the state what a file says.
async fn restore(api: Arc<Api>, call: Call) -> Reply {
    if call.params.switch("stale") {
        return Err(Failure::bad_request("stale not allowed for restore"));
    }
    let Ok(turn) = api.restoring.clone().try_acquire_owned() else {
        let text = "This agent is restoring another snapshot: wait for that to end";
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let file = read_file(&api, call.body).await?;
    let limit = api.limits().snapshot_bytes;
    let unpacked = api.agent.env().blocking(move || archive::unpack(&file, limit)).await;
    let unpacked = unpacked.map_err(|error| Failure::refused(error.to_string()))?;
    let contents = unpacked.map_err(|error| Failure::refused(error.to_string()))?;
    let agent = api.agent.clone();
    // In a task of its own: a client that hangs up must not leave it half done.
    let restored = agent.env().clone().spawn(async move {
        let restored = agent.restore(contents.state.into()).await;
        drop(turn);
        restored
    });
    restored.await.map_err(|error| Failure::unknown(format!("restoring did not end: {error}")))??;
    Ok(reply::empty(StatusCode::OK))
}

/// The whole body. It may take as long as it comes at all, and be as large as a snapshot.
async fn read_file(api: &Api, mut body: Body) -> Result<Vec<u8>, Failure> {
    let limits = api.limits();
    let most = limits.snapshot_bytes;
    let too_large = || {
        let text = format!(
            "Snapshot too large, max size: {most} bytes. See limits.snapshot_bytes in the agent's configuration."
        );
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    if hyper::body::Body::size_hint(&body).lower() > most {
        return Err(too_large());
    }
    let patience = Duration::from_millis(limits.http_read_timeout_ms);
    let mut file = Vec::new();
    loop {
        let frame = api.agent.env().timeout(patience, body.frame()).await.map_err(|_| {
            let text = format!("Nothing more of the snapshot came within {} ms", patience.as_millis());
            Failure::new(StatusCode::REQUEST_TIMEOUT, text)
        })?;
        match frame {
            None => return Ok(file),
            Some(Err(error)) => {
                return Err(Failure::bad_request(format!("Cannot read the request's body: {error}")));
            }
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if (file.len() + data.len()) as u64 > most {
                    return Err(too_large());
                }
                file.extend_from_slice(&data);
            }
        }
    }
}
