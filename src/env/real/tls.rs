//! TLS, on the streams of the real network: between agents, where both sides show certificates, and for the HTTP API.
//!
//! It is here and nowhere else: a node asks its network for a stream *for* something ([`Purpose`]) and is told what the other side
//! has proved ([`Proof`]); it never sees a certificate. In simulation there is none of it. TLS draws randomness of its own
//! and reads the wall clock, so a run could not be repeated; and what it protects against, somebody in between who can forge,
//! is nothing that the testbed plays. Everything above the stream runs there all the same.
//!
//! A certificate of the cluster's authority makes a member. What makes a *server* is a name in it that only servers'
//! certificates have, `server.<datacenter>.driftline` (or `.consul`): who connects to a server looks for it, and a server takes
//! Raft's requests from nobody else.
//!
//! After the handshake the side that was called says one byte. In TLS 1.3 the caller is done before its own
//! certificate was looked at; without the byte it would take a refusal for a connection that broke, and a request on it for one that
//! may have been done.
//!
//! Sessions are never resumed: each connection looks at certificates anew, so a reload that takes an authority away is in
//! force for every connection that begins after it. Those that exist go on.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::strangers::{Notice, Strangers};
use super::super::{BoxStream, Guard, Instant, Listener, Proof, Purpose};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many handshakes one port may have under way. One connection more is closed.
const HANDSHAKES: usize = 128;
/// How many connections may wait to be accepted after their handshake. When so many do, the next wait, and their time runs.
const ARRIVALS: usize = 64;
/// The first byte of a TLS connection. No frame between agents begins so: its length would be beyond all limits.
const TLS_RECORD: u8 = 0x16;
/// So many dates are tried for one at which a certificate counts.
const DATES: usize = 8;
/// What is said after the handshake.
const WELCOME: u8 = b'+';

/// What an agent is told about TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Certificates of the authorities whose certificates count.
    pub ca_file: Option<PathBuf>,
    /// This agent's certificate, and those between it and the authority.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Whether this agent is a server, which others come to.
    pub server: bool,
    /// Whether other agents must come with TLS and a certificate.
    pub verify_incoming: bool,
    /// Whether this agent goes to servers with TLS.
    pub verify_outgoing: bool,
    /// Whether only certificates with a server's name make a server.
    pub verify_server_hostname: bool,
    /// Whether clients of the HTTP API must show a certificate.
    pub verify_incoming_https: bool,
    /// The datacenter, which is in a server's name.
    pub datacenter: String,
}

impl Options {
    /// Whether anybody must show a certificate to anybody.
    fn is_demanded(&self) -> bool {
        self.verify_incoming || self.verify_outgoing || self.verify_incoming_https
    }

    /// Whether the authorities that this agent goes by vouch for its own certificate, in the roles that it shows it in: the others go
    /// by the same, and would refuse it. Dates are not looked at: a clock can be set right, and time passes.
    fn vouched_for(&self, own: &[CertificateDer<'_>], roots: &Arc<RootCertStore>) -> Result<(), String> {
        let Some((first, between)) = own.split_first() else { return Ok(()) };
        let file =
            |file: &Option<PathBuf>| file.as_ref().map_or(String::new(), |file| file.display().to_string());
        let (certificate, authorities) = (file(&self.cert_file), file(&self.ca_file));
        let words = |role: &'static str| {
            let (certificate, authorities) = (&certificate, &authorities);
            move |error: rustls::Error| match error {
                rustls::Error::InvalidCertificate(
                    CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
                ) => format!("the certificate in {certificate} is not made for {role} ({error})"),
                error => format!(
                    "no authority in {authorities} vouches for the certificate in {certificate} ({error}): the other \
                     agents would refuse it"
                ),
            }
        };
        const CALLED: &str = "who is called: it lacks serverAuth";
        const CALLS: &str = "who calls: it lacks clientAuth";
        let parsed = ParsedCertificate::try_from(first).map_err(words(CALLED))?;
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms.all;
        let as_server = |now| {
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &parsed, roots, between, now, algorithms,
            )
        };
        let client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let client = client.map_err(|error| error.to_string())?;
        let as_client = |now| client.verify_client_cert(first, between, now).map(drop);
        if self.server {
            whatever_the_date(as_server).map_err(words(CALLED))?;
        }
        if self.verify_outgoing {
            whatever_the_date(as_client).map_err(words(CALLS))?;
        }
        Ok(())
    }
}

