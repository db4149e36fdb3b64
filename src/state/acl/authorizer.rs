//! What somebody may do, as a function of the rules they have.
//!
//! Of the rules about a thing's kind, one decides: the one with exactly its name, else the one with the longest prefix
//! of it. If several policies have that very rule, one that denies wins over one that allows, and one that allows
//! more over one that allows less. If no rule is about the thing, the default decides.
//!
//! The default never gives rights over tokens and policies, nor a snapshot (which holds them): who is allowed everything
//! by default would otherwise be allowed to take everybody else's rights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ANONYMOUS;
use super::rules::{Access, Kind, Rules};

/// A token's holder: who it is, and the rules of all its policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The token's accessor id, which is no secret.
    pub accessor: String,
    /// The rules of each policy.
    pub rules: Vec<Rules>,
}

/// What is allowed where no rule says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// Everything, but for tokens, policies and snapshots.
    Allow,
    /// Nothing.
    Deny,
}

/// May not. The text is for the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
pub struct Denied(pub String);

/// Rules of one kind, ready to be asked.
#[derive(Clone, Debug, std::default::Default, PartialEq, Eq)]
struct Named {
    exact: BTreeMap<String, Access>,
    prefixes: BTreeMap<String, Access>,
}

impl Named {
    /// The rule that decides about a name.
    fn about(&self, name: &str) -> Option<Access> {
        let longest = || {
            // In the order of their names, prefixes of one name come shortest first.
            let mut fitting =
                self.prefixes.iter().rev().filter(|(prefix, _)| name.starts_with(prefix.as_str()));
            fitting.next().map(|(_, access)| *access)
        };
        self.exact.get(name).copied().or_else(longest)
    }

    /// All rules about names that begin so.
    fn within<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = Access> + 'a {
        let rules = self.exact.iter().chain(&self.prefixes);
        rules.filter(move |(name, _)| name.starts_with(prefix)).map(|(_, access)| *access)
    }
}

/// What somebody may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorizer {
    /// `None`: whoever asks is above all rules.
    limits: Option<Limits>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Limits {
    accessor: String,
    default: Default,
    named: BTreeMap<Kind, Named>,
    operator: Option<Access>,
    keyring: Option<Access>,
    acl: Option<Access>,
}

impl Authorizer {
    /// May do everything: the node itself, or anybody where rights are not looked at.
    pub fn unlimited() -> Authorizer {
        Authorizer { limits: None }
    }

    /// May do what a token's rules say.
    pub fn of(holder: &Holder, default: Default) -> Authorizer {
        let mut limits = Limits {
            accessor: holder.accessor.clone(),
            default,
            named: BTreeMap::new(),
            operator: None,
            keyring: None,
            acl: None,
        };
        let add = |slot: &mut Option<Access>, more: Option<Access>| {
            *slot = match (*slot, more) {
                (Some(before), Some(more)) => Some(before.with(more)),
                (before, more) => before.or(more),
            };
        };
        for rules in &holder.rules {
            for rule in &rules.named {
                let named = limits.named.entry(rule.kind).or_default();
                let map = if rule.prefix { &mut named.prefixes } else { &mut named.exact };
                let slot = map.entry(rule.name.clone()).or_insert(rule.access);
                *slot = slot.with(rule.access);
            }
            add(&mut limits.operator, rules.operator);
            add(&mut limits.keyring, rules.keyring);
            add(&mut limits.acl, rules.acl);
        }
        Authorizer { limits: Some(limits) }
    }

    /// Whether a thing may be read or written.
    pub fn allows(&self, kind: Kind, name: &str, wanted: Access) -> bool {
        let Some(limits) = &self.limits else { return true };
        let rule = limits.named.get(&kind).and_then(|named| named.about(name));
        rule.map_or(limits.default == Default::Allow, |access| access.covers(wanted))
    }

    /// Whether all keys that begin so, those that are not there yet included, may be written: the prefix itself
    /// must be, and no rule within it may say otherwise.
    pub fn allows_tree(&self, prefix: &str) -> bool {
        let Some(limits) = &self.limits else { return true };
        let Some(named) = limits.named.get(&Kind::Key) else { return limits.default == Default::Allow };
        let mut fitting = named.prefixes.iter().rev().filter(|(known, _)| prefix.starts_with(known.as_str()));
        let above = fitting.next().map(|(_, access)| *access);
        above.map_or(limits.default == Default::Allow, |access| access == Access::Write)
            && named.within(prefix).all(|access| access == Access::Write)
    }

    fn plain(&self, rule: impl FnOnce(&Limits) -> (Option<Access>, bool), wanted: Access) -> bool {
        let Some(limits) = &self.limits else { return true };
        let (rule, default) = rule(limits);
        rule.map_or(default && limits.default == Default::Allow, |access| access.covers(wanted))
    }

