//! Tokens, policies and roles: who may do what.
//!
//! Whoever asks for something shows a token's *secret*. The token links *policies*, and *roles*, which link policies
//! in turn; a policy is a text of [`rules`]. What comes of all of them together an [`Authorizer`] says. Services and
//! nodes may be named instead of a policy that would say what one of their kind needs ([`Grants`]).
//!
//! State holds who has which rights, and judges nobody: `agent::rights` does, with the state that a call meets. Everything
//! random (ids, secrets) was drawn by whoever proposes a command and is in it, as is the text of a policy together with the
//! rules that were read from it: a later program that reads texts differently must not make replicas differ.
//!
//! Two things are always there, from the first command on: the policy `global-management`, which allows everything, and
//! the token `anonymous`, which stands for whoever shows no token.
//!
//! * **Bootstrap** makes the first token that may do everything, once. Whoever has lost it writes the *reset index*, which
//!   the refusal names, into a file on a server; that opens the door for one more.
//! * **A time to live** is only kept here: state sees no clock. A leader counts it out and says so by
//!   [`AclCommand::Expire`] (`agent::sessions`).
//!
//! Left out: auth methods, binding rules, namespaces, templated policies.

pub mod authorizer;
pub mod rules;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mutant;
use crate::secret::Secret;

use super::map::{Map, Set};
use super::query::{Asked, Indexed};
use super::tables::Table;
use super::{Outcome, Refusal, Returned, State};

pub use authorizer::{Authorizer, Denied, Holder};
pub use rules::{Access, BadRules, Kind, Rules};

use rules::Rule;

/// The policy that allows everything.
pub const GLOBAL_MANAGEMENT: &str = "00000000-0000-0000-0000-000000000001";
/// The accessor id of the token of those who show none.
pub const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";
/// Its secret, which is none.
pub const ANONYMOUS_SECRET: &str = "anonymous";

/// Tokens there may be, and policies and roles each.
pub const MAX_ROWS: usize = 1 << 16;
/// Links and identities of one token or role.
pub const MAX_LINKS: usize = 256;

/// A change to tokens, policies and roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AclCommand {
    /// Makes the first token that may do everything.
    Bootstrap {
        /// It.
        token: NewToken,
        /// The reset index, from whoever may reset.
        reset: Option<u64>,
    },
    /// Makes a token that the configuration names, if there is none of its secret.
    Introduce(NewToken),
    /// Makes a policy, or changes one.
    PutPolicy {
        /// It.
        policy: Policy,
        /// Whether it must be new, or must be there.
        new: bool,
    },
    /// Removes a policy; one that is not there is gone already.
    DeletePolicy {
        /// Its id.
        id: String,
    },
    /// Makes a role, or changes one.
    PutRole {
        /// It.
        role: NewRole,
        /// Whether it must be new, or must be there.
        new: bool,
    },
    /// Removes a role; one that is not there is gone already.
    DeleteRole {
        /// Its id.
        id: String,
    },
    /// Makes a token, or changes one.
    PutToken {
        /// It. For a change, no secret means the one it has.
        token: NewToken,
        /// Whether it must be new, or must be there.
        new: bool,
    },
    /// Removes a token; one that is not there is gone already.
    DeleteToken {
        /// Its accessor id.
        accessor: String,
    },
    /// Removes a token whose time is over.
    Expire {
        /// Its accessor id.
        accessor: String,
        /// Its creation: another token of this id is another.
        created: u64,
    },
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// A UUID.
    pub id: String,
    /// Its name, unique.
    pub name: String,
    /// For people.
    pub description: String,
    /// As it was written.
    pub text: String,
    /// As it was read.
    pub rules: Rules,
    /// Where it counts; empty: everywhere.
    pub datacenters: Vec<String>,
}

/// Names a policy or a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Link {
    /// By id.
    Id(String),
    /// By name.
    Name(String),
}

/// What a service needs to register itself and find others, without a policy that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceIdentity {
    /// The service's name.
    pub name: String,
    /// Where it counts; empty: everywhere.
    pub datacenters: Vec<String>,
}

/// What an agent needs to keep the catalog true, without a policy that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// The node's name.
    pub name: String,
    /// Where it counts.
    pub datacenter: String,
}

/// What a role gives, or a token by itself. `L` is how policies are named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants<L> {
    /// The policies.
    pub policies: Vec<L>,
    /// The services.
    pub services: Vec<ServiceIdentity>,
    /// The nodes.
    pub nodes: Vec<NodeIdentity>,
}

impl<L> Default for Grants<L> {
    fn default() -> Grants<L> {
        Grants { policies: Vec::new(), services: Vec::new(), nodes: Vec::new() }
    }
}

/// A role in a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRole {
    /// A UUID.
    pub id: String,
    /// Its name, unique.
    pub name: String,
    /// For people.
    pub description: String,
    /// What it gives.
    pub grants: Grants<Link>,
}

/// A token in a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// A UUID, by which it is spoken of.
    pub accessor: String,
    /// By which it is shown.
    pub secret: Secret,
    /// For people.
    pub description: String,
    /// What it gives by itself.
    pub grants: Grants<Link>,
    /// Its roles.
    pub roles: Vec<Link>,
    /// A mark of the client's: there is one datacenter.
    pub local: bool,
    /// Its time to live in nanoseconds; 0 if it has none.
    pub ttl_ns: u64,
    /// When it was made, in milliseconds since 1970, by the clock of whoever proposed it. Only shown.
    pub created_ms: u64,
}

