//! `driftline tls`: an authority for one cluster, and the certificates it signs, so that nobody needs another tool.
//!
//! The authority is a key and a certificate in the current directory. Its key signs new members into the cluster: keep it off the
//! machines of the cluster. Files are never overwritten, and keys are for their owner only.

// The dates of a certificate are those of the wall.
#![allow(clippy::disallowed_methods)]

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use driftline::env::real::tls::server_names;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use xxhash_rust::xxh3::xxh3_64;

use super::ask::lines;
use super::{Problem, secrets};

/// What every authority made here is called, with a number that its key gives: certificates that it signs name it so, and who
/// looks at one of another cluster sees at once that it is another's.
const AUTHORITY: &str = "Driftline agents' authority";
const CA_CERT: &str = "driftline-ca.pem";
const CA_KEY: &str = "driftline-ca-key.pem";

#[derive(Debug, Subcommand)]
pub enum Tls {
    /// The authority that signs a cluster's certificates
    #[command(subcommand)]
    Ca(Ca),
    /// Certificates of servers, client agents and people
    #[command(subcommand)]
    Cert(Cert),
}

#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Makes an authority: driftline-ca.pem and driftline-ca-key.pem
    Create(CaCreate),
}

#[derive(Debug, Subcommand)]
pub enum Cert {
    /// Makes a certificate and its key, signed by the authority
    Create(CertCreate),
}

#[derive(Args, Debug)]
pub struct CaCreate {
    /// For so many days
    #[arg(long, default_value_t = 1825, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("kind").required(true))]
pub struct CertCreate {
    /// For a server
    #[arg(long, group = "kind")]
    server: bool,
    /// For a client agent
    #[arg(long, group = "kind")]
    client: bool,
    /// For a person or program that asks the HTTP API
    #[arg(long, group = "kind")]
    cli: bool,
    /// The datacenter
    #[arg(long, default_value = "dc1", value_name = "NAME")]
    dc: String,
    /// A name more that the certificate is good for, as in https://NAME; may be repeated
    #[arg(long, value_name = "NAME")]
    additional_dnsname: Vec<String>,
    /// An address more that the certificate is good for; may be repeated
    #[arg(long, value_name = "IP")]
    additional_ipaddress: Vec<IpAddr>,
    /// The authority's certificate
    #[arg(long, default_value = CA_CERT, value_name = "FILE")]
    ca: PathBuf,
    /// The authority's key
    #[arg(long, default_value = CA_KEY, value_name = "FILE")]
    key: PathBuf,
    /// For so many days
    #[arg(long, default_value_t = 365, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

/// Makes what is asked for.
pub fn run(command: Tls) -> Result<Vec<u8>, Problem> {
    match command {
        Tls::Ca(Ca::Create(args)) => authority(&args, Path::new(".")),
        Tls::Cert(Cert::Create(args)) => certificate(&args, Path::new(".")),
    }
}

fn failed(what: &str) -> impl Fn(rcgen::Error) -> Problem {
    move |error| Problem::failed(format!("cannot make {what}: {error}"))
}

/// Valid from a day ago, for clocks that differ, and for so many days.
fn valid(params: &mut CertificateParams, days: u32) {
    const DAY: u64 = 86_400;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = |seconds: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    params.not_before = at(now.saturating_sub(DAY));
    params.not_after = at(now + DAY * u64::from(days));
}

fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = format!("{AUTHORITY} {:016x}", xxh3_64(key.public_key_raw()));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn authority(args: &CaCreate, directory: &Path) -> Result<Vec<u8>, Problem> {
    let said = failed("the authority");
    let key = KeyPair::generate().map_err(&said)?;
    let mut params = authority_params(&key);
    valid(&mut params, args.days);
    let certificate = params.self_signed(&key).map_err(&said)?;
    write_new(&directory.join(CA_KEY), key.serialize_pem().as_bytes(), 0o600)?;
    write_new(&directory.join(CA_CERT), certificate.pem().as_bytes(), 0o644)?;
    Ok(lines([
        &*format!("{CA_CERT}      for every machine: ca_file"),
        &*format!("{CA_KEY}  keep it away from them: it signs members into the cluster"),
    ]))
}

fn certificate(args: &CertCreate, directory: &Path) -> Result<Vec<u8>, Problem> {
    let said = failed("the certificate");
    secrets::check(&args.key)?;
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| Problem::failed(format!("cannot read {}: {error}", path.display())))
    };
    let authority = read(&args.ca)?;
    let signer = KeyPair::from_pem(&read(&args.key)?)
        .map_err(|error| Problem::failed(format!("{} is no key: {error}", args.key.display())))?;
    let issuer = Issuer::new(authority_params(&signer), signer);

