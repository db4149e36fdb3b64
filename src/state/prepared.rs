//! Prepared queries: a question about a service that was written down once, under an id and perhaps a name.
//!
//! A *template* stands for many: it answers to every name that begins with its own, the longest one first, and puts
//! parts of the name that was asked for into its service and its tags ([`PreparedQuery::rendered`]). One with an
//! empty name answers to everything.
//!
//! A query may be bound to a session, and goes with it, however that ends.
//!
//! Left out: failing over to other datacenters, since there is one (what is written down about it is kept), and
//! tokens inside of queries.

use std::collections::BTreeMap;

use regex::RegexBuilder;
use serde::{Deserialize, Serialize};

use super::catalog::{Instance, Row, Status, has_meta};
use super::map::{Map, Set};
use super::query::{Asked, Indexed};
use super::session::Sessions;
use super::tables::Table;
use super::{Outcome, Refusal, State};

/// Bytes of a name that a query has or is asked for by: as many as a name in DNS.
pub const MOST_OF_NAME: usize = 255;
/// Bytes of any other text of a query, as it is written and as it is filled in.
pub const MOST_OF_TEXT: usize = 1024;
/// Bytes of all texts of a query, as they are written and as they are filled in.
pub const MOST_OF_QUERY: usize = 64 * 1024;
/// Bytes that a template's regular expression may take once it is compiled, which is done whenever it is asked for.
const MOST_OF_REGEXP: usize = 256 * 1024;

/// A query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedQuery {
    /// A UUID.
    pub id: String,
    /// Its name, or that with which the names begin that a template answers to.
    pub name: String,
    /// The session that it goes with; empty: none.
    pub session: String,
    /// Set if it is a template.
    pub template: Option<Template>,
    /// The service that is asked for.
    pub service: String,
    /// Whether instances with warnings are left out too.
    pub only_passing: bool,
    /// Checks that do not count, by id.
    pub ignore_check_ids: Vec<String>,
    /// The node from which distances are measured; empty: in no order.
    pub near: String,
    /// Tags that an instance must have, or with a `!` before them, must not have.
    pub tags: Vec<String>,
    /// Labels that an instance's node must have.
    pub node_meta: BTreeMap<String, String>,
    /// Labels that an instance must have.
    pub service_meta: BTreeMap<String, String>,
    /// How many of the nearest other datacenters are to be asked. Kept only.
    pub failover_nearest: u64,
    /// Which other datacenters are to be asked. Kept only.
    pub failover_datacenters: Vec<String>,
    /// The time to live of answers by DNS, as the client wrote it.
    pub dns_ttl: String,
}

/// What makes a query a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// A regular expression whose groups `${match(N)}` stands for.
    pub regexp: String,
    /// Whether tags that are empty once they are filled in are left out.
    pub remove_empty_tags: bool,
}

/// A change to prepared queries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreparedCommand {
    /// Writes a new one. Its id was drawn by whoever proposes it.
    Create(Box<PreparedQuery>),
    /// Writes another in place of the one that has its id.
    Update(Box<PreparedQuery>),
    /// Removes one.
    Delete {
        /// Its id.
        id: String,
    },
}

impl PreparedCommand {
    /// Roughly how many bytes it takes.
    pub fn size(&self) -> usize {
        match self {
            PreparedCommand::Create(query) | PreparedCommand::Update(query) => {
                512 + query.texts().map(|(_, text)| text.len()).sum::<usize>()
            }
            PreparedCommand::Delete { .. } => 64,
        }
    }
}

/// What is said when there is no such query; Consul's words.
pub const NOT_FOUND: &str = "Query not found";

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedQueries {
    queries: Table<String, Row<PreparedQuery>>,
    /// Ids by name in small letters: derived. Names are those of one query each, templates' as well; letters that are
    /// small in one and not in the other make no difference, as in DNS.
    #[serde(skip)]
    by_name: Map<String, String>,
    /// Sessions with the ids of the queries that go with them: derived.
    #[serde(skip)]
    bound: Set<(String, String)>,
}