/// A role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// A UUID.
    pub id: String,
    /// Its name, unique.
    pub name: String,
    /// For people.
    pub description: String,
    /// What it gives, with policies by id. One that is gone gives nothing.
    pub grants: Grants<String>,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// By which it is spoken of.
    pub accessor: String,
    /// By which it is shown.
    pub secret: Secret,
    /// For people.
    pub description: String,
    /// What it gives by itself, with policies by id.
    pub grants: Grants<String>,
    /// Its roles by id.
    pub roles: Vec<String>,
    /// A mark of the client's.
    pub local: bool,
    /// Its time to live in nanoseconds; 0 if it has none.
    pub ttl_ns: u64,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A policy, role or token with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered<T> {
    /// It.
    pub it: T,
    /// Log index of its creation.
    pub create_index: u64,
    /// Log index of its last change.
    pub modify_index: u64,
}

/// A link as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
}

/// A role with the names of its policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownRole {
    /// The role.
    pub role: Entered<Role>,
    /// Its policies that are there.
    pub policies: Vec<Named>,
}

/// A token with the names of what it links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownToken {
    /// The token.
    pub token: Entered<Token>,
    /// Its policies that are there.
    pub policies: Vec<Named>,
    /// Its roles that are there.
    pub roles: Vec<Named>,
}

/// What a command made or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Made {
    /// A policy.
    Policy(Entered<Policy>),
    /// A role.
    Role(ShownRole),
    /// A token.
    Token(ShownToken),
}

impl AclCommand {
    /// Roughly how many bytes it takes.
    pub fn weight(&self) -> usize {
        fn grants(grants: &Grants<Link>) -> usize {
            64 * (grants.policies.len() + grants.services.len() + grants.nodes.len())
        }
        match self {
            AclCommand::PutPolicy { policy, .. } => 256 + 2 * policy.text.len() + policy.description.len(),
            AclCommand::PutRole { role, .. } => 256 + role.description.len() + grants(&role.grants),
            AclCommand::PutToken { token, .. }
            | AclCommand::Introduce(token)
            | AclCommand::Bootstrap { token, .. } => {
                256 + token.description.len() + grants(&token.grants) + 64 * token.roles.len()
            }
            _ => 128,
        }
    }
}

impl fmt::Display for AclCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AclCommand::Bootstrap { token, .. } => write!(f, "make the first token {}", token.accessor),
            AclCommand::Introduce(token) => write!(f, "make the configured token {}", token.accessor),
            AclCommand::PutPolicy { policy, .. } => write!(f, "set policy {} {:?}", policy.id, policy.name),
            AclCommand::DeletePolicy { id } => write!(f, "delete policy {id}"),
            AclCommand::PutRole { role, .. } => write!(f, "set role {} {:?}", role.id, role.name),
            AclCommand::DeleteRole { id } => write!(f, "delete role {id}"),
            AclCommand::PutToken { token, .. } => write!(f, "set token {}", token.accessor),
            AclCommand::DeleteToken { accessor } => write!(f, "delete token {accessor}"),
            AclCommand::Expire { accessor, created } => write!(f, "expire token {accessor} of {created}"),
        }
    }
}

/// All tokens, policies and roles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    policies: Table<String, Entered<Policy>>,
    roles: Table<String, Entered<Role>>,
    tokens: Table<String, Entered<Token>>,
    /// The log index of the last bootstrap; 0 before the first.
    bootstrapped: u64,
    /// Tokens by the hashes of their secrets: derived.
    #[serde(skip)]
    by_secret: Map<[u8; 32], String>,
    /// Tokens with a time to live by their creation: derived, so that timers find what is new to them.
    #[serde(skip)]
    mortal: Set<(u64, String)>,
}

type Judged<T> = Result<T, Refusal>;

/// What several links lead to counts once.
fn each_once(ids: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    ids.into_iter().filter(|id| seen.insert(id.clone())).collect()
}

fn invalid<T>(text: impl Into<String>) -> Judged<T> {
    Err(Refusal::Invalid(text.into()))
}

fn missing<T>(text: impl Into<String>) -> Judged<T> {
    Err(Refusal::NotFound(text.into()))
}

impl Acl {
    /// The same as if written at log index `index`, in place of what `present` holds; what has a time to live has all of it
    /// again. If nobody had been given any rights yet, those of now stay: else nobody would have any left, and whoever
    /// comes first could make himself the first token.
    pub(super) fn written_at(self, index: u64, present: &Acl) -> Acl {
        if self.bootstrapped == 0 && present.bootstrapped != 0 {
            return present.clone();
        }
        fn anew<T: Clone + Serialize>(
            index: u64,
            table: Table<String, Entered<T>>,
        ) -> Table<String, Entered<T>> {
            let row = |row: Entered<T>| Entered { it: row.it, create_index: index, modify_index: index };
            Table::of_rows(index, table.into_rows().map(|(id, at)| (id, row(at))))
        }
        let mut acl = Acl {
            policies: anew(index, self.policies),
            roles: anew(index, self.roles),
            tokens: anew(index, self.tokens),
            bootstrapped: if self.bootstrapped == 0 { 0 } else { index },
            ..Acl::default()
        };
        acl.rebuild();
        acl
    }

    /// Applies a command at log index `index`.
    pub(super) fn apply(&mut self, index: u64, command: &AclCommand) -> Outcome {
        self.establish(index);
        match self.carry_out(index, command) {
            Ok(Some(made)) => Outcome::Returned { index, value: Returned::Acl(Box::new(made)) },
            Ok(None) => Outcome::Done { index },
            Err(refusal) => Outcome::Refused { index, refusal },
        }
    }