/// What is in force; it can be replaced while the agent runs.
#[derive(Debug)]
pub struct Tls {
    loaded: RwLock<Arc<Loaded>>,
    /// Servers that this agent could not go to, and when it said so.
    closed: Mutex<Strangers>,
    start: std::time::Instant,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls::new(Loaded::default())
    }
}

/// Certificates and keys, read and found to fit together.
#[derive(Default)]
pub struct Loaded {
    options: Options,
    /// What was read, to see whether it changed.
    certificates: Vec<CertificateDer<'static>>,
    /// The authorities.
    roots: Option<Arc<RootCertStore>>,
    incoming: Option<Arc<ServerConfig>>,
    outgoing: Option<Arc<ClientConfig>>,
    api: Option<Arc<ServerConfig>>,
    names: Vec<ServerName<'static>>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("options", &self.options).finish_non_exhaustive()
    }
}

impl PartialEq for Loaded {
    fn eq(&self, other: &Loaded) -> bool {
        (&self.options, &self.certificates) == (&other.options, &other.certificates)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read_certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |reason: String| format!("cannot use the certificates in {}: {reason}", path.display());
    let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| failed(error.to_string()))?;
    if found.is_empty() { Err(failed("there is none in PEM form".to_owned())) } else { Ok(found) }
}

fn read_key(path: &PathBuf) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| format!("cannot use the key in {}: {error}", path.display()))
}

/// What is found of a certificate at a time when it counts. Its dates are looked at before anything else, and so are those of each
/// between it and the authority; if there is no time at which all of them count, the rest stays unknown.
fn whatever_the_date(verify: impl Fn(UnixTime) -> Result<(), rustls::Error>) -> Result<(), rustls::Error> {
    let mut now = UnixTime::now();
    for _ in 0..DATES {
        now = match verify(now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
                not_after, ..
            })) => not_after,
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
                not_before,
                ..
            })) => not_before,
            found => return found,
        };
    }
    Ok(())
}

/// The names that a server's certificate has one of.
pub fn server_names(datacenter: &str) -> [String; 2] {
    ["driftline", "consul"].map(|domain| format!("server.{datacenter}.{domain}"))
}