    /// Whether the servers may be looked at or changed.
    pub fn operator(&self, wanted: Access) -> bool {
        self.plain(|limits| (limits.operator, true), wanted)
    }

    /// Whether gossip's keys may be looked at or changed.
    pub fn keyring(&self, wanted: Access) -> bool {
        self.plain(|limits| (limits.keyring, true), wanted)
    }

    /// Whether tokens, policies and roles may be looked at or changed. To write is to have every right there is.
    pub fn acl(&self, wanted: Access) -> bool {
        self.plain(|limits| (limits.acl, false), wanted)
    }

    /// The reason for a refusal.
    pub fn denied(&self, permission: &str, name: Option<&str>) -> Denied {
        let on = name.map(|name| format!(" on {name:?}")).unwrap_or_default();
        let accessor = self.limits.as_ref().map_or("", |limits| limits.accessor.as_str());
        Denied(if accessor == ANONYMOUS {
            format!(
                "Permission denied: anonymous token lacks permission '{permission}'{on}. The anonymous token is used \
                 implicitly when a request does not specify a token."
            )
        } else {
            format!(
                "Permission denied: token with AccessorID '{accessor}' lacks permission '{permission}'{on}"
            )
        })
    }

    /// [`Authorizer::allows`], or why not.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require(&self, kind: Kind, name: &str, wanted: Access) -> Result<(), Denied> {
        if self.allows(kind, name, wanted) {
            return Ok(());
        }
        Err(self.denied(&format!("{}:{}", kind.word(), wanted.word()), Some(name)))
    }

    /// [`Authorizer::allows_tree`], or why not.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require_tree(&self, prefix: &str) -> Result<(), Denied> {
        if self.allows_tree(prefix) { Ok(()) } else { Err(self.denied("key:write", Some(prefix))) }
    }

    /// [`Authorizer::operator`], or why not.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require_operator(&self, wanted: Access) -> Result<(), Denied> {
        self.require_plain(self.operator(wanted), "operator", wanted)
    }

    /// [`Authorizer::keyring`], or why not.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require_keyring(&self, wanted: Access) -> Result<(), Denied> {
        self.require_plain(self.keyring(wanted), "keyring", wanted)
    }

    /// [`Authorizer::acl`], or why not.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require_acl(&self, wanted: Access) -> Result<(), Denied> {
        self.require_plain(self.acl(wanted), "acl", wanted)
    }

    fn require_plain(&self, may: bool, what: &str, wanted: Access) -> Result<(), Denied> {
        if may { Ok(()) } else { Err(self.denied(&format!("{what}:{}", wanted.word()), None)) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::Rule;
    use super::*;
    use proptest::prelude::*;

    fn holder(policies: &[&str]) -> Holder {
        let rules = policies.iter().map(|text| Rules::parse(text).unwrap()).collect();
        Holder { accessor: "a1".to_owned(), rules }
    }

    fn with(policies: &[&str], default: Default) -> Authorizer {
        Authorizer::of(&holder(policies), default)
    }

    #[test]
    fn exact_beats_prefix_the_longest_prefix_wins_and_deny_beats_allow() {
        let policy = r#"
            key_prefix "" { policy = "read" }
            key_prefix "app/" { policy = "write" }
            key_prefix "app/secret/" { policy = "deny" }
            key "app/secret/mine" { policy = "write" }
            key "app/open" { policy = "read" }
        "#;
        let who = with(&[policy], Default::Deny);
        let may = |name: &str| {
            [Access::Read, Access::List, Access::Write].map(|one| who.allows(Kind::Key, name, one))
        };
        assert_eq!(may("other"), [true, false, false]);
        assert_eq!(may("app/x"), [true, true, true]);
        assert_eq!(may("app/secret/x"), [false, false, false]);
        assert_eq!(may("app/secret/mine"), [true, true, true]);
        assert_eq!(may("app/secret/mine/"), [false, false, false]);
        assert_eq!(may("app/open"), [true, false, false]);
        assert!(!who.allows(Kind::Node, "other", Access::Read));

        let two = with(
            &[policy, "key \"app/open\" { policy = \"write\" } key_prefix \"\" { policy = \"deny\" }"],
            Default::Allow,
        );
        assert!(
            two.allows(Kind::Key, "app/open", Access::Write),
            "the same rule twice: the one that allows more"
        );
        assert!(!two.allows(Kind::Key, "other", Access::Read), "the same rule twice: the one that denies");
        assert!(two.allows(Kind::Node, "other", Access::Write), "no rule: the default");
    }

    #[test]
    fn a_tree_may_be_deleted_if_nothing_in_it_is_protected() {
        let who = with(
            &[
                "key_prefix \"a/\" { policy = \"write\" } key \"a/b/c\" { policy = \"read\" } key_prefix \"z\" { policy = \"deny\" }",
            ],
            Default::Deny,
        );
        let may = ["a/", "a/x", "a/b/", "a/b/c", "", "a", "z"].map(|prefix| who.allows_tree(prefix));
        assert_eq!(may, [false, true, false, false, false, false, false]);
        let all = with(&["key_prefix \"z\" { policy = \"read\" }"], Default::Allow);
        assert_eq!(["", "y", "z", "zz"].map(|prefix| all.allows_tree(prefix)), [false, true, false, false]);
        assert!(with(&[], Default::Allow).allows_tree("") && !with(&[], Default::Deny).allows_tree(""));
    }

    #[test]
    fn the_default_gives_no_rights_over_rights() {
        let anybody = with(&[], Default::Allow);
        assert!(anybody.operator(Access::Write) && anybody.keyring(Access::Write));
        assert!(!anybody.acl(Access::Read));
        let operator = with(&["operator = \"write\" keyring = \"read\" acl = \"read\""], Default::Deny);
        assert!(operator.operator(Access::Write) && !operator.keyring(Access::Write));
        assert!(operator.acl(Access::Read) && !operator.acl(Access::Write));
        assert!(!with(&["operator = \"write\""], Default::Deny).keyring(Access::Read));
        let everything = Authorizer::of(
            &Holder { accessor: String::new(), rules: vec![Rules::everything()] },
            Default::Deny,
        );
        assert!(
            everything.acl(Access::Write) && everything.allows_tree("") && everything.operator(Access::Write)
        );
        assert!(Authorizer::unlimited().acl(Access::Write));
    }

    #[test]
    fn a_refusal_says_what_is_lacking() {
        let who = with(&[], Default::Deny);
        assert_eq!(
            who.require(Kind::Key, "a", Access::Write).unwrap_err().to_string(),
            "Permission denied: token with AccessorID 'a1' lacks permission 'key:write' on \"a\""
        );
        let nobody = Holder { accessor: ANONYMOUS.to_owned(), rules: Vec::new() };
        let nobody = Authorizer::of(&nobody, Default::Deny);
        assert_eq!(
            nobody.require_acl(Access::Read).unwrap_err().to_string(),
            "Permission denied: anonymous token lacks permission 'acl:read'. The anonymous token is used implicitly \
             when a request does not specify a token."
        );
    }

    fn any_rules() -> impl Strategy<Value = Vec<Vec<Rule>>> {
        let access = prop::sample::select(vec![Access::Deny, Access::Read, Access::List, Access::Write]);
        let rule = ("[ab/]{0,3}", any::<bool>(), access).prop_map(|(name, prefix, access)| Rule {
            kind: Kind::Key,
            name,
            prefix,
            access,
        });
        prop::collection::vec(prop::collection::vec(rule, 0..5), 0..4)
    }

    proptest! {
        /// Against the sentences at the top of this page, taken literally.
        #[test]
        fn it_decides_as_the_rules_are_worded(
            policies in any_rules(),
            name in "[ab/]{0,4}",
            wanted in prop::sample::select(vec![Access::Read, Access::List, Access::Write]),
            open in any::<bool>(),
        ) {
            let all: Vec<&Rule> = policies.iter().flatten().collect();
            let longest = (0..=name.len()).rev().map(|len| &name[..len]).find(|prefix| {
                all.iter().any(|rule| rule.prefix && rule.name == *prefix)
            });
            let exact = all.iter().any(|rule| !rule.prefix && rule.name == name);
            let decisive: Vec<Access> = all
                .iter()
                .filter(|rule| if exact {
                    !rule.prefix && rule.name == name
                } else {
                    rule.prefix && Some(rule.name.as_str()) == longest
                })
                .map(|rule| rule.access)
                .collect();
            let expected = if decisive.is_empty() {
                open
            } else {
                !decisive.contains(&Access::Deny) && decisive.iter().any(|access| *access >= wanted)
            };
            let default = if open { Default::Allow } else { Default::Deny };
            let rules = policies.iter().map(|named| Rules { named: named.clone(), ..Rules::default() }).collect();
            let who = Authorizer::of(&Holder { accessor: String::new(), rules }, default);
            prop_assert_eq!(who.allows(Kind::Key, &name, wanted), expected);
            // Who may write a tree may write every key in it.
            if who.allows_tree(&name) {
                for more in ["", "a", "/", "ab/", "b/a"] {
                    let key = format!("{}{}", name, more);
                    prop_assert!(who.allows(Kind::Key, &key, Access::Write));
                }
            }
        }
    }
}