    /// What is always there.
    fn establish(&mut self, index: u64) {
        if self.policies.get(&GLOBAL_MANAGEMENT.to_owned()).is_none() {
            let policy = Policy {
                id: GLOBAL_MANAGEMENT.to_owned(),
                name: "global-management".to_owned(),
                description: "Builtin Policy that grants unlimited access".to_owned(),
                text: everything_in_words(),
                rules: Rules::everything(),
                datacenters: Vec::new(),
            };
            self.policies.set(index, policy.id.clone(), entered(policy, index));
        }
        if self.tokens.get(&ANONYMOUS.to_owned()).is_none() {
            let token = Token {
                accessor: ANONYMOUS.to_owned(),
                secret: Secret::new(ANONYMOUS_SECRET),
                description: "Anonymous Token".to_owned(),
                grants: Grants::default(),
                roles: Vec::new(),
                local: false,
                ttl_ns: 0,
                created_ms: 0,
            };
            self.set_token(index, entered(token, index));
        }
    }

    fn carry_out(&mut self, index: u64, command: &AclCommand) -> Judged<Option<Made>> {
        match command {
            AclCommand::Bootstrap { token, reset } => {
                if self.bootstrapped != 0 && *reset != Some(self.bootstrapped) {
                    let text =
                        format!("ACL bootstrap no longer allowed (reset index: {})", self.bootstrapped);
                    return Err(Refusal::Denied(text));
                }
                let made = self.put_token(index, token, true)?;
                self.bootstrapped = index;
                Ok(Some(made))
            }
            AclCommand::Introduce(token) => {
                if self.by_secret.contains_key(&token.secret.digest()) {
                    return Ok(None);
                }
                let made = self.put_token(index, token, true)?;
                if self.bootstrapped == 0 {
                    self.bootstrapped = index;
                }
                Ok(Some(made))
            }
            AclCommand::PutPolicy { policy, new } => self.put_policy(index, policy, *new).map(Some),
            AclCommand::DeletePolicy { id } if id == GLOBAL_MANAGEMENT => {
                invalid("Delete operation not permitted on the builtin global-management policy")
            }
            AclCommand::DeletePolicy { id } => {
                self.policies.remove(index, id);
                Ok(None)
            }
            AclCommand::PutRole { role, new } => self.put_role(index, role, *new).map(Some),
            AclCommand::DeleteRole { id } => {
                self.roles.remove(index, id);
                Ok(None)
            }
            AclCommand::PutToken { token, new } => self.put_token(index, token, *new).map(Some),
            AclCommand::DeleteToken { accessor } if accessor == ANONYMOUS => {
                invalid("Delete operation not permitted on the anonymous token")
            }
            AclCommand::DeleteToken { accessor } => {
                self.remove_token(index, accessor);
                Ok(None)
            }
            AclCommand::Expire { accessor, created } => {
                if self.tokens.get(accessor).is_some_and(|token| token.create_index == *created) {
                    self.remove_token(index, accessor);
                }
                Ok(None)
            }
        }
    }

    fn put_policy(&mut self, index: u64, policy: &Policy, new: bool) -> Judged<Made> {
        let known = self.policies.get(&policy.id);
        match known {
            Some(_) if new => {
                return invalid(format!("Invalid Policy: A Policy with ID {:?} already exists", policy.id));
            }
            None if !new => return missing(format!("No such policy: {}", policy.id)),
            None if self.policies.len() >= MAX_ROWS => {
                return invalid(format!("there are {MAX_ROWS} policies already"));
            }
            Some(known) if policy.id == GLOBAL_MANAGEMENT && known.it.rules != policy.rules => {
                return invalid(
                    "Changing the Rules for the builtin global-management policy is not permitted",
                );
            }
            Some(_) if policy.id == GLOBAL_MANAGEMENT && !policy.datacenters.is_empty() => {
                return invalid(
                    "Changing the Datacenters of the builtin global-management policy is not permitted",
                );
            }
            _ => {}
        }
        let other = self.policies.iter().any(|(id, other)| *id != policy.id && other.it.name == policy.name);
        if other {
            return invalid(format!("Invalid Policy: A Policy with Name {:?} already exists", policy.name));
        }
        let create_index = known.map_or(index, |known| known.create_index);
        let mut it = policy.clone();
        // Mutant P04: a policy keeps the rules that it was made with, whatever its text says by now.
        if mutant::is("P04")
            && let Some(known) = known
        {
            it.rules = known.it.rules.clone();
        }
        let row = Entered { it, create_index, modify_index: index };
        self.policies.set(index, policy.id.clone(), row.clone());
        Ok(Made::Policy(row))
    }

    fn put_role(&mut self, index: u64, role: &NewRole, new: bool) -> Judged<Made> {
        let known = self.roles.get(&role.id);
        match known {
            Some(_) if new => {
                return invalid(format!("Invalid Role: A Role with ID {:?} already exists", role.id));
            }
            None if !new => return missing(format!("No such role: {}", role.id)),
            None if self.roles.len() >= MAX_ROWS => {
                return invalid(format!("there are {MAX_ROWS} roles already"));
            }
            _ => {}
        }
        if self.roles.iter().any(|(id, other)| *id != role.id && other.it.name == role.name) {
            return invalid(format!("Invalid Role: A Role with Name {:?} already exists", role.name));
        }
        let grants = self.resolved(&role.grants)?;
        let create_index = known.map_or(index, |known| known.create_index);
        let (id, name, description) = (role.id.clone(), role.name.clone(), role.description.clone());
        let it = Role { id, name, description, grants };
        let row = Entered { it, create_index, modify_index: index };
        self.roles.set(index, role.id.clone(), row.clone());
        Ok(Made::Role(self.show_role(&row)))
    }

