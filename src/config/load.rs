//! Merges defaults, file, environment and flags; reports all faults; records the source of each value.

use std::{collections::HashMap, fmt, path::PathBuf};

use super::{
    Config, ProtectedConfigs, Row, constraints,
    fault::{Fault, Faults, ValueSource, nearest},
    file,
    form::Raw,
    policy,
};
use crate::{access::Access, clock::Clock, l2::redis::url::RedisUrl, node::Setting};

/// A flag on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Key of the setting: `l1.size`.
    pub key: &'static str,
    /// Flag as written: `l1-size`.
    pub flag: String,
    /// Value as written.
    pub value: String,
}

/// Sources of settings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// The file to read if neither `--config` nor `TERRACE_CONFIG` names one.
    pub default_file: Option<PathBuf>,
    /// Names and values of the variables that start with `TERRACE_`.
    pub environment: Vec<(String, String)>,
    /// Flags.
    pub flags: Vec<Given>,
}

impl Sources {
    /// Returns the file to read: `--config`, else `TERRACE_CONFIG`, else the default.
    fn file(&self) -> Option<PathBuf> {
        let named = || self.environment.iter().find(|(name, _)| name == FILE_VARIABLE).map(|(_, path)| path.into());
        self.file.clone().or_else(named).or_else(|| self.default_file.clone())
    }
}

/// Names the file, the variables and the flags, without values: `file terrace.toml, env TERRACE_L2_URL, flags --l1-size`.
impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_setting = |name: &str| Row::all().iter().any(|row| row.variable() == name);
        let variables: Vec<&str> =
            self.environment.iter().map(|(name, _)| name.as_str()).filter(|name| is_setting(name)).collect();
        let flags: Vec<String> = self.flags.iter().map(|flag| format!("--{}", flag.flag)).collect();
        let mut parts = vec![self.file().map_or("defaults".to_owned(), |path| format!("file {}", path.display()))];
        if !variables.is_empty() {
            parts.push(format!("env {}", variables.join(" ")));
        }
        if !flags.is_empty() {
            parts.push(format!("flags {}", flags.join(" ")));
        }
        f.write_str(&parts.join(", "))
    }
}

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Printable settings: in the order of the table, then the policies.
    pub settings: Vec<Setting>,
    /// Warnings for the log.
    pub warnings: Vec<String>,
}

/// File that is read if no other is named and it exists. The container image has one.
const DEFAULT_FILE: &str = "/etc/terrace/terrace.toml";

/// Returns the default file of this machine, if it exists.
#[must_use]
pub fn default_file() -> Option<PathBuf> {
    let path = PathBuf::from(DEFAULT_FILE);
    path.exists().then_some(path)
}

/// Variable that names the file, used when `--config` is absent.
const FILE_VARIABLE: &str = "TERRACE_CONFIG";
/// Variable that names the token file of client commands.
const TOKEN_FILE_VARIABLE: &str = "TERRACE_TOKEN_FILE";
const VARIABLE_PREFIX: &str = "TERRACE_";

/// Returns the token file of client commands that the environment names.
#[must_use]
pub fn token_file() -> Option<PathBuf> {
    let found = environment().into_iter().find(|(name, _)| name == TOKEN_FILE_VARIABLE);
    found.map(|(_, path)| path.into())
}

/// Returns the variables of this process that start with `TERRACE_`.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
pub fn environment() -> Vec<(String, String)> {
    let ours = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        // A value that is not UTF-8 is never valid; as text, it is rejected when it is parsed.
        name.starts_with(VARIABLE_PREFIX).then(|| (name, value.to_string_lossy().into_owned()))
    });
    let mut ours: Vec<_> = ours.collect();
    ours.sort();
    ours
}

/// Loads the configuration from all sources and checks it.
///
/// # Errors
/// All faults of all sources.
pub fn load(sources: &Sources) -> Result<Loaded, Faults> {
    load_all(sources, Loading { reads_users: true, ..Loading::default() })
}

/// Loads the configuration for a reload, as [`load`] does. The running server reads the users file when it is completely
/// written.
///
/// # Errors
/// All faults of all sources.
pub fn load_again(sources: &Sources) -> Result<Loaded, Faults> {
    load_all(sources, Loading::default())
}

fn load_all(sources: &Sources, mut loading: Loading) -> Result<Loaded, Faults> {
    let policies = match sources.file() {
        Some(path) => loading.set_file(file::read(&path)),
        None => Vec::new(),
    };
    loading.set_variables(&sources.environment);
    for flag in &sources.flags {
        if flag.key == "l2.url" && RedisUrl::parse(&flag.value).is_ok_and(|url| url.has_password()) {
            let shown = "contains a password, which every user of this machine can read in the process list";
            let instead = "set l2.password_file or TERRACE_L2_URL, or l2.url in the configuration file";
            loading.warnings.push(format!("--{}: the URL {shown}; {instead}", flag.flag));
        }
        loading.set_by_key(flag.key, &Raw::Word(flag.value.clone()), ValueSource::Flag(flag.flag.clone()));
    }
    loading.finish(policies)
}