impl Loaded {
    /// Reads the files that these options name.
    ///
    /// # Errors
    /// What is wrong with them, in words. Never shows a key.
    pub fn read(options: &Options) -> Result<Loaded, String> {
        // Which of the two is the wrong one, or whether they are mixed up, nobody can tell but who named them.
        let named = match (&options.cert_file, &options.key_file) {
            (Some(cert), Some(key)) => format!("cert_file {}, key_file {}", cert.display(), key.display()),
            _ => String::new(),
        };
        let said = |error: rustls::Error| format!("certificate and key do not fit: {error} ({named})");
        let both = |error: String| format!("{error} ({named})");
        let roots = match &options.ca_file {
            None => None,
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in read_certificates(path)? {
                    roots.add(authority).map_err(|error| {
                        format!("{} is no certificate of an authority: {error}", path.display())
                    })?;
                }
                Some(Arc::new(roots))
            }
        };
        let own = match (&options.cert_file, &options.key_file) {
            (Some(cert), Some(key)) => {
                Some((read_certificates(cert).map_err(both)?, read_key(key).map_err(both)?))
            }
            (None, None) => None,
            _ => return Err("a certificate and its key go together: say both or none".to_owned()),
        };
        let mut certificates = own.as_ref().map(|(chain, _)| chain.clone()).unwrap_or_default();
        if let Some(path) = &options.ca_file {
            certificates.extend(read_certificates(path)?);
        }
        let names = server_names(&options.datacenter).map(|name| {
            ServerName::try_from(name.clone())
                .map_err(|_| format!("{name} cannot be in a certificate: name the datacenter otherwise"))
        });
        let names = if options.verify_server_hostname && roots.is_some() {
            names.into_iter().collect::<Result<Vec<_>, _>>()?
        } else {
            Vec::new()
        };
        let mut loaded = Loaded {
            options: options.clone(),
            certificates,
            names,
            roots: roots.clone(),
            ..Loaded::default()
        };
        let Some((chain, key)) = own else {
            if options.is_demanded() {
                return Err(
                    "to verify others, this agent needs a certificate of its own: cert_file and key_file"
                        .to_owned(),
                );
            }
            return Ok(loaded);
        };
        if let Some(roots) = roots {
            let authorities = roots.clone();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
            let own = chain.clone();
            let strict = |strict: bool| {
                let verifier = verifier.clone();
                let verifier = if strict { verifier } else { verifier.allow_unauthenticated() };
                verifier.build().map_err(|error| error.to_string())
            };
            let incoming = server_config(&[&rustls::version::TLS13])
                .with_client_cert_verifier(strict(options.verify_incoming)?)
                .with_single_cert(chain.clone(), key.clone_key())
                .map_err(said)?;
            loaded.incoming = Some(Arc::new(unresumed(incoming)));
            let api = server_config(rustls::ALL_VERSIONS);
            let api = if options.verify_incoming_https {
                api.with_client_cert_verifier(strict(true)?)
            } else {
                api.with_no_client_auth()
            };
            let api = api.with_single_cert(chain.clone(), key.clone_key()).map_err(said)?;
            loaded.api = Some(Arc::new(unresumed(api)));
            let verifier =
                Arc::new(Signed { roots: Some(roots), names: loaded.names.clone(), provider: provider() });
            let mut outgoing = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(said)?
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_client_auth_cert(chain, key)
                .map_err(said)?;
            outgoing.resumption = Resumption::disabled();
            loaded.outgoing = Some(Arc::new(outgoing));
            // Where no agent looks at certificates, this one may be for people only, and of any authority.
            if options.verify_incoming || options.verify_outgoing {
                options.vouched_for(&own, &authorities)?;
            }
        } else {
            if options.is_demanded() {
                return Err(
                    "to verify others, this agent needs the authority's certificate: ca_file".to_owned()
                );
            }
            let api = server_config(rustls::ALL_VERSIONS)
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .map_err(said)?;
            loaded.api = Some(Arc::new(unresumed(api)));
        }
        Ok(loaded)
    }

    /// What a certificate makes of who showed it.
    fn proof(&self, certificate: Option<&CertificateDer<'_>>) -> Proof {
        if self.names.is_empty() {
            return Proof::Server;
        }
        let Some(certificate) = certificate else { return Proof::Member };
        let parsed = ParsedCertificate::try_from(certificate);
        let named = |parsed: &ParsedCertificate<'_>| {
            self.names.iter().any(|name| rustls::client::verify_server_name(parsed, name).is_ok())
        };
        if parsed.is_ok_and(|parsed| named(&parsed)) { Proof::Server } else { Proof::Member }
    }
}

fn server_config(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    // The provider has all versions that there are: this has no way to fail, and if it had, the default ones would do.
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap_or_else(|_| ServerConfig::builder())
}