    fn put_token(&mut self, index: u64, token: &NewToken, new: bool) -> Judged<Made> {
        let known = self.tokens.get(&token.accessor);
        // Accessor ids are told to many: one that is a secret too would tell it, or make one of what is told.
        let is_secret = |text: &Secret| self.by_secret.contains_key(&text.digest());
        let is_accessor = |text: &Secret| self.tokens.get(&text.expose().to_owned()).is_some();
        match known {
            Some(_) if new => return invalid("Invalid Token: AccessorID is already in use"),
            None if !new => return missing(format!("Cannot find token {:?}", token.accessor)),
            None if is_secret(&Secret::new(token.accessor.as_str())) => {
                return invalid("Invalid Token: AccessorID is already in use");
            }
            None if is_secret(&token.secret) || is_accessor(&token.secret) => {
                return invalid("Invalid Token: SecretID is already in use");
            }
            None if self.tokens.len() >= MAX_ROWS => {
                return invalid(format!("there are {MAX_ROWS} tokens already"));
            }
            Some(known) if !token.secret.is_empty() && known.it.secret != token.secret => {
                return invalid("Changing a token's SecretID is not permitted");
            }
            Some(known) if known.it.local != token.local => {
                return invalid(format!("cannot toggle local mode of {}", token.accessor));
            }
            Some(known) if token.ttl_ns != 0 && token.ttl_ns != known.it.ttl_ns => {
                return invalid("Cannot change the expiration time of a token");
            }
            _ => {}
        }
        let roles = token.roles.iter().map(|link| match self.role_named(link) {
            Some(role) => Ok(role.it.id.clone()),
            None => invalid(format!("No such ACL role: {}", link.text())),
        });
        let roles = each_once(roles.collect::<Judged<_>>()?);
        if roles.len() > MAX_LINKS {
            return invalid(format!("more than {MAX_LINKS} roles"));
        }
        let it = Token {
            accessor: token.accessor.clone(),
            secret: known.map_or_else(|| token.secret.clone(), |known| known.it.secret.clone()),
            description: token.description.clone(),
            grants: self.resolved(&token.grants)?,
            roles,
            local: token.local,
            ttl_ns: known.map_or(token.ttl_ns, |known| known.it.ttl_ns),
            created_ms: known.map_or(token.created_ms, |known| known.it.created_ms),
        };
        let create_index = known.map_or(index, |known| known.create_index);
        let row = Entered { it, create_index, modify_index: index };
        self.set_token(index, row.clone());
        Ok(Made::Token(self.show_token(&row)))
    }

    /// What links name, by id.
    fn resolved(&self, grants: &Grants<Link>) -> Judged<Grants<String>> {
        if grants.policies.len() + grants.services.len() + grants.nodes.len() > MAX_LINKS {
            return invalid(format!("more than {MAX_LINKS} policies and identities"));
        }
        let policies = grants.policies.iter().map(|link| match self.policy_named(link) {
            Some(policy) => Ok(policy.it.id.clone()),
            None => invalid(format!("No such ACL policy: {}", link.text())),
        });
        let policies = each_once(policies.collect::<Judged<_>>()?);
        Ok(Grants { policies, services: grants.services.clone(), nodes: grants.nodes.clone() })
    }

    fn policy_named(&self, link: &Link) -> Option<&Entered<Policy>> {
        match link {
            Link::Id(id) => self.policies.get(id),
            Link::Name(name) => {
                self.policies.iter().map(|(_, policy)| policy).find(|policy| policy.it.name == *name)
            }
        }
    }

    fn role_named(&self, link: &Link) -> Option<&Entered<Role>> {
        match link {
            Link::Id(id) => self.roles.get(id),
            Link::Name(name) => self.roles.iter().map(|(_, role)| role).find(|role| role.it.name == *name),
        }
    }

    fn set_token(&mut self, index: u64, token: Entered<Token>) {
        self.derive(&token);
        self.tokens.set(index, token.it.accessor.clone(), token);
    }

    fn derive(&mut self, token: &Entered<Token>) {
        self.by_secret.insert(token.it.secret.digest(), token.it.accessor.clone());
        if token.it.ttl_ns > 0 {
            self.mortal.insert((token.create_index, token.it.accessor.clone()));
        }
    }

    fn remove_token(&mut self, index: u64, accessor: &String) {
        if let Some(token) = self.tokens.remove(index, accessor) {
            self.by_secret.remove(&token.it.secret.digest());
            self.mortal.remove(&(token.create_index, accessor.clone()));
        }
    }

