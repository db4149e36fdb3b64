//! Questions as they arrive, and answers as they leave. The `domain` crate reads and writes the messages.
//!
//! An answer that does not fit loses what does not: first what is only helpful, then answers from the end, which is
//! marked (TC), so that whoever asked by UDP asks again by TCP.

use std::net::{Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, PushError};
use domain::base::name::NameBuilder;
use domain::base::{Message, MessageBuilder, Serial, StaticCompressor, ToName, Ttl};
use domain::rdata::{A, Aaaa, Cname, Ns, Ptr, Soa, Srv, Txt};

/// A name, as bytes of its own.
pub type Name = domain::base::Name<Vec<u8>>;

/// An answer by UDP to somebody who does not say how much he can take.
pub const SMALLEST_UDP: u16 = 512;
/// And to somebody who can take anything: what rarely arrives in pieces is less, but local resolvers can.
pub const LARGEST_UDP: u16 = 4_096;
/// What the record takes that says how much we can take.
const OPT_SIZE: usize = 11;

/// A question.
#[derive(Clone, Debug)]
pub struct Question {
    id: u16,
    recursion_desired: bool,
    /// Of what.
    pub name: Name,
    /// Which records.
    pub rtype: Rtype,
    class: Class,
    /// How large an answer by UDP may be, if it says so.
    pub udp_size: Option<u16>,
}

/// Why there is no question in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoQuestion {
    /// It cannot be answered: not a message, or itself an answer.
    Silence,
    /// It can be answered, with this.
    Answer(Vec<u8>),
}

/// Reads a message.
///
/// # Errors
/// [`NoQuestion`].
pub fn read(bytes: &[u8]) -> Result<Question, NoQuestion> {
    let message = Message::from_octets(bytes).map_err(|_| NoQuestion::Silence)?;
    let header = message.header();
    if header.qr() {
        return Err(NoQuestion::Silence);
    }
    let failed = |rcode: Rcode| {
        let mut builder = MessageBuilder::new_vec();
        let head = builder.header_mut();
        head.set_id(header.id());
        head.set_qr(true);
        head.set_opcode(header.opcode());
        head.set_rd(header.rd());
        head.set_rcode(rcode);
        NoQuestion::Answer(builder.finish())
    };
    if header.opcode() != Opcode::QUERY {
        return Err(failed(Rcode::NOTIMP));
    }
    let asked = message.sole_question().map_err(|_| failed(Rcode::FORMERR))?;
    // Nobody is given the whole domain.
    if matches!(asked.qtype(), Rtype::AXFR | Rtype::IXFR) {
        return Err(failed(Rcode::NOTIMP));
    }
    let opt = message.opt();
    let question = Question {
        id: header.id(),
        recursion_desired: header.rd(),
        name: asked.qname().to_vec(),
        rtype: asked.qtype(),
        class: asked.qclass(),
        udp_size: opt.as_ref().map(|opt| opt.udp_payload_size()),
    };
    if opt.is_some_and(|opt| opt.version() > 0) {
        let reply = Reply::failed(Rcode::NOERROR);
        return Err(NoQuestion::Answer(write(&question, &reply, SMALLEST_UDP.into(), OptRcode::BADVERS)));
    }
    if !matches!(question.class, Class::IN | Class::ANY) {
        return Err(failed(Rcode::REFUSED));
    }
    Ok(question)
}

impl Question {
    /// The name's labels in small letters, without the root.
    pub fn labels(&self) -> Vec<String> {
        labels(&self.name)
    }

    /// The same of another name.
    pub fn of(&self, name: Name, rtype: Rtype) -> Question {
        Question { name, rtype, ..self.clone() }
    }

    /// How large an answer by UDP may be.
    pub fn udp_limit(&self) -> usize {
        self.udp_size.unwrap_or(SMALLEST_UDP).clamp(SMALLEST_UDP, LARGEST_UDP).into()
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// An address.
    Aaaa(Ipv6Addr),
    /// Where an instance of a service is.
    Srv {
        /// Its share.
        weight: u16,
        /// Its port.
        port: u16,
        /// Its host.
        target: Name,
    },
    /// Another name for it.
    Cname(Name),
    /// Whose address it is.
    Ptr(Name),
    /// Who serves the domain.
    Ns(Name),
    /// A text.
    Txt(Vec<u8>),
    /// The domain.
    Soa {
        /// Its name server.
        server: Name,
        /// Whom to write to.
        mailbox: Name,
        /// Its version.
        serial: u32,
    },
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Of what.
    pub owner: Name,
    /// For how many seconds it may be remembered.
    pub ttl: u32,
    /// What.
    pub data: Data,
}

impl Record {
    /// Whether it says that the name is another's alias.
    pub fn is_alias(&self) -> bool {
        matches!(self.data, Data::Cname(_))
    }