fn unresumed(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Looks whether who was called is a server of this cluster: its authority signed for it, and for its being a server. Without
/// authorities, only whether it has the key of the certificate that it shows.
#[derive(Debug)]
struct Signed {
    roots: Option<Arc<RootCertStore>>,
    /// One of these must be in the certificate; none are asked for if there are none.
    names: Vec<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Signed {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, now, algorithms)?;
        let mut refused = None;
        for name in &self.names {
            match rustls::client::verify_server_name(&parsed, name) {
                Ok(()) => return Ok(ServerCertVerified::assertion()),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        refused.map_or_else(|| Ok(ServerCertVerified::assertion()), Err)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Tls {
    /// With these certificates in force.
    pub fn new(loaded: Loaded) -> Tls {
        Tls {
            loaded: RwLock::new(Arc::new(loaded)),
            closed: Mutex::default(),
            start: std::time::Instant::now(),
        }
    }

    /// What is in force.
    pub fn loaded(&self) -> Arc<Loaded> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts others in force, for connections that begin from now on.
    pub fn set(&self, loaded: Loaded) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        // Whoever put new ones in place wants to hear whether they are better.
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = Strangers::default();
    }

    /// Says that TLS keeps this agent from a server, once an address and a while: without it nothing else says why, until
    /// somebody asks.
    fn complain(&self, server: SocketAddr, error: &io::Error) {
        let Some(what) = complaint(server, error) else { return };
        let now = Instant(super::super::nanos(self.start.elapsed()));
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Notice { times, .. }) = closed.turned_away(now, server.ip()) {
            tracing::warn!(times, "{what}");
        }
    }

    /// Connects to another agent.
    pub(super) async fn connect(&self, stream: TcpStream) -> io::Result<BoxStream> {
        let loaded = self.loaded();
        let Some(config) = loaded.outgoing.clone().filter(|_| loaded.options.verify_outgoing) else {
            return Ok(Box::new(stream));
        };
        // Not looked at by `Signed`, and without one that can be written down no use.
        let name = loaded.names.first().cloned();
        let name =
            name.map_or_else(|| ServerName::try_from("server.driftline").map_err(io::Error::other), Ok)?;
        let server = stream.peer_addr()?;
        let talk = async {
            let mut stream = TlsConnector::from(config).connect(name, stream).await?;
            match stream.read_u8().await? {
                WELCOME => Ok(Box::new(stream) as BoxStream),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "this is no agent")),
            }
        };
        match tokio::time::timeout(HANDSHAKE, talk).await {
            Ok(done) => done.map_err(|error| {
                self.complain(server, &error);
                io::Error::new(error.kind(), format!("TLS: {error}"))
            }),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "TLS: no handshake in time")),
        }
    }

    /// Connects to a stranger. Only the authorities of the configuration count.
    pub(super) async fn connect_guarded(&self, stream: TcpStream, guard: &Guard) -> io::Result<BoxStream> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let roots = self.loaded().roots.clone();
        let mut config = match (guard.unverified, roots) {
            (true, _) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Signed {
                    roots: None,
                    names: Vec::new(),
                    provider: provider(),
                }))
                .with_no_client_auth(),
            (false, Some(roots)) => builder.with_root_certificates(roots).with_no_client_auth(),
            (false, None) => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "TLS: no authority is known that could vouch for anybody: set tls.ca_file, or TLSSkipVerify",
                ));
            }
        };
        config.resumption = Resumption::disabled();
        if guard.h2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let name = ServerName::try_from(guard.name.clone())
            .map_err(|_| io::Error::other(format!("TLS: {:?} cannot be the name of a server", guard.name)))?;
        shaken(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    async fn accept(&self, stream: TcpStream, purpose: Purpose) -> io::Result<(BoxStream, Proof)> {
        let loaded = self.loaded();
        let config = match purpose {
            Purpose::Api => loaded.api.clone(),
            Purpose::Peers | Purpose::Gossip => loaded.incoming.clone(),
        };
        let Some(config) = config else {
            return match purpose {
                Purpose::Api => Err(io::Error::other("there is no certificate for HTTPS")),
                Purpose::Peers | Purpose::Gossip => Ok((Box::new(stream), Proof::Server)),
            };
        };
        if purpose == Purpose::Peers && !loaded.options.verify_incoming {
            let mut first = [0];
            if stream.peek(&mut first).await? == 0 || first != [TLS_RECORD] {
                return Ok((Box::new(stream), Proof::Server));
            }
        }
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let proof = loaded.proof(certificates.and_then(|chain| chain.first()));
        if purpose == Purpose::Peers {
            stream.write_all(&[WELCOME]).await?;
            stream.flush().await?;
        }
        Ok((Box::new(stream), proof))
    }
}

/// What TLS itself said, if it was TLS that failed.
fn said_by_tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The other side's word that it does not take this agent's certificate, if that is why.
fn refusal(error: &io::Error) -> Option<AlertDescription> {
    use AlertDescription as Alert;
    match said_by_tls(error)? {
        rustls::Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired),
        ) => Some(*alert),
        _ => None,
    }
}