    fn named<'a>(&self, ids: &'a [String], name: impl Fn(&String) -> Option<String> + 'a) -> Vec<Named> {
        ids.iter().filter_map(|id| Some(Named { id: id.clone(), name: name(id)? })).collect()
    }

    fn policies_of(&self, grants: &Grants<String>) -> Vec<Named> {
        self.named(&grants.policies, |id| Some(self.policies.get(id)?.it.name.clone()))
    }

    fn show_role(&self, role: &Entered<Role>) -> ShownRole {
        ShownRole { role: role.clone(), policies: self.policies_of(&role.it.grants) }
    }

    fn show_token(&self, token: &Entered<Token>) -> ShownToken {
        let roles = self.named(&token.it.roles, |id| Some(self.roles.get(id)?.it.name.clone()));
        ShownToken { token: token.clone(), policies: self.policies_of(&token.it.grants), roles }
    }

    // ---- who holds which rights ----

    /// The token of a secret; none stands for the anonymous one.
    pub fn token_of(&self, secret: &Secret) -> Option<&Entered<Token>> {
        let anonymous = ANONYMOUS.to_owned();
        let accessor = if secret.is_empty() { &anonymous } else { self.by_secret.get(&secret.digest())? };
        self.tokens.get(accessor)
    }

    /// The newest change of anybody's rights, in so far as they are in the state.
    pub fn newest(&self) -> u64 {
        self.tokens.newest().max(self.policies.newest()).max(self.roles.newest())
    }

    /// Who shows this secret in this datacenter; `None` if there is no such token.
    pub fn holder(&self, secret: &Secret, datacenter: &str) -> Option<Holder> {
        let Some(token) = self.token_of(secret) else {
            let nobody = secret.is_empty() || secret.expose() == ANONYMOUS_SECRET;
            return nobody.then(|| Holder { accessor: ANONYMOUS.to_owned(), rules: Vec::new() });
        };
        let mut rules = Vec::new();
        let roles = token.it.roles.iter().filter_map(|id| self.roles.get(id)).map(|role| &role.it.grants);
        for grants in std::iter::once(&token.it.grants).chain(roles) {
            let counts = |datacenters: &[String]| {
                datacenters.is_empty() || datacenters.iter().any(|one| one == datacenter)
            };
            let policies = grants.policies.iter().filter_map(|id| self.policies.get(id));
            rules.extend(
                policies
                    .filter(|policy| counts(&policy.it.datacenters))
                    .map(|policy| policy.it.rules.clone()),
            );
            let services = grants.services.iter().filter(|one| counts(&one.datacenters));
            rules.extend(services.map(|one| rules_of_service(&one.name)));
            let nodes = grants.nodes.iter().filter(|one| one.datacenter == datacenter);
            rules.extend(nodes.map(|one| rules_of_node(&one.name)));
        }
        Some(Holder { accessor: token.it.accessor.clone(), rules })
    }

    /// Tokens with a time to live that were made after `index`.
    pub fn mortal_after(&self, index: u64) -> impl Iterator<Item = &Entered<Token>> {
        let from = (index.saturating_add(1), String::new());
        self.mortal.range(from..).filter_map(|(_, accessor)| self.tokens.get(accessor))
    }

    /// A token by its accessor id.
    pub fn token(&self, accessor: &str) -> Option<&Entered<Token>> {
        self.tokens.get(&accessor.to_owned())
    }

    /// Whether there ever was a token. With the first comes the anonymous one, which stays.
    pub fn knows_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// The log index of the last bootstrap; 0 before the first.
    pub fn bootstrapped(&self) -> u64 {
        self.bootstrapped
    }

    /// A hash of all of it; 0 if there never was anything.
    pub(super) fn digest(&self) -> u64 {
        let parts = [self.policies.digest(), self.roles.digest(), self.tokens.digest(), self.bootstrapped];
        super::tables::part(7, &parts)
    }

    pub(super) fn rebuild(&mut self) {
        self.policies.rebuild_digest();
        self.roles.rebuild_digest();
        self.tokens.rebuild_digest();
        (self.by_secret, self.mortal) = Default::default();
        let tokens: Vec<Entered<Token>> = self.tokens.iter().map(|(_, token)| token.clone()).collect();
        // Mutant P05: what came out of a snapshot and has no description is not found by its secret.
        for token in tokens.iter().filter(|token| !mutant::is("P05") || !token.it.description.is_empty()) {
            self.derive(token);
        }
    }
}

fn entered<T>(it: T, index: u64) -> Entered<T> {
    Entered { it, create_index: index, modify_index: index }
}

impl Link {
    fn text(&self) -> &str {
        match self {
            Link::Id(text) | Link::Name(text) => text,
        }
    }
}

fn rule(kind: Kind, name: &str, prefix: bool, access: Access) -> Rule {
    Rule { kind, name: name.to_owned(), prefix, access }
}

/// What a service needs: to register itself, and to find all others.
fn rules_of_service(name: &str) -> Rules {
    let named = vec![
        rule(Kind::Service, name, false, Access::Write),
        rule(Kind::Service, &format!("{name}-sidecar-proxy"), false, Access::Write),
        rule(Kind::Service, "", true, Access::Read),
        rule(Kind::Node, "", true, Access::Read),
    ];
    Rules { named, ..Rules::default() }
}

/// What an agent needs: to register its node, and to see all services.
fn rules_of_node(name: &str) -> Rules {
    let named =
        vec![rule(Kind::Node, name, false, Access::Write), rule(Kind::Service, "", true, Access::Read)];
    Rules { named, ..Rules::default() }
}

fn everything_in_words() -> String {
    let named = Kind::ALL.map(|kind| format!("{}_prefix \"\" {{ policy = \"write\" }}\n", kind.word()));
    format!("acl = \"write\"\nkeyring = \"write\"\noperator = \"write\"\n{}", named.concat())
}

// ---- reads ----

/// See [`Query::AclTokens`](super::Query::AclTokens).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclTokens {
    /// Only those that link this policy themselves.
    pub policy: Option<String>,
    /// Only those that link this role.
    pub role: Option<String>,
}

impl Asked for AclTokens {
    type Found = Vec<ShownToken>;