#[derive(Default)]
struct Loading {
    config: Config,
    sources: HashMap<&'static str, ValueSource>,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    /// The users file is checked as well.
    reads_users: bool,
}

impl Loading {
    /// Applies a file and returns the printable settings of its policies. Faults are sorted by line.
    fn set_file(&mut self, contents: file::Contents) -> Vec<Setting> {
        let mut faults = contents.faults;
        for table in contents.empty_tables {
            let sections = || Row::all().iter().filter_map(|row| row.key.split('.').next());
            if !sections().any(|section| section == table.key) {
                let hint = nearest(&table.key, sections().map(str::to_owned));
                faults.push(table.source.fault(format!("unknown table [{}]{hint}", table.key)));
            }
        }
        for entry in contents.entries {
            self.set_by_key(&entry.key, &entry.raw, entry.source);
        }
        let (policies, shown) = policy::read(&contents.policies, &mut faults, &mut self.warnings);
        self.config.policies = policies;
        self.faults.append(&mut faults);
        self.faults.sort_by_key(|fault| fault.line);
        shown
    }

    fn set_by_key(&mut self, key: &str, raw: &Raw, source: ValueSource) {
        match Row::find(key) {
            Some(row) => self.set(row, raw, source),
            None => {
                let hint = nearest(key, Row::all().iter().map(|row| row.key.to_owned()));
                self.faults.push(source.fault(format!("unknown key {key}{hint}")));
            }
        }
    }

    fn set(&mut self, row: &'static Row, raw: &Raw, source: ValueSource) {
        if let Err(reason) = (row.set)(&mut self.config, raw) {
            self.faults.push(source.fault(format!("{}: {reason}", row.key)));
        }
        self.sources.insert(row.key, source);
    }

    fn set_variables(&mut self, environment: &[(String, String)]) {
        let mut unknown = Vec::new();
        for (name, value) in environment {
            if let Some(row) = Row::all().iter().find(|row| row.variable() == *name) {
                self.set(row, &Raw::Word(value.clone()), ValueSource::Variable(name.clone()));
            } else if name != FILE_VARIABLE && name != TOKEN_FILE_VARIABLE {
                unknown.push(format!("{name}{}", nearest(name, Row::all().iter().map(Row::variable))));
            }
        }
        // Only a warning, because Kubernetes injects TERRACE_PORT and similar variables for a service named terrace.
        if !unknown.is_empty() {
            self.warnings.push(format!("ignoring unknown environment variables: {}", unknown.join(", ")));
        }
    }

    fn finish(mut self, policies: Vec<Setting>) -> Result<Loaded, Faults> {
        // Constraints between settings are checked only if every setting is valid. Otherwise they would report defaults
        // that replace invalid values.
        if self.faults.is_empty() {
            let sources = &self.sources;
            let fault = |key: &str, message| sources.get(key).unwrap_or(&ValueSource::Default).fault(message);
            self.faults = constraints::check(&self.config, fault);
        }
        if self.faults.is_empty() {
            self.try_secrets();
        }
        if !self.faults.is_empty() {
            return Err(Faults(self.faults));
        }
        self.warn_of_unused();
        let mut settings: Vec<_> = Row::all().iter().map(|row| self.shown(row)).collect();
        settings.extend(policies);
        Ok(Loaded { config: self.config, settings, warnings: self.warnings })
    }

    /// Warns of settings for a store that is not in use.
    fn warn_of_unused(&mut self) {
        self.warn_of_unused_login();
        if !self.config.is_embedded() {
            return;
        }
        for (unused, used) in [("l2.read_timeout", "data.read_timeout"), ("l2.write_timeout", "data.write_timeout")] {
            if let Some(source) = self.sources.get(unused) {
                self.warnings.push(format!(
                    "{unused} ({source}) applies to Redis and is ignored with the embedded store; set {used} instead"
                ));
            }
        }
    }

    /// Warns of logins for Redis or Sentinels that are not in use.
    fn warn_of_unused_login(&mut self) {
        let redis = self.config.l2.redis();
        let has_sentinels = redis.as_ref().is_some_and(RedisUrl::has_sentinels);
        for (unused, is_set, is_used, store) in [
            ("l2.user", self.config.l2.user.is_some(), redis.is_some(), "Redis"),
            ("l2.password_file", self.config.l2.password_file.is_some(), redis.is_some(), "Redis"),
            ("l2.sentinel_user", self.config.l2.sentinel_user.is_some(), has_sentinels, "Sentinel"),
            ("l2.sentinel_password_file", self.config.l2.sentinel_password_file.is_some(), has_sentinels, "Sentinel"),
        ] {
            if is_set && !is_used {
                let source = self.sources.get(unused).unwrap_or(&ValueSource::Default);
                self.warnings.push(format!("{unused} ({source}) applies to {store} and is ignored with this l2.url"));
            }
        }
    }