/// Why a server cannot be gone to, if that is for the certificates: this agent's or the server's.
fn complaint(server: SocketAddr, error: &io::Error) -> Option<String> {
    if let Some(alert) = refusal(error) {
        return Some(format!(
            "{server} refuses this agent's certificate: {alert:?} (look at tls.cert_file here, and at tls.ca_file there)"
        ));
    }
    match said_by_tls(error)? {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Some(format!("{server}'s certificate is not vouched for by tls.ca_file here"))
        }
        rustls::Error::InvalidCertificate(why) => {
            Some(format!("{server}'s certificate does not count here: {why}"))
        }
        _ => None,
    }
}

/// What a connection came to.
type Arrival = io::Result<(BoxStream, SocketAddr, Proof)>;

/// A listener whose connections have shown their certificates before anybody else sees them. Handshakes run beside one another,
/// so that a slow one holds up nobody.
pub(super) struct TlsListener {
    addr: SocketAddr,
    arrivals: tokio::sync::Mutex<mpsc::Receiver<Arrival>>,
    /// Dropping it ends all handshakes and frees the port.
    _tasks: JoinSet<()>,
}

impl TlsListener {
    pub fn new(listener: TcpListener, tls: Arc<Tls>, purpose: Purpose) -> io::Result<TlsListener> {
        let addr = listener.local_addr()?;
        let (sender, arrivals) = mpsc::channel(ARRIVALS);
        let mut tasks = JoinSet::new();
        tasks.spawn(Doorkeeper::new(tls, purpose, sender).run(listener));
        Ok(TlsListener { addr, arrivals: tokio::sync::Mutex::new(arrivals), _tasks: tasks })
    }
}

impl Listener for TlsListener {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        self.accept_known().map(|accepted| accepted.map(|(stream, peer, _)| (stream, peer))).boxed()
    }

    fn accept_known(&self) -> BoxFuture<'_, Arrival> {
        async {
            match self.arrivals.lock().await.recv().await {
                Some(arrival) => arrival,
                // The task ends with the listener only.
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

struct Doorkeeper {
    tls: Arc<Tls>,
    purpose: Purpose,
    arrivals: mpsc::Sender<Arrival>,
    room: Arc<Semaphore>,
    strangers: Mutex<Strangers>,
    /// Those who turned away themselves, because of this agent's certificate.
    doubters: Mutex<Strangers>,
    /// Those for whom there was no room.
    late: Mutex<Strangers>,
    start: std::time::Instant,
}

/// Why somebody who called is not let in.
enum Closed<'a> {
    /// There is no room for another handshake.
    Full,
    /// The handshake failed, or took too long.
    Failed(&'a io::Error),
}

impl Doorkeeper {
    fn new(tls: Arc<Tls>, purpose: Purpose, arrivals: mpsc::Sender<Arrival>) -> Doorkeeper {
        Doorkeeper {
            tls,
            purpose,
            arrivals,
            room: Arc::new(Semaphore::new(HANDSHAKES)),
            strangers: Mutex::default(),
            doubters: Mutex::default(),
            late: Mutex::default(),
            start: std::time::Instant::now(),
        }
    }

    async fn run(self, listener: TcpListener) {
        let door = Arc::new(self);
        let mut handshakes = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                Some(_) = handshakes.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match door.room.clone().try_acquire_owned() {
                    Ok(place) => {
                        let door = door.clone();
                        handshakes.spawn(async move {
                            door.open(stream, peer).await;
                            drop(place);
                        });
                    }
                    Err(_) => door.turned_away(peer, Closed::Full),
                },
                // Who accepts knows how long to wait then.
                Err(error) => drop(door.arrivals.send(Err(error)).await),
            }
        }
    }

    async fn open(&self, stream: TcpStream, peer: SocketAddr) {
        let ready = stream.set_nodelay(true);
        let shaken = tokio::time::timeout(HANDSHAKE, self.tls.accept(stream, self.purpose)).await;
        match (ready, shaken) {
            (Ok(()), Ok(Ok((stream, proof)))) => {
                let _ = self.arrivals.send(Ok((stream, peer, proof))).await;
            }
            (Err(error), _) | (_, Ok(Err(error))) => self.turned_away(peer, Closed::Failed(&error)),
            (_, Err(_)) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "no handshake in time");
                self.turned_away(peer, Closed::Failed(&error));
            }
        }
    }

    /// Says who is not let in, and why. A stranger is only who was refused here, and not who refused us or came at a bad time.
    fn turned_away(&self, peer: SocketAddr, why: Closed<'_>) {
        let now = Instant(super::super::nanos(self.start.elapsed()));
        let port = match self.purpose {
            Purpose::Api => "HTTPS",
            Purpose::Peers | Purpose::Gossip => "RPC",
        };
        let notice = |known: &Mutex<Strangers>| {
            known.lock().unwrap_or_else(PoisonError::into_inner).turned_away(now, peer.ip())
        };
        match why {
            Closed::Full => {
                if let Some(Notice { times, .. }) = notice(&self.late) {
                    tracing::warn!(%peer, port, times, "not let in: too many handshakes are under way");
                }
            }
            Closed::Failed(error) => {
                if let Some(alert) = refusal(error) {
                    if let Some(Notice { times, .. }) = notice(&self.doubters) {
                        tracing::warn!(
                            %peer, port, ?alert, times,
                            "it does not accept this agent's certificate: look at tls.cert_file here, and at the authorities there"
                        );
                    }
                } else if let Some(Notice { times, crowd }) = notice(&self.strangers) {
                    let who = if crowd { "many strangers are" } else { "a stranger is" };
                    tracing::warn!(%peer, port, reason = %error, times, "{who} kept out by TLS");
                }
            }
        }
    }
}