impl PreparedQueries {
    /// Applies a command at log index `index`.
    pub(super) fn apply(&mut self, index: u64, command: &PreparedCommand, sessions: &Sessions) -> Outcome {
        let refused = |refusal| Outcome::Refused { index, refusal };
        let not_found = || refused(Refusal::NotFound(NOT_FOUND.to_owned()));
        let (query, is_new) = match command {
            PreparedCommand::Create(query) => (&**query, true),
            PreparedCommand::Update(query) => (&**query, false),
            PreparedCommand::Delete { id } => {
                return if self.remove(index, id) { Outcome::Done { index } } else { not_found() };
            }
        };
        let known = self.queries.get(&query.id);
        if known.is_none() && !is_new {
            return not_found();
        }
        let invalid = |text: String| refused(Refusal::Invalid(text));
        if known.is_some() && is_new {
            return invalid(format!("query {:?} exists already", query.id));
        }
        let named = !query.name.is_empty() || query.template.is_some();
        if named && self.by_name.get(&query.name.to_ascii_lowercase()).is_some_and(|other| *other != query.id)
        {
            return invalid(format!("name {:?} aliases an existing query name", query.name));
        }
        if self.queries.get(&query.name).is_some_and(|other| other.info.id != query.id) {
            return invalid(format!("name {:?} aliases an existing query id", query.name));
        }
        if !query.session.is_empty() && sessions.get(&query.session).is_none() {
            return invalid(format!("invalid session {:?}", query.session));
        }
        if known.is_none_or(|known| known.info != *query) {
            let create_index = known.map_or(index, |known| known.create_index);
            self.forget(&query.id.clone());
            let row = Row { info: query.clone(), create_index, modify_index: index };
            self.note(&row.info);
            self.queries.set(index, query.id.clone(), row);
        }
        Outcome::Done { index }
    }

    fn remove(&mut self, index: u64, id: &str) -> bool {
        self.forget(id);
        self.queries.remove(index, &id.to_owned()).is_some()
    }

    /// Takes a query out of what is derived.
    fn forget(&mut self, id: &str) {
        let Some(known) = self.queries.get(&id.to_owned()) else { return };
        self.bound.remove(&(known.info.session.clone(), id.to_owned()));
        let name = known.info.name.to_ascii_lowercase();
        if self.by_name.get(&name).is_some_and(|named| named == id) {
            self.by_name.remove(&name);
        }
    }

    /// Takes a query into what is derived.
    fn note(&mut self, query: &PreparedQuery) {
        if !query.name.is_empty() || query.template.is_some() {
            self.by_name.insert(query.name.to_ascii_lowercase(), query.id.clone());
        }
        if !query.session.is_empty() {
            self.bound.insert((query.session.clone(), query.id.clone()));
        }
    }

    /// A session has ended.
    pub(super) fn session_ended(&mut self, index: u64, session: &str) {
        let from = (session.to_owned(), String::new());
        let bound = self.bound.range(from..).take_while(|(of, _)| of == session);
        let ids: Vec<String> = bound.map(|(_, id)| id.clone()).collect();
        for id in ids {
            self.remove(index, &id);
        }
    }

    /// The query that an id or a name means: by its id, by its very name, or the template with the longest name
    /// that this one begins with.
    pub fn resolve(&self, wanted: &str) -> Option<&Row<PreparedQuery>> {
        let exact = self.queries.get(&wanted.to_owned());
        exact.or_else(|| {
            let wanted = wanted.to_ascii_lowercase();
            let starts = wanted.char_indices().map(|(at, _)| at).chain([wanted.len()]);
            let mut longest_first: Vec<usize> = starts.collect();
            longest_first.reverse();
            longest_first.into_iter().find_map(|end| {
                let row = self.queries.get(self.by_name.get(&wanted[..end])?)?;
                (end == wanted.len() || row.info.template.is_some()).then_some(row)
            })
        })
    }

    /// The same queries as if written at log index `index`, without those that went with a session.
    pub(super) fn written_at(self, index: u64) -> PreparedQueries {
        let lasting = self.queries.into_rows().filter(|(_, row)| row.info.session.is_empty());
        let rows =
            lasting.map(|(id, row)| (id, Row { info: row.info, create_index: index, modify_index: index }));
        let mut queries =
            PreparedQueries { queries: Table::of_rows(index, rows), ..PreparedQueries::default() };
        queries.rebuild();
        queries
    }

    /// The query with this id.
    pub fn get(&self, id: &str) -> Option<&Row<PreparedQuery>> {
        self.queries.get(&id.to_owned())
    }

    /// Whether there was ever one.
    pub(super) fn is_blank(&self) -> bool {
        self.newest() == 0
    }

