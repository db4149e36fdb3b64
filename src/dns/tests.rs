//! Answers to questions, as whoever asks reads them.

use std::collections::BTreeMap;

use domain::base::iana::{Class, Opcode, Rtype};
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::AllRecordData;
use proptest::prelude::*;

use super::answer::{Zone, serves};
use super::wire::{LARGEST_UDP, NoQuestion, Reply, SMALLEST_UDP, encode, read};
use super::*;
use crate::config::DnsConfig;
use crate::state::catalog::{CheckInfo, CheckRow, Row, ServiceInfo, Status};
use crate::state::prepared::PreparedQuery;

fn row<T>(info: T) -> Row<T> {
    Row { info, create_index: 1, modify_index: 1 }
}

fn instance(node: &str, address: &str, own: &str, port: u16, status: Status) -> Instance {
    let node_info = NodeInfo { name: node.into(), address: address.into(), ..NodeInfo::default() };
    let service = ServiceInfo {
        id: "web".into(),
        name: "web".into(),
        address: own.into(),
        port,
        weights: (7, 2),
        ..ServiceInfo::default()
    };
    let check = CheckInfo {
        id: "up".into(),
        name: "up".into(),
        status,
        notes: String::new(),
        output: String::new(),
        service_id: "web".into(),
        kind: String::new(),
        interval: String::new(),
        timeout: String::new(),
    };
    let check = CheckRow {
        node: node.into(),
        check: row(check),
        service_name: "web".into(),
        service_tags: Vec::new(),
    };
    Instance { node: row(node_info), service: row(service), checks: vec![check] }
}

fn zone(config: DnsConfig) -> Zone {
    Zone::new(config, "dc1".into())
}

/// A question as a client writes it.
fn asked(name: &str, rtype: Rtype, udp_size: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    question.push((Name::vec_from_str(name).unwrap(), rtype, Class::IN)).unwrap();
    let mut additional = question.additional();
    if let Some(size) = udp_size {
        additional
            .opt(|opt| {
                opt.set_udp_payload_size(size);
                Ok(())
            })
            .unwrap();
    }
    additional.finish()
}

/// What somebody reads in an answer: its flags, and a line a record, by section.
fn told(bytes: &[u8]) -> String {
    let message = Message::from_octets(bytes).unwrap();
    let header = message.header();
    assert!(header.qr() && header.id() == 0x1234);
    let mut told = vec![format!(
        "{}{}{}",
        header.rcode(),
        if header.aa() { " aa" } else { "" },
        if header.tc() { " tc" } else { "" }
    )];
    let sections = [message.answer().unwrap(), message.authority().unwrap(), message.additional().unwrap()];
    for (section, name) in sections.into_iter().zip(["answer", "authority", "additional"]) {
        for record in section.limit_to::<AllRecordData<_, _>>() {
            let record = record.unwrap();
            if record.rtype() != Rtype::OPT {
                // Some kinds of data show the root's dot, and some do not.
                let data = record.data().to_string().replace(". ", " ");
                let data = data.trim_end_matches('.');
                told.push(format!("{name} {} {} {data}", record.owner(), record.ttl().as_secs()));
            }
        }
    }
    told.join("\n")
}

fn question(name: &str, rtype: Rtype) -> Question {
    read(&asked(name, rtype, None)).unwrap()
}

#[test]
fn a_service_is_told_with_where_it_is() {
    let zone = zone(DnsConfig { service_ttl_ms: [("w*".to_owned(), 5_000)].into(), ..DnsConfig::default() });
    let all = [
        instance("n1", "10.0.0.1", "", 80, Status::Passing),
        instance("n2", "10.0.0.2", "10.1.0.2", 81, Status::Warning),
        instance("n1", "10.0.0.1", "", 82, Status::Passing),
        instance("n3", "2001:db8::3", "host.example.com", 83, Status::Passing),
    ];
    let ask = |rtype| {
        let question = question("web.service.consul", rtype);
        told(&encode(&question, &zone.service(&question, "web", &all, false), 65_535))
    };
    assert_eq!(
        ask(Rtype::SRV),
        "NOERROR aa\n\
         answer web.service.consul 5 1 7 80 n1.node.dc1.consul\n\
         answer web.service.consul 5 1 2 81 0a010002.addr.dc1.consul\n\
         answer web.service.consul 5 1 7 82 n1.node.dc1.consul\n\
         answer web.service.consul 5 1 7 83 host.example.com\n\
         additional n1.node.dc1.consul 5 10.0.0.1\n\
         additional 0a010002.addr.dc1.consul 5 10.1.0.2"
    );
    assert_eq!(
        ask(Rtype::A),
        "NOERROR aa\n\
         answer web.service.consul 5 10.0.0.1\n\
         answer web.service.consul 5 10.1.0.2"
    );
    // It is there, and has no text.
    assert_eq!(
        ask(Rtype::TXT),
        "NOERROR aa\nauthority consul 0 ns.consul hostmaster.consul 0 3600 600 86400 0"
    );
    let question = question("web.service.consul", Rtype::A);
    let none = told(&encode(&question, &zone.service(&question, "web", &[], false), 512));
    assert!(none.starts_with("NXDOMAIN aa\nauthority consul"), "{none}");
}