/// How a command connects to an agent's API by HTTPS.
pub struct ApiClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl ApiClient {
    /// For an agent whose certificate has `name`, and an authority of `ca_file` behind it; with a certificate of its own if need be.
    ///
    /// # Errors
    /// What is wrong with the files, in words.
    pub fn new(
        ca_file: &PathBuf,
        own: Option<(&PathBuf, &PathBuf)>,
        name: &str,
    ) -> Result<ApiClient, String> {
        let mut roots = RootCertStore::empty();
        for authority in read_certificates(ca_file)? {
            roots.add(authority).map_err(|error| error.to_string())?;
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let config = match own {
            Some((cert, key)) => config
                .with_client_auth_cert(read_certificates(cert)?, read_key(key)?)
                .map_err(|error| format!("certificate and key do not fit: {error}"))?,
            None => config.with_no_client_auth(),
        };
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("{name:?} cannot be the name of a server"))?;
        Ok(ApiClient { config: Arc::new(config), name })
    }

    pub(super) async fn connect(&self, stream: TcpStream) -> io::Result<BoxStream> {
        shaken(TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream)).await
    }
}

/// The stream after its handshake, in time.
async fn shaken(shaking: tokio_rustls::Connect<TcpStream>) -> io::Result<BoxStream> {
    match tokio::time::timeout(HANDSHAKE, shaking).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(io::Error::new(error.kind(), format!("TLS: {error}"))),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "TLS: no handshake in time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use tempfile::TempDir;

    /// An authority, and a place for what it signs.
    struct Authority {
        home: TempDir,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Authority {
            let home = tempfile::tempdir().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let name = format!("authority {:?}", key.public_key_raw());
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            fs::write(home.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
            Authority { home, issuer: Issuer::new(params, key) }
        }

        /// Makes a certificate of this name for these years and purposes, and its key.
        fn sign(&self, name: &str, years: std::ops::Range<i32>, purposes: Vec<ExtendedKeyUsagePurpose>) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
            params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
            params.extended_key_usages = purposes;
            let file = |ending: &str| self.home.path().join(format!("{name}{ending}"));
            fs::write(file(".pem"), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
            fs::write(file("-key.pem"), key.serialize_pem()).unwrap();
        }

        /// Options of an agent whose certificate has this name.
        fn options(&self, name: &str) -> Options {
            self.sign(name, 2000..4000, vec![]);
            let file = |ending: &str| self.home.path().join(format!("{name}{ending}"));
            Options {
                ca_file: Some(self.home.path().join("ca.pem")),
                cert_file: Some(file(".pem")),
                key_file: Some(file("-key.pem")),
                server: name.starts_with("server."),
                verify_incoming: true,
                verify_outgoing: true,
                verify_server_hostname: true,
                verify_incoming_https: false,
                datacenter: "dc1".to_owned(),
            }
        }
    }

    fn tls(options: Options) -> Arc<Tls> {
        Arc::new(Tls::new(Loaded::read(&options).unwrap()))
    }

    async fn listen(tls: Arc<Tls>) -> TlsListener {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        TlsListener::new(listener, tls, Purpose::Peers).unwrap()
    }

    async fn dial(tls: &Tls, listener: &TlsListener) -> io::Result<BoxStream> {
        tls.connect(TcpStream::connect(listener.local_addr()).await.unwrap()).await
    }

    const SERVER: &str = "server.dc1.driftline";

    #[tokio::test]
    async fn a_certificate_makes_a_member_and_a_servers_name_a_server() {
        let authority = Authority::new();
        let listener = listen(tls(authority.options(SERVER))).await;
        for (name, proves) in [
            (SERVER, Proof::Server),
            ("server.dc1.consul", Proof::Server),
            ("client.dc1.driftline", Proof::Member),
            ("server.dc2.driftline", Proof::Member),
        ] {
            let mut near = dial(&tls(authority.options(name)), &listener).await.unwrap();
            let (mut far, _, proof) = listener.accept_known().await.unwrap();
            assert_eq!(proof, proves, "{name}");
            near.write_all(b"ping").await.unwrap();
            near.flush().await.unwrap();
            let mut heard = [0; 4];
            far.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"ping");
        }
        // Where names are not looked at, all are alike.
        let lax = Options { verify_server_hostname: false, ..authority.options("x.dc1.driftline") };
        let listener = listen(tls(lax.clone())).await;
        drop(dial(&tls(lax), &listener).await.unwrap());
        assert_eq!(listener.accept_known().await.unwrap().2, Proof::Server);
    }

    #[tokio::test]
    async fn a_stranger_is_refused_before_it_can_say_anything() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let listener = listen(tls(ours.options(SERVER))).await;
        // One who knows us and shows a certificate that we do not know.
        let stranger = tls(theirs.options(SERVER));
        let mut knows_us = Loaded::read(&theirs.options(SERVER)).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Signed {
                roots: None,
                names: Vec::new(),
                provider: provider(),
            }));
        let own = [&knows_us.options.cert_file, &knows_us.options.key_file].map(|file| file.clone().unwrap());
        let config = config
            .with_client_auth_cert(read_certificates(&own[0]).unwrap(), read_key(&own[1]).unwrap())
            .unwrap();
        knows_us.outgoing = Some(Arc::new(config));
        stranger.set(knows_us);
        let refused = dial(&stranger, &listener).await.err().unwrap().to_string();
        assert_eq!(refused, "TLS: received fatal alert: UnknownCA");
        // One who finds that we are strangers.
        let refused = dial(&tls(theirs.options(SERVER)), &listener).await.err().unwrap().to_string();
        assert!(refused.contains("UnknownIssuer"), "{refused}");
        // One without TLS.
        let plain = Options { verify_incoming: false, verify_outgoing: false, ..ours.options(SERVER) };
        let mut stream = dial(&tls(plain.clone()), &listener).await.unwrap();
        stream.write_all(b"hello, are you there?").await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        // None of them arrived; who comes next does.
        drop(dial(&tls(ours.options(SERVER)), &listener).await.unwrap());
        assert_eq!(listener.accept_known().await.unwrap().2, Proof::Server);
        // A client's certificate is no server's, and who calls sees it.
        let listener = listen(tls(ours.options("client.dc1.driftline"))).await;
        let refused = dial(&tls(ours.options(SERVER)), &listener).await.err().unwrap().to_string();
        assert!(refused.contains("not valid for"), "{refused}");
        // While a cluster is changed over, those without TLS are let in.
        let listener = listen(tls(plain.clone())).await;
        let mut stream = dial(&tls(plain), &listener).await.unwrap();
        stream.write_all(b"plain").await.unwrap();
        assert_eq!(listener.accept_known().await.unwrap().2, Proof::Server);
    }

    #[tokio::test]
    async fn new_certificates_count_for_new_connections() {
        let (old, new) = (Authority::new(), Authority::new());
        let (near, far) = (tls(old.options(SERVER)), tls(old.options(SERVER)));
        let listener = listen(far.clone()).await;
        drop(dial(&near, &listener).await.unwrap());
        far.set(Loaded::read(&new.options(SERVER)).unwrap());
        assert!(dial(&near, &listener).await.is_err());
        near.set(Loaded::read(&new.options(SERVER)).unwrap());
        drop(dial(&near, &listener).await.unwrap());
        assert_ne!(*near.loaded(), Loaded::read(&old.options(SERVER)).unwrap());
    }

    #[test]
    fn a_certificate_that_nobody_here_vouches_for_is_refused_whatever_its_dates() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let read = |options: &Options| Loaded::read(options).map(drop);
        let good = ours.options(SERVER);
        for years in [2000..2001, 2000..4000, 3000..4000] {
            ours.sign(SERVER, years.clone(), vec![]);
            assert_eq!(read(&good), Ok(()), "{years:?}");
            let mixed = Options { ca_file: theirs.options(SERVER).ca_file, ..good.clone() };
            let refused = read(&mixed).unwrap_err();
            assert!(refused.contains("vouches") && refused.contains("UnknownIssuer"), "{refused}");
            let client = Options { server: false, ..mixed.clone() };
            assert!(read(&client).is_err());
            // Where no agent looks at it, it may be of any authority.
            let for_people = Options { verify_incoming: false, verify_outgoing: false, ..mixed };
            assert_eq!(read(&for_people), Ok(()));
        }
        ours.sign(SERVER, 2000..4000, vec![ExtendedKeyUsagePurpose::ClientAuth]);
        assert!(read(&good).unwrap_err().contains("lacks serverAuth"));
        assert_eq!(read(&Options { server: false, ..good.clone() }), Ok(()), "a client is called by nobody");
        ours.sign(SERVER, 2000..4000, vec![ExtendedKeyUsagePurpose::ServerAuth]);
        assert!(read(&good).unwrap_err().contains("lacks clientAuth"));
        assert_eq!(read(&Options { verify_outgoing: false, ..good }), Ok(()));
    }

    #[test]
    fn what_keeps_an_agent_from_a_server_is_told_apart() {
        let server: SocketAddr = "10.0.0.2:8300".parse().unwrap();
        let told =
            |error: rustls::Error| complaint(server, &io::Error::new(io::ErrorKind::InvalidData, error));
        for (error, words) in [
            (
                rustls::Error::AlertReceived(AlertDescription::CertificateExpired),
                "refuses this agent's certificate: CertificateExpired",
            ),
            (
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer),
                "10.0.0.2:8300's certificate is not vouched for by tls.ca_file here",
            ),
            (rustls::Error::InvalidCertificate(CertificateError::Expired), "does not count here"),
        ] {
            assert!(told(error.clone()).unwrap().contains(words), "{error}");
        }
        // Not for the certificates.
        assert_eq!(told(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)), None);
        assert_eq!(complaint(server, &io::ErrorKind::ConnectionReset.into()), None);
    }

    #[test]
    fn what_does_not_fit_is_said_in_words() {
        let authority = Authority::new();
        let good = authority.options(SERVER);
        let other = authority.options("other.dc1.driftline");
        let cases = [
            (Options { key_file: None, ..good.clone() }, "go together"),
            (Options { key_file: other.key_file.clone(), ..good.clone() }, "do not fit"),
            (Options { key_file: other.key_file.clone(), ..good.clone() }, "(cert_file /"),
            (Options { key_file: good.cert_file.clone(), ..good.clone() }, "cannot use the key"),
            (Options { cert_file: good.key_file.clone(), ..good.clone() }, ", key_file /"),
            (Options { ca_file: Some("/nowhere".into()), ..good.clone() }, "/nowhere"),
            (Options { ca_file: None, ..good.clone() }, "ca_file"),
            (Options { cert_file: None, key_file: None, ..good.clone() }, "cert_file"),
            (Options { datacenter: "no name".to_owned(), ..good.clone() }, "datacenter"),
        ];
        for (options, words) in cases {
            let refused = Loaded::read(&options).err().unwrap();
            assert!(refused.contains(words), "{refused}");
            assert!(!refused.contains("PRIVATE"), "{refused}");
        }
        assert!(Loaded::read(&Options::default()).is_ok());
    }
}