    /// Whether it says where a host is.
    pub fn is_of_host(&self) -> bool {
        matches!(self.data, Data::A(_) | Data::Aaaa(_) | Data::Cname(_))
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How it went.
    pub rcode: Rcode,
    /// Whether this node knows it by itself.
    pub authoritative: bool,
    /// Whether something is missing.
    pub truncated: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// Who says so.
    pub authority: Vec<Record>,
    /// What will be asked for next.
    pub additional: Vec<Record>,
}

impl Reply {
    /// Nothing but an error.
    pub fn failed(rcode: Rcode) -> Reply {
        Reply {
            rcode,
            authoritative: false,
            truncated: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        }
    }

    /// The places where it tells the domain's version.
    pub fn serials(&mut self) -> impl Iterator<Item = &mut u32> {
        let records = self.answers.iter_mut().chain(&mut self.authority);
        records.filter_map(|record| match &mut record.data {
            Data::Soa { serial, .. } => Some(serial),
            _ => None,
        })
    }
}

/// A name's labels in small letters, without the root.
pub fn labels(name: &Name) -> Vec<String> {
    let labels = name.iter().filter(|label| !label.is_root());
    labels.map(|label| String::from_utf8_lossy(label.as_slice()).to_ascii_lowercase()).collect()
}

/// A name of these labels. Nothing if they are too long to be one.
pub fn name(labels: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Option<Name> {
    let mut builder = NameBuilder::new_vec();
    for label in labels {
        if label.as_ref().is_empty() {
            return None;
        }
        builder.append_label(label.as_ref()).ok()?;
    }
    builder.into_name().ok()
}

type Target = StaticCompressor<Vec<u8>>;

macro_rules! push {
    ($section:expr, $record:expr) => {{
        let Record { owner, ttl, data } = $record;
        let ttl = Ttl::from_secs(*ttl);
        match data {
            Data::A(address) => $section.push((owner, ttl, A::new(*address))),
            Data::Aaaa(address) => $section.push((owner, ttl, Aaaa::new(*address))),
            Data::Srv { weight, port, target } => {
                $section.push((owner, ttl, Srv::new(1, *weight, *port, target)))
            }
            Data::Cname(name) => $section.push((owner, ttl, Cname::new(name))),
            Data::Ptr(name) => $section.push((owner, ttl, Ptr::new(name))),
            Data::Ns(name) => $section.push((owner, ttl, Ns::new(name))),
            Data::Txt(text) => match Txt::<Vec<u8>>::build_from_slice(text) {
                Ok(text) => $section.push((owner, ttl, text)),
                // Longer than any text can be.
                Err(_) => Err(PushError::ShortBuf),
            },
            Data::Soa { server, mailbox, serial } => {
                let (hour, minutes, day) = (Ttl::from_hours(1), Ttl::from_mins(10), Ttl::from_days(1));
                let serial = Serial(*serial);
                $section.push((owner, ttl, Soa::new(server, mailbox, serial, hour, minutes, day, Ttl::ZERO)))
            }
        }
    }};
}

/// An answer as it is sent, in at most `limit` bytes.
pub fn encode(question: &Question, reply: &Reply, limit: usize) -> Vec<u8> {
    write(question, reply, limit, reply.rcode.into())
}

fn write(question: &Question, reply: &Reply, limit: usize, rcode: OptRcode) -> Vec<u8> {
    match try_write(question, reply, limit, rcode) {
        Ok(builder) => builder.finish().into_target(),
        // A head and a question fit into any limit there is.
        Err(_) => Vec::new(),
    }
}

fn try_write(
    question: &Question,
    reply: &Reply,
    limit: usize,
    rcode: OptRcode,
) -> Result<AdditionalBuilder<Target>, PushError> {
    let target = StaticCompressor::new(Vec::with_capacity(limit.min(LARGEST_UDP.into())));
    let mut builder = MessageBuilder::from_target(target).map_err(|_| PushError::ShortBuf)?;
    let kept = if question.udp_size.is_some() { OPT_SIZE } else { 0 };
    builder.set_push_limit(limit.saturating_sub(kept));
    let head = builder.header_mut();
    head.set_id(question.id);
    head.set_qr(true);
    head.set_opcode(Opcode::QUERY);
    head.set_aa(reply.authoritative);
    head.set_tc(reply.truncated);
    head.set_rd(question.recursion_desired);
    head.set_rcode(rcode.rcode());
    let mut questions = builder.question();
    questions.push((&question.name, question.rtype, question.class))?;
    let mut answers = questions.answer();
    for record in &reply.answers {
        if push!(answers, record).is_err() {
            answers.header_mut().set_tc(true);
            break;
        }
    }
    let mut authority = answers.authority();
    for record in &reply.authority {
        if push!(authority, record).is_err() {
            break;
        }
    }
    let mut additional = authority.additional();
    for record in &reply.additional {
        if push!(additional, record).is_err() {
            break;
        }
    }
    if question.udp_size.is_some() {
        additional.clear_push_limit();
        additional.opt(|opt| {
            opt.set_udp_payload_size(LARGEST_UDP);
            opt.set_rcode(rcode);
            Ok(())
        })?;
    }
    Ok(additional)
}