    let kind = if args.server {
        "server"
    } else if args.client {
        "client"
    } else {
        "cli"
    };
    let mut names = vec!["localhost".to_owned()];
    if args.server {
        names.extend(server_names(&args.dc));
    } else {
        names.push(format!("{kind}.{}.driftline", args.dc));
    }
    names.extend(args.additional_dnsname.iter().cloned());
    let mut params = CertificateParams::new(names.clone()).map_err(&said)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{kind}.{}.driftline", args.dc));
    let here = [IpAddr::from([127, 0, 0, 1])];
    let addresses = here.iter().chain(&args.additional_ipaddress);
    params.subject_alt_names.extend(addresses.map(|addr| SanType::IpAddress(*addr)));
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    valid(&mut params, args.days);
    let key = KeyPair::generate().map_err(&said)?;
    let certificate = params.signed_by(&key, &issuer).map_err(&said)?;
    check_signed(certificate.der(), &authority).map_err(|reason| {
        Problem::failed(format!(
            "{} and {} are no authority of `driftline tls ca create`, or not of one another: {reason}",
            args.ca.display(),
            args.key.display()
        ))
    })?;
    let stem = (0..10_000)
        .map(|number| format!("{}-{kind}-{number}", args.dc))
        .find(|stem| !directory.join(format!("{stem}.pem")).exists())
        .ok_or_else(|| Problem::failed("there are 10000 certificates here already"))?;
    write_new(&directory.join(format!("{stem}-key.pem")), key.serialize_pem().as_bytes(), 0o600)?;
    write_new(&directory.join(format!("{stem}.pem")), certificate.pem().as_bytes(), 0o644)?;
    Ok(lines([
        &*format!("{stem}.pem      cert_file, good for {}", names.join(", ")),
        &*format!("{stem}-key.pem  key_file, for its owner only"),
    ]))
}

/// Whether the authority's certificate is the one behind a certificate.
fn check_signed(certificate: &CertificateDer<'_>, authority: &str) -> Result<(), String> {
    let authority =
        CertificateDer::from_pem_slice(authority.as_bytes()).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(|error| error.to_string())?;
    let parsed =
        rustls::server::ParsedCertificate::try_from(certificate).map_err(|error| error.to_string())?;
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    let now = UnixTime::now();
    rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)
        .map_err(|error| error.to_string())
}

/// Writes a file that is not there yet.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), Problem> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(content));
    written.map_err(|error| Problem::failed(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(directory: &Path, ca: &str, kind: &str) -> Result<Vec<u8>, Problem> {
        let args = CertCreate {
            server: kind == "server",
            client: kind == "client",
            cli: kind == "cli",
            dc: "dc1".to_owned(),
            additional_dnsname: vec!["api.example.com".to_owned()],
            additional_ipaddress: vec![IpAddr::from([10, 0, 0, 1])],
            ca: directory.join(ca),
            key: directory.join(CA_KEY),
            days: 2,
        };
        certificate(&args, directory)
    }

    #[test]
    fn an_authority_signs_and_nothing_is_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let args = CaCreate { days: 2 };
        authority(&args, home.path()).unwrap();
        assert!(authority(&args, home.path()).unwrap_err().text.contains("exists"));
        for (kind, file) in [("server", "dc1-server-0"), ("server", "dc1-server-1"), ("cli", "dc1-cli-0")] {
            create(home.path(), CA_CERT, kind).unwrap();
            assert!(home.path().join(format!("{file}.pem")).exists(), "{file}");
        }
        // The key of one authority and the certificate of another.
        let other = tempfile::tempdir().unwrap();
        authority(&args, other.path()).unwrap();
        std::fs::copy(other.path().join(CA_CERT), home.path().join("other.pem")).unwrap();
        let refused = create(home.path(), "other.pem", "client").unwrap_err();
        assert!(refused.text.contains("not of one another"), "{}", refused.text);
        assert!(!home.path().join("dc1-client-0.pem").exists());
    }
}