    /// The index of the newest change to any of them.
    pub(super) fn newest(&self) -> u64 {
        self.queries.newest()
    }

    pub(super) fn digest(&self) -> u64 {
        self.queries.digest()
    }

    /// Computes anew what is derived, after loading.
    pub(super) fn rebuild(&mut self) {
        self.queries.rebuild_digest();
        (self.by_name, self.bound) = Default::default();
        let all: Vec<PreparedQuery> = self.queries.iter().map(|(_, row)| row.info.clone()).collect();
        for query in &all {
            self.note(query);
        }
    }
}

impl PreparedQuery {
    /// Whether it wants an instance.
    pub fn wants(&self, instance: &Instance) -> bool {
        let service = &instance.service.info;
        let tag = |wanted: &String| match wanted.strip_prefix('!') {
            Some(unwanted) => !service.tags.iter().any(|tag| tag.eq_ignore_ascii_case(unwanted)),
            None => service.tags.iter().any(|tag| tag.eq_ignore_ascii_case(wanted)),
        };
        let worst = if self.only_passing { Status::Passing } else { Status::Warning };
        let mut checks = instance.checks.iter().map(|row| &row.check.info);
        self.tags.iter().all(tag)
            && has_meta(&instance.node.info.meta, &self.node_meta)
            && has_meta(&service.meta, &self.service_meta)
            && checks.all(|check| check.status <= worst || self.ignore_check_ids.contains(&check.id))
    }

    /// All its texts, with what they are.
    fn texts(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let labels = self.node_meta.iter().map(|label| ("NodeMeta", label));
        let labels = labels.chain(self.service_meta.iter().map(|label| ("ServiceMeta", label)));
        let one = [
            ("ID", &self.id),
            ("Name", &self.name),
            ("Session", &self.session),
            ("Service", &self.service),
            ("Near", &self.near),
            ("TTL", &self.dns_ttl),
        ];
        let lists = [
            ("Tags", &self.tags),
            ("IgnoreCheckIDs", &self.ignore_check_ids),
            ("Datacenters", &self.failover_datacenters),
        ];
        one.into_iter()
            .chain(self.template.iter().map(|template| ("Regexp", &template.regexp)))
            .chain(lists.into_iter().flat_map(|(what, texts)| texts.iter().map(move |text| (what, text))))
            .chain(labels.flat_map(|(what, (key, value))| [(what, key), (what, value)]))
    }

