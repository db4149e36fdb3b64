//! The DNS server: nodes and services by name, for programs that know nothing of Consul.
//!
//! * [`name`]: what a name asks for. [`answer`]: what it is answered. [`wire`]: the messages. All three are pure.
//! * here: the sockets, and the look into the catalog. It works on servers and on clients alike, through [`Agent`].
//!
//! Only instances that serve are told, in an order that chance chooses anew for each question, so that callers
//! spread. By default any server answers from what it has (`dns.allow_stale`): an old address is better than none.
//!
//! What a question costs grows with its answer and not with the catalog: names in another case than they are asked for
//! in, and addresses, are looked up where the state is. A datagram is cheap, and the catalog of a large cluster is not.
//!
//! What is bounded, and what happens at the bound: questions by UDP at once (further ones are dropped, whoever asked
//! asks again), the dearest of all questions (see [`DEAR`]; further ones are answered SERVFAIL, which says the same),
//! connections (one more is closed), the time between two questions on one (it is closed), an answer's size (see
//! [`wire`]), the aliases that are followed within the domain, and the targets whose addresses are looked up (whoever
//! asks finds the rest by asking on).
//!
//! Left out: recursion (names outside the domain are refused: a resolver beside it sends here what is ours), zone
//! transfers, and DNSSEC.

mod answer;
mod name;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::base::iana::{Rcode, Rtype};
use rand::seq::SliceRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::agent::local::book::CONSUL_SERVICE;
use crate::agent::prepared::{self, NotExecuted};
use crate::agent::tokens::Purpose;
use crate::agent::{Agent, Consistency, QueryOptions, ReadError};
use crate::env::{BoxStream, Datagrams, Env, Listener, Rng};
use crate::state::Question as Asked;
use crate::state::catalog::{
    Instance, InstancesAt, InstancesLike, NodeInfo, NodesAt, NodesLike, OneNode, ServiceInstances,
};
use crate::state::query::Applied;

use answer::{Zone, serves};
use name::Wanted;
use wire::{NoQuestion, Question, Record, Reply};

/// Questions by UDP that are being answered at once.
const QUESTIONS: usize = 512;
/// Addresses and prepared queries that are being looked up at once: these are asked for without knowing a name, so
/// they must not take the places of all who know one.
const DEAR: usize = 64;
/// Connections at once.
const CONNECTIONS: usize = 256;
/// How long a connection may be silent, and how long it may take to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many aliases in a row are followed, as in Consul: one may lead back to itself by way of others.
const ALIASES: usize = 3;
/// Of so many targets by names in the domain the addresses are told with them.
const TARGETS: usize = 16;
/// Rest after a socket failed.
const PAUSE: Duration = Duration::from_millis(20);

/// Where the server listens.
pub struct Sockets {
    datagrams: Arc<dyn Datagrams>,
    listener: Box<dyn Listener>,
}

impl Sockets {
    /// Takes one port for both UDP and TCP. Port 0 picks a free one.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn bind(env: &Env, addr: SocketAddr) -> io::Result<Sockets> {
        // A free UDP port may be a taken TCP port; if any will do, another is tried.
        let mut tries = if addr.port() == 0 { 16 } else { 1 };
        loop {
            tries -= 1;
            let datagrams = env.network().bind(addr).await?;
            let port = datagrams.local_addr().port();
            match env.network().listen(SocketAddr::new(addr.ip(), port)).await {
                Ok(listener) => return Ok(Sockets { datagrams, listener }),
                Err(_) if tries > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.datagrams.local_addr()
    }
}

/// Answers until dropped.
pub async fn serve(agent: Agent, sockets: Sockets) {
    let Sockets { datagrams, listener } = sockets;
    let rng = Mutex::new(agent.env().rng("dns"));
    let resolver = Arc::new(Resolver { agent, rng, dear: Semaphore::new(DEAR) });
    futures_util::future::join(by_udp(&resolver, datagrams), by_tcp(&resolver, listener)).await;
}

async fn by_udp(resolver: &Arc<Resolver>, socket: Arc<dyn Datagrams>) {
    let env = resolver.agent.env();
    let slots = Arc::new(Semaphore::new(QUESTIONS));
    loop {
        let (bytes, from) = match socket.recv_from().await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "could not receive a DNS question");
                env.sleep(PAUSE).await;
                continue;
            }
        };
        // Whoever gets no answer asks again.
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (resolver, socket) = (resolver.clone(), socket.clone());
        drop(env.spawn(async move {
            if let Some(answer) = resolver.answer(&bytes, true).await
                && let Err(error) = socket.send_to(&answer, from).await
            {
                tracing::debug!(%error, %from, "could not send a DNS answer");
            }
            drop(slot);
        }));
    }
}