    /// Checks that the passwords and the users can be read, before any port is bound.
    fn try_secrets(&mut self) {
        if let Err(message) = self.config.resp.password() {
            let source = self.sources.get("resp.password_file").unwrap_or(&ValueSource::Default);
            self.faults.push(source.fault(message));
        }
        if let Some(url) = self.config.l2.redis()
            && let Err((key, why)) = self.config.l2.password_files().check(&url)
        {
            let source = self.sources.get(key).unwrap_or(&ValueSource::Default);
            self.faults.push(source.fault(format!("{key}: {why}")));
        }
        let Some(settings) = self.config.access().ok().filter(|_| self.reads_users) else { return };
        if let Err(faults) = Access::new(settings, Clock::real()) {
            let source = self.sources.get("auth.file").unwrap_or(&ValueSource::Default);
            self.faults.extend(faults.into_iter().map(|fault| source.fault(fault)));
        }
    }

    fn shown(&self, row: &Row) -> Setting {
        Setting {
            key: row.key.into(),
            value: (row.show)(&self.config),
            source: self.sources.get(row.key).unwrap_or(&ValueSource::Default).to_string(),
            reloadable: row.reloadable,
        }
    }
}

/// Combines the reloadable settings of `fresh` with the other settings of `running`. Returns the effective
/// configuration and the changed keys that require a restart.
#[must_use]
pub fn reload(running: &Loaded, mut fresh: Loaded) -> (Loaded, Vec<&'static str>) {
    let mut restart = Vec::new();
    for (index, row) in Row::all().iter().enumerate().filter(|(_, row)| !row.reloadable) {
        if !(row.same)(&running.config, &fresh.config) {
            restart.push(row.key);
        }
        (row.copy)(&mut fresh.config, &running.config);
        fresh.settings[index] = running.settings[index].clone();
    }
    (fresh, restart)
}

/// Reason why no setting was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchanged {
    /// Key of the faulty setting: `l2.read_timeout`.
    pub key: String,
    /// The fault and the accepted values, without the key.
    pub why: String,
}

/// Author of a change at run time.
#[derive(Debug, Clone, Copy)]
pub struct By {
    /// Name that is shown as the source of the values.
    pub name: &'static str,
    /// The author runs on this machine.
    pub is_local: bool,
}

impl By {
    fn may_change_protected(self, protected_configs: ProtectedConfigs) -> bool {
        match protected_configs {
            ProtectedConfigs::No => false,
            ProtectedConfigs::Local => self.is_local,
            ProtectedConfigs::Yes => true,
        }
    }
}

/// Changes reloadable settings, given as keys and texts: either all of them or none. A setting may always be set to its
/// current value. Returns the effective configuration and its printable settings.
///
/// # Errors
/// The first setting that is unknown, requires a restart, is protected, or has an invalid value or an invalid
/// combination of values.
pub fn change(
    running: &Config,
    shown: &[Setting],
    changes: &[(String, String)],
    by: By,
) -> Result<(Config, Vec<Setting>), Unchanged> {
    let (mut config, mut settings) = (running.clone(), shown.to_vec());
    let refused = |key: &str, why: String| Err(Unchanged { key: key.to_owned(), why });
    for (key, text) in changes {
        let Some(row) = Row::find(key) else {
            let hint = nearest(key, Row::all().iter().map(|row| row.key.to_owned()));
            return refused(key, format!("unknown setting{hint}"));
        };
        let mut changed = config.clone();
        let set = (row.set)(&mut changed, &Raw::Word(text.clone()));
        // For a secret, the answer would tell whether a guess is right.
        if set.is_ok() && row.key != "l2.url" && (row.same)(&config, &changed) {
            continue;
        }
        if !row.reloadable {
            return refused(key, format!("changing {key} requires a restart"));
        }
        if row.is_protected() && !by.may_change_protected(running.resp.protected_configs) {
            return refused(key, "can't set a protected setting; resp.protected_configs permits it".to_owned());
        }
        if let Err(why) = set {
            return refused(key, why);
        }
        config = changed;
        if let Some(setting) = settings.iter_mut().find(|setting| setting.key == row.key) {
            (setting.value, setting.source) = ((row.show)(&config), by.name.to_owned());
        }
    }
    let fault = |key: &str, message| Fault { at: key.to_owned(), message, line: 0 };
    if let Some(fault) = constraints::check(&config, fault).into_iter().next() {
        return refused(&fault.at, fault.message);
    }
    match config.resp.password() {
        Ok(_) => Ok((config, settings)),
        Err(why) => refused("resp.password_file", why),
    }
}