#[test]
fn each_target_comes_with_its_address_and_with_it_once() {
    let zone = zone(DnsConfig::default());
    // Two nodes behind one address, and a service that names the address of another's node as its own.
    let all = [
        instance("n1", "10.0.0.1", "", 80, Status::Passing),
        instance("n2", "10.0.0.1", "", 81, Status::Passing),
        instance("n3", "10.0.0.3", "10.0.0.1", 82, Status::Passing),
        instance("n2", "10.0.0.1", "", 83, Status::Passing),
    ];
    let question = question("web.service.consul", Rtype::SRV);
    let told = told(&encode(&question, &zone.service(&question, "web", &all, false), 65_535));
    let glue: Vec<&str> = told.lines().filter(|line| line.starts_with("additional ")).collect();
    assert_eq!(
        glue,
        [
            "additional n1.node.dc1.consul 0 10.0.0.1",
            "additional n2.node.dc1.consul 0 10.0.0.1",
            "additional 0a000001.addr.dc1.consul 0 10.0.0.1",
        ]
    );
}

#[test]
fn an_alias_stands_alone() {
    let zone = zone(DnsConfig::default());
    let ask = |name: &str, rtype, all: &[Instance]| {
        let question = question(name, rtype);
        let told = told(&encode(&question, &zone.service(&question, "web", all, true), 512));
        told.lines().filter_map(|line| line.strip_prefix("answer ").map(str::to_owned)).collect::<Vec<_>>()
    };
    let at = |node: &str, address: &str| instance(node, address, "", 80, Status::Passing);
    let two = [at("a", "a.example.com"), at("b", "b.example.com")];
    for rtype in [Rtype::A, Rtype::AAAA, Rtype::CNAME, Rtype::ANY] {
        assert_eq!(ask("two.service.consul", rtype, &two), ["two.service.consul 0 a.example.com"], "{rtype}");
    }
    let mix = [at("a", "a.example.com"), at("c", "10.5.5.5"), at("b", "b.example.com")];
    for rtype in [Rtype::A, Rtype::ANY] {
        assert_eq!(ask("mix.service.consul", rtype, &mix), ["mix.service.consul 0 10.5.5.5"], "{rtype}");
    }
    for rtype in [Rtype::AAAA, Rtype::CNAME] {
        assert!(ask("mix.service.consul", rtype, &mix).is_empty(), "{rtype}");
    }
    // A node that is elsewhere, and has labels.
    let mut node = NodeInfo { name: "n".into(), address: "a.example.com".into(), ..NodeInfo::default() };
    node.meta.insert("rack".into(), "2".into());
    let of_node = |rtype| zone.node(&question("n.node.consul", rtype), &node).answers;
    assert_eq!(of_node(Rtype::ANY), of_node(Rtype::A));
    assert!(of_node(Rtype::A).len() == 1 && of_node(Rtype::TXT).len() == 1);
}

#[test]
fn no_name_is_an_alias_of_itself_and_no_target_is_an_alias() {
    let zone = zone(DnsConfig::default());
    let ask = |rtype, one: Instance| {
        let question = question("Loop.service.consul", rtype);
        told(&encode(&question, &zone.service(&question, "loop", &[one], false), 512))
    };
    let looped = || instance("n1", "10.5.5.5", "loop.Service.consul.", 80, Status::Passing);
    assert_eq!(ask(Rtype::A, looped()), "NOERROR aa\nanswer Loop.service.consul 0 10.5.5.5");
    assert_eq!(
        ask(Rtype::SRV, looped()),
        "NOERROR aa\nanswer Loop.service.consul 0 1 7 80 n1.node.dc1.consul\n\
         additional n1.node.dc1.consul 0 10.5.5.5"
    );
    let of_itself = instance("n1", "loop.service.consul", "", 80, Status::Passing);
    assert!(ask(Rtype::A, of_itself).starts_with("NOERROR aa\nauthority consul"));
    let elsewhere = instance("ext4", "foo.example.com", "", 80, Status::Passing);
    assert_eq!(ask(Rtype::SRV, elsewhere), "NOERROR aa\nanswer Loop.service.consul 0 1 7 80 foo.example.com");
}