    /// Whether it makes sense. Asked before one is written, and never of one that is: what was written before there were
    /// bounds stays as it is.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        if self.service.is_empty() {
            return Err("Must provide a Service name to query".to_owned());
        }
        if self.node_meta.contains_key("") {
            return Err("NodeMeta: Key cannot be blank".to_owned());
        }
        let mut all = 0;
        for (what, text) in self.texts() {
            let most = if what == "Name" { MOST_OF_NAME } else { MOST_OF_TEXT };
            if text.len() > most {
                return Err(format!("{what} of {} bytes is too long: it may have {most}", text.len()));
            }
            all += text.len();
        }
        if all > MOST_OF_QUERY {
            return Err(format!("a query of {all} bytes is too long: it may have {MOST_OF_QUERY}"));
        }
        self.rendered(&self.name).map(drop)
    }

    /// With the parts of the name that was asked for filled in, if it is a template: `${name.full}`, `${name.prefix}`
    /// (the template's own name), `${name.suffix}` (the rest), and `${match(N)}`, a group of the regular expression, or
    /// nothing if it does not match. As in Consul they may stand in every text that says what is looked for.
    ///
    /// What comes out is bounded: a short name in a template must not become a long answer.
    ///
    /// # Errors
    /// When the expression is none, something else is to be filled in, or what is filled in is too long.
    pub fn rendered(&self, asked: &str) -> Result<PreparedQuery, String> {
        let mut query = self.clone();
        let Some(template) = &self.template else { return Ok(query) };
        let regexp = RegexBuilder::new(&template.regexp)
            .size_limit(MOST_OF_REGEXP)
            .dfa_size_limit(MOST_OF_REGEXP)
            .build()
            .map_err(|error| format!("Bad regexp {:?}: {error}", template.regexp))?;
        let groups = if template.regexp.is_empty() { None } else { regexp.captures(asked) };
        let (start, rest) = asked.split_at_checked(self.name.len()).unwrap_or_default();
        let suffix = if start.eq_ignore_ascii_case(&self.name) { rest } else { "" };
        let too_long = || {
            format!(
                "filled in with this name, the query is too long: a text of it may have {MOST_OF_TEXT} bytes, and all \
                 together {MOST_OF_QUERY}"
            )
        };
        let mut all = 0;
        let mut fill = |text: &mut String| {
            let (mut filled, mut rest) = (String::new(), text.as_str());
            while let Some((before, after)) = rest.split_once("${") {
                let (what, after) =
                    after.split_once('}').ok_or_else(|| format!("Bad format {text:?}: a brace is open"))?;
                filled.push_str(before);
                let group = what.strip_prefix("match(").and_then(|what| what.strip_suffix(')'));
                match (what, group.and_then(|number| number.trim().parse::<usize>().ok())) {
                    ("name.full", _) => filled.push_str(asked),
                    ("name.prefix", _) => filled.push_str(&self.name),
                    ("name.suffix", _) => filled.push_str(suffix),
                    // There is only the default segment, whose name is empty.
                    ("agent.segment", _) => {}
                    (_, Some(number)) => {
                        let found = groups.as_ref().and_then(|groups| groups.get(number));
                        filled.push_str(found.map_or("", |found| found.as_str()));
                    }
                    (what, None) => return Err(format!("Bad format {text:?}: unknown variable {what:?}")),
                }
                if filled.len() > MOST_OF_TEXT {
                    return Err(too_long());
                }
                rest = after;
            }
            filled.push_str(rest);
            all += filled.len();
            if filled.len() > MOST_OF_TEXT || all > MOST_OF_QUERY {
                return Err(too_long());
            }
            *text = filled;
            Ok(())
        };
        fill(&mut query.service)?;
        fill(&mut query.near)?;
        let lists = [&mut query.tags, &mut query.ignore_check_ids, &mut query.failover_datacenters];
        lists.into_iter().flatten().try_for_each(&mut fill)?;
        let labels = query.node_meta.values_mut().chain(query.service_meta.values_mut());
        labels.into_iter().try_for_each(fill)?;
        if template.remove_empty_tags {
            query.tags.retain(|tag| !tag.is_empty() && tag != "!");
        }
        Ok(query)
    }
}

/// All prepared queries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedList;

impl Asked for PreparedList {
    type Found = Vec<Row<PreparedQuery>>;

    fn ask(&self, state: &State) -> Indexed<Self::Found> {
        let queries = &state.prepared().queries;
        Indexed { index: queries.newest(), value: queries.iter().map(|(_, row)| row.clone()).collect() }
    }
}

/// The prepared query that an id means, or with `resolve` a name or a template as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The id, or the name.
    pub wanted: String,
    /// Whether names count.
    pub resolve: bool,
}

impl Asked for Prepared {
    type Found = Option<Row<PreparedQuery>>;

