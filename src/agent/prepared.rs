//! Carrying out a prepared query, for whoever asks: by HTTP or by DNS.
//!
//! What is found comes in a random order, so that whoever takes the first spreads its requests; or the nearest first,
//! if the query or who asks says to which node.

use std::sync::{Mutex, PoisonError};

use rand::seq::SliceRandom;

use crate::env::Rng;
use crate::state::catalog::{Instance, ServiceInstances};
use crate::state::prepared::{MOST_OF_NAME, NOT_FOUND, Prepared, PreparedQuery};

use super::coordinates::sort_by_distance;
use super::{Agent, Answer, QueryOptions, ReadError};

/// Why a query was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotExecuted {
    /// There is no such query, in Consul's words.
    #[error("{NOT_FOUND}")]
    NotFound,
    /// No name is so long.
    #[error("a name of {0} bytes is too long: a query is asked for by {MOST_OF_NAME} at most")]
    TooLong(usize),
    /// The template cannot be filled in.
    #[error("{0}")]
    Unfit(String),
    /// The state cannot be asked.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The query that a name or an id means, filled in if it is a template.
///
/// # Errors
/// [`NotExecuted`].
pub async fn resolve(
    agent: &Agent,
    options: QueryOptions,
    wanted: &str,
) -> Result<PreparedQuery, NotExecuted> {
    // Before anybody is asked: it would be tried with each beginning of the name, and filled in wherever it is to stand.
    if wanted.len() > MOST_OF_NAME {
        return Err(NotExecuted::TooLong(wanted.len()));
    }
    let question = Prepared { wanted: wanted.to_owned(), resolve: true };
    let found = agent.query(at_once(options), &question).await?.value.ok_or(NotExecuted::NotFound)?;
    found.info.rendered(wanted).map_err(NotExecuted::Unfit)
}

/// The query that a name or an id means, and the instances that it finds now. `near` is the node that whoever asks
/// wants to be near to, if it says so; it knows better than who wrote the query.
///
/// # Errors
/// [`NotExecuted`].
pub async fn execute(
    agent: &Agent,
    options: QueryOptions,
    wanted: &str,
    near: Option<&str>,
    rng: &Mutex<Rng>,
) -> Result<(PreparedQuery, Answer<Vec<Instance>>), NotExecuted> {
    let query = resolve(agent, options, wanted).await?;
    let question = ServiceInstances { service: query.service.clone(), health: true };
    let mut answer = agent.query(at_once(options), &question).await?;
    answer.value.retain(|instance| query.wants(instance));
    answer.value.shuffle(&mut *rng.lock().unwrap_or_else(PoisonError::into_inner));
    let own = agent.local_member().name;
    let near = match near.unwrap_or(&query.near) {
        "_agent" => &own,
        near => near,
    };
    if !near.is_empty() {
        // What is equally near stays shuffled.
        sort_by_distance(agent, near, &mut answer.value, |one| &one.node.info.name).await?;
        // Nothing is nearer than the node itself, even if nobody has said yet where it is.
        answer.value.sort_by_key(|one| one.node.info.name != near);
    }
    Ok((query, answer))
}

/// Nobody waits for a query to find something else.
fn at_once(options: QueryOptions) -> QueryOptions {
    QueryOptions { min_index: 0, ..options }
}