#[test]
fn what_an_answer_leads_to_in_the_domain_is_found_once() {
    let zone = zone(DnsConfig::default());
    let alias = |of: &str, name: &str| wire::Record {
        owner: question(of, Rtype::A).name,
        ttl: 0,
        data: wire::Data::Cname(question(name, Rtype::A).name),
    };
    let leads_to = |records: &[wire::Record]| zone.leads_to(records).map(|name| name.to_string());
    assert_eq!(leads_to(&[alias("a.service.consul", "B.node.Consul")]), Some("B.node.Consul".to_owned()));
    assert_eq!(leads_to(&[alias("a.service.consul", "b.example.com")]), None);
    let around =
        [alias("a.service.consul", "b.service.consul"), alias("b.service.consul", "A.service.consul")];
    assert_eq!(leads_to(&around), None);
    let at = |node: &str, own: &str| instance(node, "10.0.0.1", own, 80, Status::Passing);
    let all = [at("n1", ""), at("n2", "big.node.consul"), at("n3", "big.example.com"), at("n4", "10.0.0.9")];
    let reply = zone.service(&question("web.service.consul", Rtype::SRV), "web", &all, false);
    let open: Vec<String> = zone.open_targets(&reply).iter().map(ToString::to_string).collect();
    assert_eq!(open, ["big.node.consul"]);
}

#[test]
fn one_end_is_told_once() {
    let zone = zone(DnsConfig::default());
    let of = |id: &str, port| {
        let mut one = instance("Ext1", "10.0.0.1", "", port, Status::Passing);
        one.service.info.id = id.into();
        one
    };
    let all = [of("db1", 5432), of("db2", 5432), of("db3", 5433)];
    let question = question("db.service.consul", Rtype::SRV);
    let ports = |reply: Reply| {
        let ports = reply.answers.into_iter().filter_map(|record| match record.data {
            wire::Data::Srv { port, .. } => Some(port),
            _ => None,
        });
        ports.collect::<Vec<_>>()
    };
    assert_eq!(ports(zone.service(&question, "db", &all, true)), [5432, 5433]);
    assert_eq!(ports(zone.query(&question, &PreparedQuery::default(), &all, true)), [5432, 5433]);
}