    fn ask(&self, state: &State) -> Indexed<Self::Found> {
        let prepared = state.prepared();
        if self.resolve {
            return Indexed {
                index: prepared.queries.newest(),
                value: prepared.resolve(&self.wanted).cloned(),
            };
        }
        let row = prepared.queries.get(&self.wanted);
        let index = row.map_or_else(|| prepared.queries.removed_at(&self.wanted), |row| row.modify_index);
        Indexed { index, value: row.cloned() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::kv::tests::any_session;
    use super::super::session::NewSession;
    use super::super::{Command, Request, RequestId, SessionCommand};
    use super::*;
    use proptest::prelude::*;

    fn query(id: &str, name: &str) -> PreparedQuery {
        PreparedQuery { id: id.into(), name: name.into(), service: "web".into(), ..PreparedQuery::default() }
    }

    fn template(id: &str, name: &str, service: &str, regexp: &str) -> PreparedQuery {
        let template = Template { regexp: regexp.into(), remove_empty_tags: true };
        PreparedQuery { template: Some(template), service: service.into(), ..query(id, name) }
    }

    pub fn any_command() -> impl Strategy<Value = PreparedCommand> {
        let id = || prop::sample::select(vec!["q1", "q2", "q3"]).prop_map(str::to_owned);
        let name = prop::sample::select(vec!["", "a", "ab", "q1"]);
        let session = prop_oneof![3 => Just(String::new()), 1 => any_session()];
        let any = (id(), name, session, any::<bool>()).prop_map(|(id, name, session, is_template)| {
            let template = is_template.then(Template::default);
            PreparedQuery { session, template, ..query(&id, name) }
        });
        (any, 0u8..3).prop_map(|(query, kind)| match kind {
            0 => PreparedCommand::Create(Box::new(query)),
            1 => PreparedCommand::Update(Box::new(query)),
            _ => PreparedCommand::Delete { id: query.id },
        })
    }

    fn apply(state: &mut State, command: Command) -> Outcome {
        let index = state.applied() + 1;
        let id = RequestId { origin: 1, number: index };
        state.apply(index, &Request { id, done_below: 0, command })
    }

    fn create(state: &mut State, query: PreparedQuery) -> Outcome {
        apply(state, Command::Prepared(PreparedCommand::Create(Box::new(query))))
    }

    fn why(outcome: Outcome) -> String {
        match outcome {
            Outcome::Refused { refusal, .. } => refusal.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ids_come_first_then_names_then_the_longest_template() {
        let mut state = State::default();
        for query in [
            query("q1", "web"),
            template("q2", "", "any", ""),
            template("q3", "geo-", "geo", ""),
            template("q4", "geo-db-", "geo-db", ""),
        ] {
            assert!(create(&mut state, query).is_done());
        }
        let resolved = |wanted: &str| state.prepared().resolve(wanted).map(|row| row.info.id.as_str());
        let cases = [
            ("q1", "q1"),
            ("web", "q1"),
            ("web2", "q2"),
            ("geo-", "q3"),
            ("geo-x", "q3"),
            ("geo-db-é", "q4"),
            ("WEB", "q1"),
            ("Geo-DB-x", "q4"),
        ];
        for (wanted, found) in cases {
            assert_eq!(resolved(wanted), Some(found), "{wanted}");
        }
        let mut state = state.clone();
        assert!(apply(&mut state, Command::Prepared(PreparedCommand::Delete { id: "q2".into() })).is_done());
        assert_eq!(state.prepared().resolve("web2"), None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut state = State::default();
        assert!(create(&mut state, query("q1", "web")).is_done());
        assert!(why(create(&mut state, query("q2", "web"))).contains("aliases an existing query name"));
        assert!(why(create(&mut state, query("q2", "q1"))).contains("aliases an existing query id"));
        assert!(why(create(&mut state, query("q1", "other"))).contains("exists already"));
        let bound = PreparedQuery { session: "nobody".into(), ..query("q2", "") };
        assert_eq!(why(create(&mut state, bound)), "invalid session \"nobody\"");
        let update = PreparedCommand::Update(Box::new(query("q9", "")));
        assert_eq!(why(apply(&mut state, Command::Prepared(update))), NOT_FOUND);
        let nothing = Command::Prepared(PreparedCommand::Delete { id: "q9".into() });
        assert_eq!(why(apply(&mut state, nothing)), NOT_FOUND);
        // Nameless ones may be many.
        assert!(
            create(&mut state, query("q3", "")).is_done() && create(&mut state, query("q4", "")).is_done()
        );
    }

    #[test]
    fn a_bound_query_goes_with_its_session() {
        let mut state = State::default();
        let made = NewSession { id: "s".into(), node: "n".into(), ..NewSession::default() };
        assert!(apply(&mut state, Command::Session(SessionCommand::Create(made))).is_done());
        assert!(create(&mut state, PreparedQuery { session: "s".into(), ..query("q1", "web") }).is_done());
        assert!(create(&mut state, query("q2", "db")).is_done());
        assert!(apply(&mut state, Command::Session(SessionCommand::Destroy { id: "s".into() })).is_done());
        assert!(state.prepared().resolve("web").is_none() && state.prepared().resolve("db").is_some());
        let gone = Prepared { wanted: "q1".into(), resolve: false }.ask(&state);
        assert_eq!((gone.index, gone.value), (state.applied(), None));
    }

    #[test]
    fn a_template_is_filled_in_from_the_name() {
        let mut query = template("q", "geo-", "${match(1)}-of-${name.suffix}", "^geo-(.*)-(\\w+)$");
        query.tags = vec!["${match(2)}".into(), "${match(9)}".into(), "${name.prefix}${name.full}".into()];
        let rendered = query.rendered("geo-db-master").unwrap();
        assert_eq!(rendered.service, "db-of-db-master");
        assert_eq!(rendered.tags, ["master", "geo-geo-db-master"]);
        assert_eq!(query.rendered("geo-").unwrap().service, "-of-");
        // Every text that says what is looked for, and the values of labels, but not their keys.
        let one = |key: &str| BTreeMap::from([(key.to_owned(), "${name.suffix}".to_owned())]);
        query.near = "n-${match(1)}".into();
        query.ignore_check_ids = vec!["${match(2)}".into()];
        query.failover_datacenters = vec!["dc-${match(2)}".into()];
        (query.node_meta, query.service_meta) = (one("${name.full}"), one("of"));
        let rendered = query.rendered("geo-db-master").unwrap();
        assert_eq!(rendered.near, "n-db");
        assert_eq!(rendered.ignore_check_ids, ["master"]);
        assert_eq!(rendered.failover_datacenters, ["dc-master"]);
        let filled = |key: &str| BTreeMap::from([(key.to_owned(), "db-master".to_owned())]);
        assert_eq!(rendered.node_meta, filled("${name.full}"));
        assert_eq!(rendered.service_meta, filled("of"));
        for bad in ["${name.full", "${who}", "${match(x)}"] {
            assert!(template("q", "", bad, "").check().unwrap_err().contains("Bad format"), "{bad}");
        }
        assert!(template("q", "", "a", "(").check().unwrap_err().contains("Bad regexp"));
        assert!(super::tests::query("q", "").rendered("${x}").is_ok());
    }

    #[test]
    fn a_template_is_no_bomb() {
        let asked = "x".repeat(MOST_OF_NAME);
        let fits = template("q", "", &"${name.full}".repeat(MOST_OF_TEXT / MOST_OF_NAME), "");
        assert_eq!(fits.rendered(&asked).unwrap().service.len(), 4 * MOST_OF_NAME);
        let long = template("q", "", &"${name.full}".repeat(12_000), "");
        let mut many = template("q", "", "web", "");
        many.tags = vec!["${name.full}".into(); 1 + MOST_OF_QUERY / MOST_OF_NAME];
        for bomb in [&long, &many] {
            assert!(bomb.rendered(&asked).unwrap_err().contains("too long"));
        }
        assert!(many.rendered("x").is_ok() && many.check().is_ok());
        for regexp in [r"\pL{150}", "((a{100}){100}){100}"] {
            let refused = template("q", "", "web", regexp).check().unwrap_err();
            assert!(refused.contains("Bad regexp") && refused.contains("size limit"), "{refused}");
        }
    }

    #[test]
    fn no_text_is_longer_than_it_may_be_and_all_of_them_count() {
        let long = || "x".repeat(MOST_OF_TEXT + 1);
        let with = |change: fn(&mut PreparedQuery, String)| {
            let mut query = template("q", "", "web", "");
            change(&mut query, long());
            query
        };
        let all = [
            with(|query, long| query.name = long),
            with(|query, long| query.service = long),
            with(|query, long| query.near = long),
            with(|query, long| query.template = Some(Template { regexp: long, remove_empty_tags: false })),
            with(|query, long| query.tags = vec![long]),
            with(|query, long| query.ignore_check_ids = vec![long]),
            with(|query, long| query.failover_datacenters = vec![long]),
            with(|query, long| query.node_meta = BTreeMap::from([(long, String::new())])),
            with(|query, long| query.service_meta = BTreeMap::from([(String::new(), long)])),
        ];
        for query in all {
            assert!(query.check().unwrap_err().contains("too long"), "{query:?}");
            assert!(PreparedCommand::Create(Box::new(query)).size() > MOST_OF_TEXT);
        }
        let named = |bytes: usize| query("q", &"n".repeat(bytes)).check();
        assert!(named(MOST_OF_NAME).is_ok() && named(MOST_OF_NAME + 1).is_err());
        let mut blank = query("q", "");
        blank.node_meta = BTreeMap::from([(String::new(), "x".to_owned())]);
        assert!(blank.check().unwrap_err().contains("cannot be blank"));
        let mut many = query("q", "many");
        many.tags = vec!["x".repeat(MOST_OF_TEXT); MOST_OF_QUERY / MOST_OF_TEXT];
        assert!(many.check().unwrap_err().contains("too long"));
        // What was written before there were bounds is still taken from the log.
        assert!(create(&mut State::default(), many).is_done());
    }
}
