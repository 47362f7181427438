//! Reads the users file: roles, users and the hashes of their secrets.

use std::{collections::HashMap, path::Path, sync::Arc};

use serde::Deserialize;
use toml::Spanned;

use super::{Principal, SecretHash, Verbs};
use crate::{files::read_regular, model::RESERVED_PREFIX};

/// Maximum size of the users file.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// Maximum number of secrets of a user: the current ones and their successors during a rotation.
const SECRETS_MAX: usize = 4;
/// Maximum number of users.
const USERS_MAX: usize = 10_000;
/// Maximum length of the name of a role or user in bytes.
const NAME_MAX_BYTES: usize = 128;

/// Names and permissions of the roles that always exist.
pub const BUILT_IN_ROLES: [&str; 4] = ["admin", "operator", "reader", "scraper"];

/// The contents of a users file.
#[derive(Debug, Default)]
pub struct Users {
    pub(super) by_name: HashMap<Arc<str>, Arc<User>>,
    pub(super) by_secret: HashMap<SecretHash, Arc<User>>,
    pub(super) by_certificate: HashMap<String, Arc<User>>,
    roles: HashMap<String, Principal>,
}

/// A user.
#[derive(Debug)]
pub struct User {
    pub(super) principal: Arc<Principal>,
    pub(super) secrets: Vec<SecretHash>,
    pub(super) certificates: Vec<String>,
    /// Unix time in milliseconds from which the user is refused.
    pub(super) expires_at_ms: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FileTable {
    #[serde(default)]
    role: Vec<RoleTable>,
    #[serde(default)]
    user: Vec<UserTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleTable {
    name: Spanned<String>,
    #[serde(default)]
    keys: Vec<KeyTable>,
    #[serde(default)]
    allow: Vec<Spanned<String>>,
    #[serde(default)]
    channels: Vec<Spanned<String>>,
    #[serde(default)]
    tags: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyTable {
    prefix: Spanned<String>,
    allow: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserTable {
    name: Spanned<String>,
    roles: Vec<Spanned<String>>,
    #[serde(default)]
    secrets: Vec<Spanned<String>>,
    #[serde(default)]
    certs: Vec<Spanned<String>>,
    expires: Option<Spanned<String>>,
}

impl Users {
    /// Reads a users file. `share` completes the permissions of each user.
    ///
    /// # Errors
    /// The faults, each with file and line; never a secret.
    pub(super) fn read(path: &Path, share: impl Fn(Principal) -> Arc<Principal>) -> Result<Self, Vec<String>> {
        let at = |reason: String| vec![format!("{}: {reason}", path.display())];
        let bytes = read_regular(path, FILE_MAX_BYTES).map_err(|why| at(format!("cannot read the file: {why}")))?;
        let text = String::from_utf8(bytes).map_err(|_| at("the file is not UTF-8".to_owned()))?;
        Self::parse(&text, &share).map_err(|mut faults| {
            faults.sort();
            faults.iter().map(|(line, fault)| format!("{}:{line}: {fault}", path.display())).collect()
        })
    }

    /// Parses a users file. The faults have line numbers.
    fn parse(text: &str, share: &dyn Fn(Principal) -> Arc<Principal>) -> Result<Self, Vec<(usize, String)>> {
        let tables: FileTable = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            vec![(line_of(text, start), error.message().replace('\n', ", "))]
        })?;
        let mut reader = Reader { text, share, faults: Vec::new(), users: Self::default() };
        tables.role.iter().for_each(|role| reader.add_role(role));
        tables.user.iter().for_each(|user| reader.add_user(user));
        if tables.user.is_empty() {
            reader.faults.push((1, "the file defines no user; nobody could log in".to_owned()));
        }
        if reader.users.by_name.len() > USERS_MAX {
            reader.faults.push((
                1,
                format!("the file has {} users; at most {USERS_MAX} are accepted", reader.users.by_name.len()),
            ));
        }
        if reader.faults.is_empty() { Ok(reader.users) } else { Err(reader.faults) }
    }

    /// Returns the permissions of a role, under the name of its user. `None` for an unknown role.
    #[must_use]
    pub fn role(&self, role: &str, user: &str) -> Option<Principal> {
        let known = self.roles.get(role).cloned().or_else(|| built_in(role))?;
        Some(Principal { name: user.into(), ..known })
    }
}

/// Returns the permissions of a built-in role.
fn built_in(role: &str) -> Option<Principal> {
    let everywhere = match role {
        "admin" => return Some(Principal::admin(role)),
        "operator" => Verbs::INSPECT.with(Verbs::METRICS),
        "reader" => Verbs::READ.with(Verbs::WATCH),
        "scraper" => Verbs::METRICS,
        _ => return None,
    };
    Some(Principal { everywhere, ..Principal::nobody(role) })
}

struct Reader<'t> {
    text: &'t str,
    share: &'t dyn Fn(Principal) -> Arc<Principal>,
    faults: Vec<(usize, String)>,
    users: Users,
}

impl Reader<'_> {
    fn fault(&mut self, at: &Spanned<String>, fault: impl Into<String>) {
        self.faults.push((line_of(self.text, at.span().start), fault.into()));
    }