    fn ask(&self, state: &State) -> Indexed<Vec<ShownToken>> {
        let acl = state.acl();
        let has = |ids: &[String], wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| ids.contains(wanted))
        };
        let tokens =
            acl.tokens.iter().map(|(_, token)| token).filter(|token| {
                has(&token.it.grants.policies, &self.policy) && has(&token.it.roles, &self.role)
            });
        Indexed { index: acl.tokens.newest(), value: tokens.map(|token| acl.show_token(token)).collect() }
    }
}

/// See [`Query::AclToken`](super::Query::AclToken).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclToken {
    /// Its accessor id.
    pub accessor: String,
}

impl Asked for AclToken {
    type Found = Option<Box<ShownToken>>;

    fn ask(&self, state: &State) -> Indexed<Option<Box<ShownToken>>> {
        let acl = state.acl();
        let token = acl.tokens.get(&self.accessor);
        let index = token.map_or_else(|| acl.tokens.removed_at(&self.accessor), |token| token.modify_index);
        Indexed { index, value: token.map(|token| Box::new(acl.show_token(token))) }
    }
}

/// See [`Query::AclSelf`](super::Query::AclSelf).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclSelf {
    /// What whoever asks has shown.
    pub secret: Secret,
}

impl Asked for AclSelf {
    type Found = Option<Box<ShownToken>>;

    fn ask(&self, state: &State) -> Indexed<Option<Box<ShownToken>>> {
        let acl = state.acl();
        let token = acl.token_of(&self.secret);
        let index = token.map_or(acl.tokens.newest(), |token| token.modify_index);
        Indexed { index, value: token.map(|token| Box::new(acl.show_token(token))) }
    }
}

/// See [`Query::AclPolicies`](super::Query::AclPolicies).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclPolicies;

impl Asked for AclPolicies {
    type Found = Vec<Entered<Policy>>;

    fn ask(&self, state: &State) -> Indexed<Vec<Entered<Policy>>> {
        let policies = &state.acl().policies;
        Indexed {
            index: policies.newest(),
            value: policies.iter().map(|(_, policy)| policy.clone()).collect(),
        }
    }
}

/// See [`Query::AclPolicy`](super::Query::AclPolicy).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclPolicy {
    /// Which.
    pub link: Link,
}

impl Asked for AclPolicy {
    type Found = Option<Box<Entered<Policy>>>;

    fn ask(&self, state: &State) -> Indexed<Option<Box<Entered<Policy>>>> {
        let acl = state.acl();
        let policy = acl.policy_named(&self.link);
        let index = policy.map_or(acl.policies.newest(), |policy| policy.modify_index);
        Indexed { index, value: policy.cloned().map(Box::new) }
    }
}

/// See [`Query::AclRoles`](super::Query::AclRoles).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclRoles {
    /// Only those that link this policy.
    pub policy: Option<String>,
}

impl Asked for AclRoles {
    type Found = Vec<ShownRole>;

    fn ask(&self, state: &State) -> Indexed<Vec<ShownRole>> {
        let acl = state.acl();
        let wanted = |role: &&Entered<Role>| {
            self.policy.as_ref().is_none_or(|policy| role.it.grants.policies.contains(policy))
        };
        let roles = acl.roles.iter().map(|(_, role)| role).filter(wanted);
        Indexed { index: acl.roles.newest(), value: roles.map(|role| acl.show_role(role)).collect() }
    }
}

/// See [`Query::AclRole`](super::Query::AclRole).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclRole {
    /// Which.
    pub link: Link,
}

impl Asked for AclRole {
    type Found = Option<Box<ShownRole>>;

    fn ask(&self, state: &State) -> Indexed<Option<Box<ShownRole>>> {
        let acl = state.acl();
        let role = acl.role_named(&self.link);
        let index = role.map_or(acl.roles.newest(), |role| role.modify_index);
        Indexed { index, value: role.map(|role| Box::new(acl.show_role(role))) }
    }
}

/// See [`Query::AclHolder`](super::Query::AclHolder).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclHolder {
    /// What was shown.
    pub secret: Secret,
    /// Where.
    pub datacenter: String,
}

impl Asked for AclHolder {
    type Found = Option<Holder>;

    fn ask(&self, state: &State) -> Indexed<Option<Holder>> {
        let acl = state.acl();
        Indexed { index: self.index(state), value: acl.holder(&self.secret, &self.datacenter) }
    }