#[test]
fn labels_are_told_as_rfc_1464_has_it_unless_they_are_texts_of_another_form() {
    let zone = zone(DnsConfig::default());
    let told = |key: &str, value: &str| {
        let meta = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let node = NodeInfo { name: "n".into(), address: "10.0.0.1".into(), meta, ..NodeInfo::default() };
        let answers = zone.node(&question("n.node.consul", Rtype::TXT), &node).answers;
        match &answers[..] {
            [wire::Record { data: wire::Data::Txt(text), .. }] => String::from_utf8(text.clone()).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    for (key, value, expected) in [
        ("rack", "2", "rack=2"),
        ("a=b", "c=d", "a`=b=c=d"),
        ("a`b", "c", "a``b=c"),
        (" a  ", "c", "` a` ` =c"),
        ("  ", "c", "` ` =c"),
        ("a", "b`c", "a=b``c"),
        ("rfc1035-txt", "v=spf1 -all", "v=spf1 -all"),
        ("RFC1035-x", "`", "`"),
        ("rfc1035", "x", "rfc1035=x"),
    ] {
        assert_eq!(told(key, value), expected, "{key:?}");
    }
}

#[test]
fn what_a_query_finds_lives_as_long_as_the_query_says_or_else_as_the_service() {
    let zone = zone(DnsConfig { service_ttl_ms: [("web".to_owned(), 5_000)].into(), ..DnsConfig::default() });
    let found = [instance("n1", "10.0.0.1", "", 80, Status::Passing)];
    let ask = |dns_ttl: &str| {
        let query =
            PreparedQuery { service: "web".into(), dns_ttl: dns_ttl.into(), ..PreparedQuery::default() };
        let question = question("q.query.consul", Rtype::A);
        told(&encode(&question, &zone.query(&question, &query, &found, true), 512))
    };
    assert_eq!(ask("7s"), "NOERROR aa\nanswer q.query.consul 7 10.0.0.1");
    assert_eq!(ask(""), "NOERROR aa\nanswer q.query.consul 5 10.0.0.1");
}

#[test]
fn what_is_critical_is_not_told_and_what_warns_only_if_wanted() {
    let with = |status| instance("n1", "10.0.0.1", "", 80, status);
    let told = |only_passing| {
        [Status::Passing, Status::Warning, Status::Critical].map(|status| serves(&with(status), only_passing))
    };
    assert_eq!(told(false), [true, true, false]);
    assert_eq!(told(true), [true, false, false]);
}

#[test]
fn an_answer_by_udp_is_short_and_says_so_if_it_did_not_fit() {
    let many: Vec<Instance> = (0..200)
        .map(|i| instance(&format!("node-{i}"), &format!("10.0.0.{i}"), "", 80, Status::Passing))
        .collect();
    let ask = |config: DnsConfig, udp: bool, size: Option<u16>| {
        let question = read(&asked("web.service.consul", Rtype::SRV, size)).unwrap();
        let reply = zone(config).service(&question, "web", &many, udp);
        let limit = if udp { question.udp_limit() } else { 65_535 };
        let bytes = encode(&question, &reply, limit);
        assert!(bytes.len() <= limit);
        let message = Message::from_octets(bytes).unwrap();
        assert_eq!(message.opt().is_some(), size.is_some());
        (message.header_counts().ancount(), message.header().tc())
    };
    let unlimited = || DnsConfig { udp_answer_limit: 0, ..DnsConfig::default() };
    assert_eq!(ask(DnsConfig::default(), true, None), (3, false));
    assert_eq!(ask(DnsConfig { enable_truncate: true, ..DnsConfig::default() }, true, None), (3, true));
    assert_eq!(ask(DnsConfig::default(), false, None), (200, false));
    assert!(ask(DnsConfig::default(), true, Some(4_096)).0 > 3, "who takes large answers gets more");
    let (small, cut) = ask(unlimited(), true, None);
    assert!(cut && small > 3);
    let (larger, cut) = ask(unlimited(), true, Some(1_232));
    assert!(cut && larger > small);
    // A client that takes more than anybody sends gets no more than we send.
    let (largest, cut) = ask(unlimited(), true, Some(65_535));
    assert!(cut && largest > larger && largest < 200);
}

#[test]
fn nodes_addresses_and_the_domain_itself() {
    let zone = zone(DnsConfig { node_ttl_ms: 3_000, ..DnsConfig::default() });
    let mut node = NodeInfo { name: "n1".into(), address: "10.0.0.1".into(), ..NodeInfo::default() };
    node.meta.insert("rack".into(), "2".into());
    let servers = [instance("n1", "10.0.0.1", "", 8300, Status::Passing)];
    let ask = |name: &str, rtype, reply: &dyn Fn(&Question) -> Reply| {
        let question = question(name, rtype);
        told(&encode(&question, &reply(&question), 512))
    };
    let of_node = |question: &Question| zone.node(question, &node);
    assert_eq!(ask("N1.node.consul", Rtype::A, &of_node), "NOERROR aa\nanswer N1.node.consul 3 10.0.0.1");
    assert!(ask("n1.node.consul", Rtype::AAAA, &of_node).starts_with("NOERROR aa\nauthority consul"));
    assert!(ask("n1.node.consul", Rtype::TXT, &of_node).contains("rack=2"));
    let reverse = |question: &Question| zone.reverse(question, std::slice::from_ref(&node), &BTreeSet::new());
    assert_eq!(
        ask("1.0.0.10.in-addr.arpa", Rtype::PTR, &reverse),
        "NOERROR aa\nanswer 1.0.0.10.in-addr.arpa 3 n1.node.dc1.consul"
    );
    let by_service = |question: &Question| zone.reverse(question, &[], &["db".to_owned()].into());
    assert_eq!(
        ask("9.9.9.10.in-addr.arpa", Rtype::PTR, &by_service),
        "NOERROR aa\nanswer 9.9.9.10.in-addr.arpa 0 db.service.dc1.consul"
    );
    let nobody = |question: &Question| zone.reverse(question, &[], &BTreeSet::new());
    assert!(ask("9.9.9.10.in-addr.arpa", Rtype::PTR, &nobody).starts_with("NXDOMAIN aa\n"));
    let apex = |question: &Question| zone.apex(question, &servers);
    assert_eq!(
        ask("consul", Rtype::NS, &apex),
        "NOERROR aa\nanswer consul 0 n1.node.dc1.consul\nadditional n1.node.dc1.consul 3 10.0.0.1"
    );
    assert!(ask("consul", Rtype::SOA, &apex).contains("answer consul 0 ns.consul hostmaster.consul 0"));
    let server = |question: &Question| zone.name_server(question, &servers);
    assert_eq!(ask("ns.consul", Rtype::A, &server), "NOERROR aa\nanswer ns.consul 0 10.0.0.1");
}

#[test]
fn what_is_no_question_is_refused_or_passed_over() {
    let good = asked("web.service.consul", Rtype::A, None);
    let rcode = |bytes: &[u8]| match read(bytes) {
        Err(NoQuestion::Answer(answer)) => Message::from_octets(answer).unwrap().opt_rcode().to_string(),
        Err(NoQuestion::Silence) => "silence".to_owned(),
        Ok(_) => "a question".to_owned(),
    };
    assert_eq!(rcode(&good), "a question");
    assert_eq!(rcode(&good[..11]), "silence");
    assert_eq!(rcode(&good[..good.len() - 1]), "FORMERR");
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        rcode(&bytes)
    };
    assert_eq!(changed(2, 0x80), "silence");
    assert_eq!(changed(2, u8::from(Opcode::UPDATE) << 3), "NOTIMP");
    assert_eq!(changed(5, 0), "FORMERR");
    assert_eq!(changed(good.len() - 1, 3), "REFUSED");
    assert_eq!(rcode(&asked("consul", Rtype::AXFR, None)), "NOTIMP");
    let mut edns = asked("web.service.consul", Rtype::A, Some(1_232));
    let version = edns.len() - 5;
    edns[version] = 1;
    assert_eq!(rcode(&edns), "BADVERS");
}

proptest! {
    #[test]
    fn any_bytes_are_a_question_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..600), one in any::<bool>()) {
        if one && bytes.len() > 12 {
            // More of them get past the head.
            bytes[2] = 0;
            bytes[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        }
        if let Ok(question) = read(&bytes) {
            let zone = zone(DnsConfig::default());
            let reply = zone.service(&question, "web", &[instance("n1", "10.0.0.1", "", 1, Status::Passing)], true);
            let answer = encode(&question, &reply, question.udp_limit());
            prop_assert!(!answer.is_empty() && answer.len() <= question.udp_limit());
            prop_assert!(read(&answer).is_err());
            let _ = name::wanted(&question.labels(), question.rtype, zone.domain(), "dc1");
        }
    }

    #[test]
    fn whatever_is_registered_the_answer_can_be_read(
        instances in prop::collection::vec((".{0,80}", "[0-9a-z.:-]{0,20}", "[0-9a-z.:-]{0,90}", any::<u16>()), 0..40),
        size in prop::option::of(any::<u16>()),
        rtype in prop::sample::select(vec![Rtype::A, Rtype::AAAA, Rtype::SRV, Rtype::ANY]),
        limit in 0usize..20,
    ) {
        let instances: Vec<Instance> = instances
            .iter()
            .map(|(node, address, own, port)| instance(node, address, own, *port, Status::Passing))
            .collect();
        let question = read(&asked("web.service.consul", rtype, size)).unwrap();
        let zone = zone(DnsConfig { udp_answer_limit: limit, ..DnsConfig::default() });
        let reply = zone.service(&question, "web", &instances, true);
        let large = question.udp_limit() > SMALLEST_UDP.into();
        prop_assert!(limit == 0 || large || reply.answers.len() <= limit);
        let bytes = encode(&question, &reply, question.udp_limit());
        prop_assert!(bytes.len() <= question.udp_limit());
        prop_assert!(question.udp_limit() >= SMALLEST_UDP.into() && question.udp_limit() <= LARGEST_UDP.into());
        let _ = told(&bytes);
    }
}

#[test]
fn a_time_to_live_is_that_of_the_longest_name_that_fits() {
    let ttls: BTreeMap<String, u64> = [("*", 1_000), ("web*", 2_000), ("web-a*", 3_000), ("web-ab", 4_000)]
        .map(|(name, ttl)| (name.to_owned(), ttl))
        .into();
    let zone = zone(DnsConfig { service_ttl_ms: ttls, ..DnsConfig::default() });
    let question = question("web.service.consul", Rtype::A);
    let all = [instance("n1", "10.0.0.1", "", 80, Status::Passing)];
    let ttl = |name: &str| zone.service(&question, name, &all, true).answers[0].ttl;
    assert_eq!(["db", "web", "web-b", "web-ax", "web-ab"].map(ttl), [1, 2, 2, 3, 4]);
}