    fn add_role(&mut self, table: &RoleTable) {
        let name = table.name.get_ref();
        self.check_name(&table.name, "role");
        if BUILT_IN_ROLES.contains(&name.as_str()) {
            self.fault(&table.name, format!("role {name:?} is built in; choose another name"));
        }
        let mut role = Principal::nobody(name);
        let mut own = Verbs::NONE;
        for verb in &table.allow {
            let parsed = self.verb(verb, Verbs::ALL);
            if Verbs::OF_KEYS.contains(parsed) && !parsed.is_empty() && table.keys.is_empty() {
                self.fault(
                    verb,
                    format!("{:?} applies to the prefixes in keys, and the role has none", verb.get_ref()),
                );
            }
            own = own.with(parsed);
        }
        role.everywhere = own.without(Verbs::OF_KEYS);
        for KeyTable { prefix, allow } in &table.keys {
            self.check_prefix(prefix);
            let verbs = allow
                .iter()
                .fold(own.within(Verbs::OF_KEYS), |verbs, verb| verbs.with(self.verb(verb, Verbs::OF_KEYS)));
            role.add_rule(prefix.get_ref().as_bytes(), verbs);
        }
        for channel in &table.channels {
            self.check_prefix(channel);
            role.channels.add(channel.get_ref().as_bytes());
        }
        for tag in &table.tags {
            self.check_prefix(tag);
            role.tags.add(tag.get_ref().as_bytes());
        }
        if self.users.roles.insert(name.clone(), role).is_some() {
            self.fault(&table.name, format!("role {name:?} is defined twice"));
        }
    }

    fn add_user(&mut self, table: &UserTable) {
        let name: Arc<str> = table.name.get_ref().as_str().into();
        self.check_name(&table.name, "user");
        let mut principal = Principal::nobody(&name);
        for role in &table.roles {
            match self.users.role(role.get_ref(), &name) {
                Some(role) => principal.add(&role),
                None => self.fault(role, format!("unknown role {:?}", role.get_ref())),
            }
        }
        let secrets = self.secrets(table);
        let certificates = self.certificates(&table.certs);
        let expires_at_ms = table.expires.as_ref().and_then(|expires| self.expiry(expires));
        let user = Arc::new(User { principal: (self.share)(principal), secrets, certificates, expires_at_ms });
        for secret in &user.secrets {
            if self.users.by_secret.insert(*secret, Arc::clone(&user)).is_some() {
                self.fault(
                    &table.name,
                    format!("a secret of user {name:?} is also the secret of another user, or listed twice"),
                );
            }
        }
        for certificate in &user.certificates {
            if self.users.by_certificate.insert(certificate.clone(), Arc::clone(&user)).is_some() {
                self.fault(&table.name, format!("{certificate:?} is the certificate of two users"));
            }
        }
        if self.users.by_name.insert(name, user).is_some() {
            self.fault(&table.name, format!("user {:?} is defined twice", table.name.get_ref()));
        }
    }