async fn by_tcp(resolver: &Arc<Resolver>, listener: Box<dyn Listener>) {
    let env = resolver.agent.env();
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "could not accept a DNS connection");
                env.sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let resolver = resolver.clone();
        drop(env.spawn(async move {
            if let Err(error) = connection(&resolver, stream).await {
                tracing::debug!(%error, "a DNS connection ended");
            }
            drop(slot);
        }));
    }
}

/// Answers one question after the other, until the client has had enough or takes too long.
async fn connection(resolver: &Resolver, mut stream: BoxStream) -> io::Result<()> {
    let env = resolver.agent.env();
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let question = env.timeout(PATIENCE, async {
            let mut length = [0; 2];
            stream.read_exact(&mut length).await?;
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut question).await?;
            Ok::<_, io::Error>(question)
        });
        let question = question.await.map_err(late)??;
        let Some(answer) = resolver.answer(&question, false).await else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        // It was encoded into what the length can say.
        let mut message = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        message.extend_from_slice(&answer);
        env.timeout(PATIENCE, stream.write_all(&message)).await.map_err(late)??;
    }
}

/// Looks into the catalog.
struct Resolver {
    agent: Agent,
    rng: Mutex<Rng>,
    dear: Semaphore,
}

impl Resolver {
    /// Answers a message. Nothing is the answer to what is no question.
    async fn answer(&self, bytes: &[u8], udp: bool) -> Option<Vec<u8>> {
        let begun = self.agent.env().now();
        let question = match wire::read(bytes) {
            Ok(question) => question,
            Err(NoQuestion::Answer(answer)) => return Some(answer),
            Err(NoQuestion::Silence) => return None,
        };
        let reply = match self.reply(&question, udp).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(%error, name = %question.name, "a DNS question could not be answered");
                Reply::failed(Rcode::SERVFAIL)
            }
        };
        let took = self.agent.env().now().since(begun);
        self.agent.metrics().time("consul.dns.domain_query", Vec::new(), took);
        let limit = if udp { question.udp_limit() } else { usize::from(u16::MAX) };
        Some(wire::encode(&question, &reply, limit))
    }

    async fn reply(&self, question: &Question, udp: bool) -> Result<Reply, ReadError> {
        let config = self.agent.config();
        let zone = Zone::new(config.dns.clone(), config.datacenter.clone());
        let mut reply = self.look_up(&zone, question, udp).await?;
        match question.rtype {
            // Whoever asks for the alias has it.
            Rtype::CNAME => {}
            Rtype::SRV => {
                for target in zone.open_targets(&reply).into_iter().take(TARGETS) {
                    let of_target = question.of(target, Rtype::ANY);
                    let mut found = self.look_up(&zone, &of_target, udp).await?.answers;
                    found.retain(Record::is_of_host);
                    self.follow(&zone, &of_target, &mut found, udp).await?;
                    found.retain(|record| !reply.additional.contains(record));
                    reply.additional.extend(found);
                }
            }
            _ => {
                let most = zone.most(question, udp).max(reply.answers.len());
                reply.truncated |= self.follow(&zone, question, &mut reply.answers, udp).await?;
                if reply.answers.len() > most {
                    reply.answers.truncate(most);
                    reply.truncated |= zone.marks_cuts();
                }
            }
        }
        if reply.serials().next().is_some() {
            match self.ask(&Applied).await {
                // Serial numbers wrap around.
                Ok((index, ())) => reply.serials().for_each(|serial| *serial = index as u32),
                Err(error) if !reply.answers.is_empty() => return Err(error),
                // Without the domain's record nobody remembers that there is nothing (RFC 2308, 5).
                Err(_) => reply.authority.clear(),
            }
        }
        Ok(reply)
    }

    /// Adds what an alias at the end of these records leads to within the domain; what is outside of it, whoever asks looks up.
    /// Gives whether something was left out and that is to be said.
    async fn follow(
        &self,
        zone: &Zone,
        question: &Question,
        records: &mut Vec<Record>,
        udp: bool,
    ) -> Result<bool, ReadError> {
        let mut truncated = false;
        for _ in 0..ALIASES {
            let Some(name) = zone.leads_to(records) else { break };
            let found = self.look_up(zone, &question.of(name, question.rtype), udp).await?;
            truncated |= found.truncated;
            let before = records.len();
            records.extend(found.answers.into_iter().filter(Record::is_of_host));
            if records.len() == before {
                break;
            }
        }
        Ok(truncated)
    }

    /// What the catalog has under a name.
    async fn look_up(&self, zone: &Zone, question: &Question, udp: bool) -> Result<Reply, ReadError> {
        let wanted = name::wanted(&question.labels(), question.rtype, zone.domain(), zone.datacenter());
        let mut _place = None;
        if matches!(wanted, Wanted::Query(_) | Wanted::Reverse(_)) {
            let Ok(place) = self.dear.try_acquire() else { return Ok(Reply::failed(Rcode::SERVFAIL)) };
            _place = Some(place);
        }
        Ok(match wanted {
            Wanted::Foreign => Reply::failed(Rcode::REFUSED),
            Wanted::Nothing => zone.nothing(),
            Wanted::Address(address) => zone.address(question, address),
            Wanted::Apex => zone.apex(question, &self.instances(CONSUL_SERVICE, None).await?),
            Wanted::NameServer => zone.name_server(question, &self.instances(CONSUL_SERVICE, None).await?),
            Wanted::Node(node) => match self.node(&node).await? {
                Some(node) => zone.node(question, &node),
                None => zone.nothing(),
            },
            Wanted::Service { name, tag } => {
                zone.service(question, &name, &self.instances(&name, tag.as_deref()).await?, udp)
            }
            Wanted::Query(wanted) => {
                match prepared::execute(&self.anybody(), self.options(), &wanted, None, &self.rng).await {
                    Ok((query, answer)) => zone.query(question, &query, &answer.value, udp),
                    Err(NotExecuted::NotFound | NotExecuted::TooLong(_)) => zone.nothing(),
                    Err(NotExecuted::Unfit(text)) => {
                        tracing::warn!(query = wanted, "a prepared query cannot be filled in: {text}");
                        zone.nothing()
                    }
                    Err(NotExecuted::Read(error)) => return Err(error),
                }
            }
            Wanted::Reverse(address) => {
                let (_, nodes) = self.ask(&NodesAt { address }).await?;
                let nodes: Vec<NodeInfo> = nodes.into_iter().map(|row| row.info).collect();
                let services = if nodes.is_empty() {
                    let (_, instances) = self.ask(&InstancesAt { address }).await?;
                    instances.into_iter().map(|one| one.service.info.name).collect()
                } else {
                    BTreeSet::new()
                };
                zone.reverse(question, &nodes, &services)
            }
        })
    }

    /// Nobody shows a token in DNS; the agent has one for that.
    fn anybody(&self) -> Agent {
        self.agent.on_behalf_of(self.agent.token(Purpose::Dns))
    }

    fn options(&self) -> QueryOptions {
        let stale = self.agent.config().dns.allow_stale;
        QueryOptions::now(if stale { Consistency::Stale } else { Consistency::Default })
    }

    /// What is found, and at which index it last changed.
    async fn ask<Q: Asked>(&self, question: &Q) -> Result<(u64, Q::Found), ReadError> {
        let answer = self.anybody().query(self.options(), question).await?;
        Ok((answer.index, answer.value))
    }

    /// A node by its name in small letters. Most names are in small letters; the others are asked for next.
    async fn node(&self, name: &str) -> Result<Option<NodeInfo>, ReadError> {
        let (_, found) = self.ask(&OneNode { node: name.to_owned(), checks: false }).await?;
        if let Some(whole) = found {
            return Ok(Some(whole.node.info));
        }
        let (_, like) = self.ask(&NodesLike { name: name.to_owned() }).await?;
        Ok(like.into_iter().next().map(|row| row.info))
    }

    /// The instances of a service that serve, in an order that chance chooses.
    async fn instances(&self, name: &str, tag: Option<&str>) -> Result<Vec<Instance>, ReadError> {
        let service = name.to_owned();
        let (_, mut instances) = self.ask(&ServiceInstances { service, health: true }).await?;
        if instances.is_empty() {
            let service = name.to_owned();
            (_, instances) = self.ask(&InstancesLike { service }).await?;
            // Of several services whose names differ in nothing else, one is meant.
            if let Some(real) = instances.iter().map(|one| one.service.info.name.clone()).min() {
                instances.retain(|one| one.service.info.name == real);
            }
        }
        let only_passing = self.agent.config().dns.only_passing;
        instances.retain(|instance| {
            let tagged =
                |wanted: &str| instance.service.info.tags.iter().any(|tag| tag.eq_ignore_ascii_case(wanted));
            serves(instance, only_passing) && tag.is_none_or(tagged)
        });
        instances.shuffle(&mut *self.rng.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(instances)
    }
}