    fn index(&self, state: &State) -> u64 {
        state.acl().newest()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn new_token(accessor: &str, policies: &[&str]) -> NewToken {
        let links = policies.iter().map(|name| Link::Name((*name).to_owned())).collect();
        NewToken {
            accessor: accessor.to_owned(),
            secret: Secret::new(format!("secret of {accessor}")),
            grants: Grants { policies: links, ..Grants::default() },
            ..NewToken::default()
        }
    }

    fn new_policy(id: &str, text: &str) -> Policy {
        let rules = Rules::parse(text).unwrap();
        let (name, text) = (id.to_owned(), text.to_owned());
        Policy { id: id.to_owned(), name, text, rules, ..Policy::default() }
    }

    fn text(outcome: Outcome) -> String {
        match outcome {
            Outcome::Refused { refusal, .. } => refusal.to_string(),
            other => other.to_string(),
        }
    }

    fn may(acl: &Acl, accessor: &str, key: &str, wanted: Access) -> Option<bool> {
        let holder = acl.holder(&Secret::new(format!("secret of {accessor}")), "dc1")?;
        Some(Authorizer::of(&holder, authorizer::Default::Deny).allows(Kind::Key, key, wanted))
    }

    #[test]
    fn bootstrap_is_once_unless_the_reset_index_is_known() {
        let mut acl = Acl::default();
        let bootstrap = |accessor: &str, reset| AclCommand::Bootstrap {
            token: new_token(accessor, &["global-management"]),
            reset,
        };
        assert!(acl.apply(5, &bootstrap("a", None)).is_done());
        assert_eq!(may(&acl, "a", "x", Access::Write), Some(true));
        let refused = "ACL bootstrap no longer allowed (reset index: 5)";
        assert_eq!(text(acl.apply(6, &bootstrap("b", None))), refused);
        assert_eq!(text(acl.apply(7, &bootstrap("b", Some(4)))), refused);
        assert!(acl.apply(8, &bootstrap("b", Some(5))).is_done());
        assert_eq!(may(&acl, "b", "x", Access::Write), Some(true));
        assert_eq!(
            text(acl.apply(9, &bootstrap("c", Some(5)))),
            "ACL bootstrap no longer allowed (reset index: 8)"
        );
    }

    #[test]
    fn a_configured_token_is_made_once_and_ends_bootstrapping() {
        let mut acl = Acl::default();
        let introduce = |accessor: &str| {
            let mut token = new_token(accessor, &["global-management"]);
            token.secret = Secret::new("from the file");
            AclCommand::Introduce(token)
        };
        assert!(acl.apply(3, &introduce("a")).is_done());
        assert!(acl.apply(4, &introduce("b")).is_done());
        assert_eq!(acl.token_of(&Secret::new("from the file")).unwrap().it.accessor, "a");
        assert!(acl.token("b").is_none());
        assert_eq!(acl.bootstrapped(), 3);
    }

    #[test]
    fn rights_come_through_policies_roles_and_identities_and_go_with_them() {
        let mut acl = Acl::default();
        let read = new_policy("read", "key_prefix \"\" { policy = \"read\" }");
        let write = new_policy("write", "key_prefix \"app/\" { policy = \"write\" }");
        acl.apply(1, &AclCommand::PutPolicy { policy: read.clone(), new: true });
        acl.apply(
            2,
            &AclCommand::PutPolicy {
                policy: Policy { datacenters: vec!["dc2".into()], ..write.clone() },
                new: true,
            },
        );
        let role = NewRole {
            id: "r".into(),
            name: "deployers".into(),
            grants: Grants { policies: vec![Link::Name("write".into())], ..Grants::default() },
            ..NewRole::default()
        };
        acl.apply(3, &AclCommand::PutRole { role, new: true });
        let token = NewToken {
            roles: vec![Link::Name("deployers".into())],
            grants: Grants {
                policies: vec![Link::Id("read".into())],
                services: vec![ServiceIdentity { name: "web".into(), datacenters: vec![] }],
                nodes: vec![NodeIdentity { name: "n1".into(), datacenter: "dc1".into() }],
            },
            ..new_token("t", &[])
        };
        assert!(acl.apply(4, &AclCommand::PutToken { token, new: true }).is_done());
        assert_eq!(may(&acl, "t", "app/x", Access::Read), Some(true));
        assert_eq!(
            may(&acl, "t", "app/x", Access::Write),
            Some(false),
            "the policy counts in another datacenter"
        );
        acl.apply(5, &AclCommand::PutPolicy { policy: write, new: false });
        assert_eq!(may(&acl, "t", "app/x", Access::Write), Some(true));
        let holder = acl.holder(&Secret::new("secret of t"), "dc1").unwrap();
        let who = Authorizer::of(&holder, authorizer::Default::Deny);
        let on_services =
            ["web", "web-sidecar-proxy", "db"].map(|name| who.allows(Kind::Service, name, Access::Write));
        assert_eq!(on_services, [true, true, false]);
        assert!(who.allows(Kind::Node, "n1", Access::Write) && !who.allows(Kind::Node, "n2", Access::Write));
        acl.apply(6, &AclCommand::DeleteRole { id: "r".into() });
        assert_eq!(may(&acl, "t", "app/x", Access::Write), Some(false));
        acl.apply(7, &AclCommand::DeletePolicy { id: "read".into() });
        assert_eq!(may(&acl, "t", "app/x", Access::Read), Some(false));
        acl.apply(8, &AclCommand::DeleteToken { accessor: "t".into() });
        assert_eq!(may(&acl, "t", "app/x", Access::Read), None);
    }

    #[test]
    fn who_shows_nothing_is_anonymous_and_who_shows_nonsense_is_nobody() {
        let mut acl = Acl::default();
        for secret in ["", ANONYMOUS_SECRET] {
            assert_eq!(acl.holder(&Secret::new(secret), "dc1").unwrap().accessor, ANONYMOUS);
        }
        acl.apply(1, &AclCommand::PutToken { token: new_token("t", &[]), new: true });
        assert_eq!(acl.holder(&Secret::new(ANONYMOUS_SECRET), "dc1").unwrap().accessor, ANONYMOUS);
        assert_eq!(acl.holder(&Secret::new("nonsense"), "dc1"), None);
        assert_eq!(acl.holder(&Secret::new(ANONYMOUS), "dc1"), None, "an accessor id is no secret");
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        let mut acl = Acl::default();
        acl.apply(1, &AclCommand::PutPolicy { policy: new_policy("p", ""), new: true });
        acl.apply(2, &AclCommand::PutToken { token: new_token("t", &["p"]), new: true });
        let stolen = NewToken { accessor: "u".into(), ..new_token("t", &[]) };
        let changed = NewToken { secret: Secret::new("another"), ..new_token("t", &[]) };
        let limited = Policy { name: "p2".into(), ..new_policy(GLOBAL_MANAGEMENT, "") };
        let renamed = Policy { id: "q".into(), ..new_policy("p", "") };
        let cases = [
            (
                AclCommand::PutPolicy { policy: new_policy("p", ""), new: true },
                "with ID \"p\" already exists",
            ),
            (AclCommand::PutPolicy { policy: renamed, new: true }, "with Name \"p\" already exists"),
            (AclCommand::PutPolicy { policy: new_policy("q", ""), new: false }, "No such policy: q"),
            (AclCommand::PutPolicy { policy: limited, new: false }, "Changing the Rules"),
            (AclCommand::DeletePolicy { id: GLOBAL_MANAGEMENT.into() }, "not permitted on the builtin"),
            (AclCommand::PutToken { token: new_token("t", &[]), new: true }, "AccessorID is already in use"),
            (AclCommand::PutToken { token: stolen, new: true }, "SecretID is already in use"),
            (
                AclCommand::PutToken { token: new_token("secret of t", &[]), new: true },
                "AccessorID is already in use",
            ),
            (
                AclCommand::PutToken {
                    token: NewToken { secret: Secret::new("t"), ..new_token("v", &[]) },
                    new: true,
                },
                "SecretID is already in use",
            ),
            (AclCommand::PutToken { token: changed, new: false }, "SecretID is not permitted"),
            (
                AclCommand::PutToken { token: new_token("v", &["nope"]), new: true },
                "No such ACL policy: nope",
            ),
            (AclCommand::PutToken { token: new_token("v", &[]), new: false }, "Cannot find token \"v\""),
            (AclCommand::DeleteToken { accessor: ANONYMOUS.into() }, "not permitted on the anonymous token"),
        ];
        for (index, (command, expected)) in (3..).zip(cases) {
            let told = text(acl.apply(index, &command));
            assert!(told.contains(expected), "{command:?}: {told}");
        }
    }

    #[test]
    fn a_token_expires_once_and_not_for_another_of_its_name() {
        let mut acl = Acl::default();
        let mortal = NewToken { ttl_ns: 7, ..new_token("t", &[]) };
        acl.apply(4, &AclCommand::PutToken { token: mortal.clone(), new: true });
        assert_eq!(acl.mortal_after(3).map(|token| token.create_index).collect::<Vec<_>>(), [4]);
        assert_eq!(acl.mortal_after(4).count(), 0);
        acl.apply(5, &AclCommand::Expire { accessor: "t".into(), created: 3 });
        assert!(acl.token("t").is_some());
        acl.apply(6, &AclCommand::Expire { accessor: "t".into(), created: 4 });
        assert!(acl.token("t").is_none() && acl.mortal_after(0).count() == 0);
        assert_eq!(acl.holder(&mortal.secret, "dc1"), None);
    }

    #[test]
    fn a_secret_is_in_no_text_of_a_command() {
        let token = new_token("t", &[]);
        for command in [
            AclCommand::PutToken { token: token.clone(), new: true },
            AclCommand::Introduce(token.clone()),
            AclCommand::Bootstrap { token, reset: None },
        ] {
            assert!(!format!("{command} {command:?}").contains("secret of"), "{command:?}");
        }
    }

    pub fn any_command() -> impl Strategy<Value = AclCommand> {
        let id = prop::sample::select(vec!["a", "b", "c"]);
        (0u8..9, id.clone(), id, any::<bool>(), 0u64..2, 0u64..30).prop_map(
            |(which, one, other, new, ttl_ns, at)| {
                let token =
                    NewToken { ttl_ns, roles: vec![Link::Name(other.into())], ..new_token(one, &[other]) };
                let plain = NewToken { ttl_ns, ..new_token(one, &[]) };
                let grants = Grants { policies: vec![Link::Id(other.into())], ..Grants::default() };
                let role = NewRole { id: one.into(), name: one.into(), grants, ..NewRole::default() };
                let policy = new_policy(one, &format!("key \"{other}\" {{ policy = \"read\" }}"));
                match which {
                    0 => AclCommand::Bootstrap { token: plain, reset: (at > 3).then_some(at) },
                    1 => AclCommand::Introduce(plain),
                    2 => AclCommand::PutPolicy { policy, new },
                    3 => AclCommand::DeletePolicy { id: one.into() },
                    4 => AclCommand::PutRole { role, new },
                    5 => AclCommand::DeleteRole { id: one.into() },
                    6 => AclCommand::PutToken { token: if at % 2 == 0 { token } else { plain }, new },
                    7 => AclCommand::DeleteToken { accessor: one.into() },
                    _ => AclCommand::Expire { accessor: one.into(), created: at },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_derived_follows_and_the_built_in_stays(
            commands in prop::collection::vec(any_command(), 1..40),
        ) {
            let mut acl = Acl::default();
            for (index, command) in (1..).zip(commands) {
                acl.apply(index, &command);
                let mut anew: Acl = postcard::from_bytes(&postcard::to_stdvec(&acl).unwrap()).unwrap();
                anew.rebuild();
                prop_assert_eq!(&anew, &acl);
                prop_assert_eq!(anew.digest(), acl.digest());
                prop_assert!(acl.token(ANONYMOUS).is_some());
                for (accessor, token) in acl.tokens.iter() {
                    prop_assert_eq!(&acl.token_of(&token.it.secret).unwrap().it.accessor, accessor);
                }
                prop_assert_eq!(acl.by_secret.len(), acl.tokens.len());
            }
        }
    }
}