    fn secrets(&mut self, table: &UserTable) -> Vec<SecretHash> {
        if table.secrets.len() > SECRETS_MAX {
            self.fault(
                &table.name,
                format!("a user has {} secrets; at most {SECRETS_MAX} are accepted", table.secrets.len()),
            );
        }
        let mut secrets = Vec::new();
        for secret in &table.secrets {
            match SecretHash::parse(secret.get_ref()) {
                Ok(hash) => secrets.push(hash),
                Err(fault) => self.fault(secret, fault),
            }
        }
        secrets
    }

    fn certificates(&mut self, certs: &[Spanned<String>]) -> Vec<String> {
        for cert in certs {
            let name = cert.get_ref();
            if !["uri:", "dns:"].iter().any(|kind| name.strip_prefix(kind).is_some_and(|name| !name.is_empty())) {
                self.fault(cert, format!("{name:?} is not uri:... or dns:..., a name in a client certificate"));
            }
        }
        certs.iter().map(|cert| cert.get_ref().clone()).collect()
    }

    fn expiry(&mut self, expires: &Spanned<String>) -> Option<u64> {
        let parsed = humantime::parse_rfc3339(expires.get_ref()).ok();
        let since_epoch = parsed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        if since_epoch.is_none() {
            self.fault(expires, format!("{:?} is not a time such as 2027-01-01T00:00:00Z", expires.get_ref()));
        }
        since_epoch.and_then(|time| u64::try_from(time.as_millis()).ok())
    }

    fn verb(&mut self, name: &Spanned<String>, accepted: Verbs) -> Verbs {
        let verb = Verbs::named(name.get_ref()).filter(|verb| accepted.contains(*verb));
        if verb.is_none() {
            self.fault(name, format!("unknown verb {:?}; expected {accepted}", name.get_ref()));
        }
        verb.unwrap_or_default()
    }

    fn check_name(&mut self, name: &Spanned<String>, what: &str) {
        let text = name.get_ref();
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@/".contains(&byte);
        if text.is_empty() || text.len() > NAME_MAX_BYTES || !text.bytes().all(is_letter) {
            let expected = format!("expected 1 to {NAME_MAX_BYTES} letters, digits and the characters - _ . @ /");
            self.fault(name, format!("{text:?} is no name of a {what}; {expected}"));
        }
        if what == "user" && RESERVED_NAMES.contains(&text.as_str()) {
            self.fault(
                name,
                format!("{text:?} is a name that Terrace uses for clients without credentials; choose another name"),
            );
        }
    }

    fn check_prefix(&mut self, prefix: &Spanned<String>) {
        let text = prefix.get_ref();
        if let Some(special) = text.chars().find(|letter| "*?[]\\".contains(*letter)) {
            self.fault(
                prefix,
                format!("prefix {text:?} contains {special:?}; prefixes are literal and end without a pattern"),
            );
        }
        if text.as_bytes().starts_with(RESERVED_PREFIX) {
            self.fault(prefix, format!("prefix {text:?} starts with __terrace:, which is reserved"));
        }
    }
}

/// Names of principals without a user.
const RESERVED_NAMES: [&str; 3] = ["local", "anonymous", "system"];

/// Returns the number of the line that contains the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_role_limits_its_verbs_to_its_prefixes() {
        let text = format!(
            "[[role]]\nname = \"orders\"\nkeys = [{{ prefix = \"orders:\", allow = [\"read\", \"write\"] }}, {{ prefix = \
             \"shared:\", allow = [\"read\"] }}]\nallow = [\"invalidate\", \"metrics\"]\nchannels = [\"orders:\"]\ntags = \
             [\"orders:\"]\n[[user]]\nname = \"o\"\nroles = [\"orders\", \"scraper\"]\nsecrets = [\"{HASH}\"]\ncerts = \
             [\"uri:spiffe://x\"]\nexpires = \"2027-01-01T00:00:00Z\"\n"
        );
        let users = Users::parse(&text, &Arc::new).unwrap();
        let user = &users.by_secret[&SecretHash::of(b"abc")];
        let principal = &user.principal;
        assert!(principal.may(Verbs::INVALIDATE.with(Verbs::WRITE), b"orders:1"));
        assert!(!principal.may(Verbs::WRITE, b"shared:1") && !principal.may(Verbs::INVALIDATE, b"x"));
        assert!(principal.may_everywhere(Verbs::METRICS) && !principal.may_everywhere(Verbs::READ));
        assert!(principal.may_use_channel(b"orders:x") && !principal.may_use_tag(b"x"));
        assert_eq!((user.expires_at_ms, users.by_certificate.len()), (Some(1_798_761_600_000), 1));
    }

    #[test]
    fn each_fault_names_its_line() {
        for (text, line, fault) in [
            ("[[role]]\nname = \"r\"\nallow = [\"reed\"]", 3, "unknown verb \"reed\"; expected read, write, delete"),
            ("[[role]]\nname = \"r\"\nallow = [\"scripts\"]", 3, "unknown verb \"scripts\""),
            ("[[role]]\nname = \"r\"\nkeys = [{ prefix = \"a\", allow = [\"script\"] }]", 3, "unknown verb \"script\""),
            ("[[role]]\nname = \"r\"\nallow = [\"read\"]", 3, "applies to the prefixes in keys"),
            ("[[role]]\nname = \"r\"\nlimits = {}", 3, "unknown field `limits`"),
            ("[[role]]\nname = \"r\"\nkeys = [{ prefix = \"a*\", allow = [\"read\"] }]", 3, "contains '*'"),
            ("[[role]]\nname = \"r\"\nkeys = [{ prefix = \"a\", allow = [\"admin\"] }]", 3, "unknown verb \"admin\""),
            ("[[role]]\nname = \"r\"\nkeys = [{ prefix = \"__terrace:\", allow = [] }]", 3, "reserved"),
            ("[[role]]\nname = \"admin\"", 2, "built in"),
            ("[[role]]\nname = \"r\"\n[[role]]\nname = \"r\"", 4, "defined twice"),
            ("[[user]]\nname = \"u\"\nroles = [\"nobody\"]", 3, "unknown role \"nobody\""),
            ("[[user]]\nname = \"u\"\nroles = []\n[[user]]\nname = \"u\"\nroles = []", 5, "defined twice"),
            ("[[user]]\nname = \"u\"\nroles = []\nsecrets = [\"hunter2\"]", 4, "is not sha256:"),
            ("[[user]]\nname = \"u\"\nroles = []\ncerts = [\"cn:x\"]", 4, "is not uri:"),
            ("[[user]]\nname = \"u\"\nroles = []\nexpires = \"tomorrow\"", 4, "is not a time"),
            ("[[user]]\nname = \"local\"\nroles = []", 2, "choose another name"),
            ("[[user]]\nname = \"a b\"\nroles = []", 2, "is no name of a user"),
            ("[[user]\nname", 1, ""),
            ("", 1, "defines no user"),
            ("[[users]]\nname = \"u\"", 1, "unknown field `users`"),
        ] {
            let faults = Users::parse(text, &Arc::new).unwrap_err();
            let found = faults.iter().any(|(at, message)| *at == line && message.contains(fault));
            assert!(found && !format!("{faults:?}").contains("hunter2"), "{text}: {faults:?}");
        }
    }
}
