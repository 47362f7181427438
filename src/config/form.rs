//! Forms of settings: each form parses, prints and describes values of one type. Pure functions without
//! I/O, except that the value `cred:NAME` depends on the environment.

use std::{fmt::Debug, path::PathBuf, time::Duration};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{Address, credential};
use crate::{
    access::{BUILT_IN_ROLES, GuestRole},
    l2::redis::url::RedisUrl,
    model::RESERVED_PREFIX,
    secret::Secret,
};

/// A value as written, before it is parsed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    /// Text of a flag or variable, which can represent any type.
    Word(String),
    /// A string in the file.
    Text(String),
    /// An integer in the file.
    Integer(i64),
    /// A floating-point number in the file.
    Float(f64),
    /// A boolean in the file.
    Boolean(bool),
    /// An array in the file.
    List(Vec<Raw>),
    /// Any other type in the file, with its name.
    Other(&'static str),
}

impl Raw {
    /// Returns the text of a string value. `wanted` describes the accepted values.
    ///
    /// # Errors
    /// A message with the value and `wanted`, if the value is not a string.
    pub(super) fn text(&self, wanted: &str) -> Result<&str, String> {
        match self {
            Self::Word(text) | Self::Text(text) => Ok(text),
            Self::Integer(_) | Self::Boolean(_) | Self::List(_) | Self::Float(_) | Self::Other(_) => {
                Err(self.not(wanted))
            }
        }
    }

    /// Returns the fault message: the value and the accepted values.
    pub(super) fn not(&self, wanted: &str) -> String {
        match self {
            Self::Word(text) | Self::Text(text) => format!("{text:?} is not {wanted}"),
            Self::Integer(number) => format!("{number} is not {wanted}"),
            Self::Float(number) => format!("{number} is not {wanted}"),
            Self::Boolean(value) => format!("{value} is not {wanted}"),
            Self::List(_) => format!("an array is not {wanted}"),
            Self::Other(kind) => format!("a {kind} is not {wanted}"),
        }
    }
}

/// Notation of values of type `T`.
pub(super) trait Form<T> {
    /// Parses a value.
    ///
    /// # Errors
    /// The fault and the accepted values, without the key.
    fn read(&self, raw: &Raw) -> Result<T, String>;
    /// Returns the value in the notation of the file, with secrets masked.
    fn show(&self, value: &T) -> String;
    /// Returns the accepted values, with unit and range.
    fn describe(&self) -> String;
    /// Returns the placeholder in `--help`, such as `SIZE`.
    fn unit(&self) -> &'static str;
}

fn quoted(text: impl AsRef<str>) -> String {
    toml::Value::from(text.as_ref()).to_string()
}

fn in_range<T: PartialOrd + Copy>(value: T, least: T, most: T, show: impl Fn(T) -> String) -> Result<T, String> {
    if value < least || value > most {
        return Err(format!("{} is out of range; expected {} to {}", show(value), show(least), show(most)));
    }
    Ok(value)
}

/// A number of bytes with inclusive bounds: `256MiB`, `2GiB`, `1024`.
pub(super) struct Size(pub u64, pub u64);

/// Returns a number of bytes in the largest binary unit that divides it: `256MiB`.
pub(super) fn show_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(name, shift)| format!("{}{name}", bytes >> shift))
}

impl Form<u64> for Size {
    fn read(&self, raw: &Raw) -> Result<u64, String> {
        const WANTED: &str = "a size such as 256MiB, 2GiB or 1024 (bytes)";
        let bytes = match raw {
            Raw::Integer(number) => u64::try_from(*number).map_err(|_| raw.not(WANTED))?,
            Raw::Word(text) | Raw::Text(text) => {
                text.trim().parse::<bytesize::ByteSize>().map_err(|_| raw.not(WANTED))?.as_u64()
            }
            Raw::Boolean(_) | Raw::List(_) | Raw::Float(_) | Raw::Other(_) => return Err(raw.not(WANTED)),
        };
        in_range(bytes, self.0, self.1, show_size)
    }

    fn show(&self, value: &u64) -> String {
        if *value > 0 && value.is_multiple_of(1024) { quoted(show_size(*value)) } else { value.to_string() }
    }

    fn describe(&self) -> String {
        format!("size, {} to {}", show_size(self.0), show_size(self.1))
    }

    fn unit(&self) -> &'static str {
        "SIZE"
    }
}

/// A duration with inclusive bounds: `30s`, `5m`, `100ms`.
pub(super) struct Span(pub Duration, pub Duration);

/// Formats a duration so that it can be read back. Long ones are days, because months and years have no fixed length.
fn show_span(span: Duration) -> String {
    const DAY_S: u64 = 86_400;
    match span.as_secs() {
        seconds if seconds >= 30 * DAY_S && seconds.is_multiple_of(DAY_S) && span.subsec_nanos() == 0 => {
            format!("{}d", seconds / DAY_S)
        }
        _ => humantime::format_duration(span).to_string(),
    }
}

/// Returns true for the unit `M`, which is too easily written for `m`.
fn names_months_by_a_letter(text: &str) -> bool {
    let mut parts = text.split(|letter: char| !letter.is_ascii_alphabetic());
    parts.any(|unit| unit == "M")
}

impl Form<Duration> for Span {
    fn read(&self, raw: &Raw) -> Result<Duration, String> {
        const WANTED: &str = "a duration with a unit, such as 100ms, 30s or 5m";
        let text = raw.text(WANTED)?.trim();
        if names_months_by_a_letter(text) {
            return Err(format!("{text:?} has the unit M, which is a month; write m for minutes, or a number of days"));
        }
        let span = humantime::parse_duration(text).map_err(|_| raw.not(WANTED))?;
        if span.subsec_nanos() % 1_000_000 != 0 {
            return Err(format!("{} is not a multiple of 1ms", show_span(span)));
        }
        in_range(span, self.0, self.1, show_span)
    }

    fn show(&self, value: &Duration) -> String {
        quoted(show_span(*value))
    }

    fn describe(&self) -> String {
        format!("duration, {} to {}", show_span(self.0), show_span(self.1))
    }

    fn unit(&self) -> &'static str {
        "DURATION"
    }
}

/// A floating-point number with inclusive bounds.
pub(super) struct Factor(pub f64, pub f64);

impl Form<f64> for Factor {
    fn read(&self, raw: &Raw) -> Result<f64, String> {
        const WANTED: &str = "a number such as 0.5 or 2";
        let number = match raw {
            Raw::Float(number) => Some(*number),
            Raw::Integer(number) => i32::try_from(*number).ok().map(f64::from),
            Raw::Word(text) => text.trim().parse().ok(),
            Raw::Text(_) | Raw::Boolean(_) | Raw::List(_) | Raw::Other(_) => None,
        };
        let number = number.filter(|number: &f64| number.is_finite()).ok_or_else(|| raw.not(WANTED))?;
        in_range(number, self.0, self.1, |number| number.to_string())
    }

    fn show(&self, value: &f64) -> String {
        format!("{value:?}")
    }

    fn describe(&self) -> String {
        format!("number, {} to {}", self.0, self.1)
    }

    fn unit(&self) -> &'static str {
        "NUMBER"
    }
}

/// A whole number with inclusive bounds.
pub(super) struct Count(pub u64, pub u64);

impl Form<u64> for Count {
    fn read(&self, raw: &Raw) -> Result<u64, String> {
        const WANTED: &str = "a whole number";
        let number = match raw {
            Raw::Integer(number) => u64::try_from(*number).ok(),
            Raw::Word(text) => text.trim().parse().ok(),
            Raw::Text(_) | Raw::Boolean(_) | Raw::List(_) | Raw::Float(_) | Raw::Other(_) => None,
        };
        in_range(number.ok_or_else(|| raw.not(WANTED))?, self.0, self.1, |number| number.to_string())
    }

    fn show(&self, value: &u64) -> String {
        value.to_string()
    }

    fn describe(&self) -> String {
        format!("number, {} to {}", self.0, self.1)
    }

    fn unit(&self) -> &'static str {
        "NUMBER"
    }
}

impl Form<usize> for Count {
    fn read(&self, raw: &Raw) -> Result<usize, String> {
        usize::try_from(Form::<u64>::read(self, raw)?)
            .map_err(|_| raw.not("a number within the address space of this machine"))
    }

    fn show(&self, value: &usize) -> String {
        value.to_string()
    }

    fn describe(&self) -> String {
        Form::<u64>::describe(self)
    }

    fn unit(&self) -> &'static str {
        "NUMBER"
    }
}

/// `true` or `false`.
pub(super) struct Flag;

impl Form<bool> for Flag {
    fn read(&self, raw: &Raw) -> Result<bool, String> {
        match raw {
            Raw::Boolean(value) => Ok(*value),
            Raw::Word(word) if word == "true" => Ok(true),
            Raw::Word(word) if word == "false" => Ok(false),
            Raw::Word(_) | Raw::Text(_) | Raw::Integer(_) | Raw::List(_) | Raw::Float(_) | Raw::Other(_) => {
                Err(raw.not("true or false"))
            }
        }
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }

    fn describe(&self) -> String {
        "true or false".into()
    }

    fn unit(&self) -> &'static str {
        "BOOL"
    }
}

/// One of several names.
pub(super) struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy + PartialEq + Debug> Form<T> for Choice<T> {
    fn read(&self, raw: &Raw) -> Result<T, String> {
        let wanted = self.describe();
        let name = raw.text(&wanted)?;
        let found = self.0.iter().find(|(choice, _)| *choice == name);
        found.map(|(_, value)| *value).ok_or_else(|| raw.not(&wanted))
    }

    fn show(&self, value: &T) -> String {
        let name = self.0.iter().find(|(_, choice)| choice == value).map(|(name, _)| *name);
        quoted(name.unwrap_or("?"))
    }

    fn describe(&self) -> String {
        self.0.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ")
    }

    fn unit(&self) -> &'static str {
        "NAME"
    }
}

/// A path; relative paths start at the working directory.
pub(super) struct Path;

impl Form<PathBuf> for Path {
    fn read(&self, raw: &Raw) -> Result<PathBuf, String> {
        let text = raw.text("a path")?;
        if text.is_empty() || text.contains('\0') {
            return Err(raw.not("a path"));
        }
        Ok(text.into())
    }

    fn show(&self, value: &PathBuf) -> String {
        quoted(value.to_string_lossy())
    }

    fn describe(&self) -> String {
        "path".into()
    }

    fn unit(&self) -> &'static str {
        "PATH"
    }
}

/// A file with a secret or a certificate: a path, or `cred:NAME` for a credential of systemd.
pub(super) struct File;

impl Form<PathBuf> for File {
    fn read(&self, raw: &Raw) -> Result<PathBuf, String> {
        match raw.text("a path")?.strip_prefix(credential::SCHEME) {
            Some(name) => credential::file_of(name),
            None => Path.read(raw),
        }
    }

    fn show(&self, value: &PathBuf) -> String {
        credential::name_of(value).map_or_else(|| Path.show(value), quoted)
    }

    fn describe(&self) -> String {
        "path, cred:NAME (a credential of systemd)".into()
    }

    fn unit(&self) -> &'static str {
        "PATH"
    }
}

/// The name of a user of Redis.
pub(super) struct UserName;

/// Maximum size of `l2.user` and `l2.sentinel_user`.
const USER_MAX_BYTES: usize = 1024;

impl Form<String> for UserName {
    fn read(&self, raw: &Raw) -> Result<String, String> {
        const WANTED: &str = "the name of a user of Redis";
        let text = raw.text(WANTED)?;
        let valid = (1..=USER_MAX_BYTES).contains(&text.len()) && !text.contains([' ', '\0', '\n', '\r']);
        if valid { Ok(text.into()) } else { Err(raw.not(WANTED)) }
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }

    fn describe(&self) -> String {
        "user name".into()
    }

    fn unit(&self) -> &'static str {
        "USER"
    }
}

/// A value, or the word that represents its absence.
pub(super) struct Maybe<F>(pub &'static str, pub F);

impl<T, F: Form<T>> Form<Option<T>> for Maybe<F> {
    fn read(&self, raw: &Raw) -> Result<Option<T>, String> {
        if raw.text(self.0).is_ok_and(|word| word == self.0) {
            return Ok(None);
        }
        self.1.read(raw).map(Some)
    }

    fn show(&self, value: &Option<T>) -> String {
        value.as_ref().map_or_else(|| quoted(self.0), |value| self.1.show(value))
    }

    fn describe(&self) -> String {
        format!("{} or {}", self.1.describe(), self.0)
    }

    fn unit(&self) -> &'static str {
        self.1.unit()
    }
}

/// A list of limited length: an array in the file; comma-separated in a flag or variable.
pub(super) struct List<F>(pub usize, pub F);

impl<T, F: Form<T>> Form<Vec<T>> for List<F> {
    fn read(&self, raw: &Raw) -> Result<Vec<T>, String> {
        let items = match raw {
            Raw::List(items) => items.clone(),
            Raw::Word(word) if word.is_empty() => Vec::new(),
            Raw::Word(word) => word.split(',').map(|item| Raw::Word(item.into())).collect(),
            Raw::Text(_) | Raw::Integer(_) | Raw::Boolean(_) | Raw::Float(_) | Raw::Other(_) => {
                return Err(raw.not("an array"));
            }
        };
        if items.len() > self.0 {
            return Err(format!("{} values are listed; expected at most {}", items.len(), self.0));
        }
        items.iter().map(|item| self.1.read(item)).collect()
    }

    fn show(&self, value: &Vec<T>) -> String {
        format!("[{}]", value.iter().map(|item| self.1.show(item)).collect::<Vec<_>>().join(", "))
    }

    fn describe(&self) -> String {
        format!("list of at most {}: {}", self.0, self.1.describe())
    }

    fn unit(&self) -> &'static str {
        self.1.unit()
    }
}

/// A key prefix.
pub(super) struct Prefix;

/// Maximum size of a prefix in `l2.prefixes`.
const PREFIX_MAX_BYTES: usize = 1024;

impl Form<String> for Prefix {
    fn read(&self, raw: &Raw) -> Result<String, String> {
        let text = raw.text("a key prefix")?;
        if text.is_empty() || text.len() > PREFIX_MAX_BYTES {
            return Err(format!("the prefix has {} bytes; expected 1 to {PREFIX_MAX_BYTES}", text.len()));
        }
        if text.as_bytes().starts_with(RESERVED_PREFIX) {
            return Err(format!("{text:?} starts with __terrace:, which is reserved"));
        }
        Ok(text.into())
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }

    fn describe(&self) -> String {
        "key prefix".into()
    }

    fn unit(&self) -> &'static str {
        "PREFIX"
    }
}

/// A listen address.
pub(super) struct Addr;

impl Form<String> for Addr {
    fn read(&self, raw: &Raw) -> Result<String, String> {
        let text = raw.text("an address")?;
        Address::parse(text)?;
        Ok(text.into())
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }

    fn describe(&self) -> String {
        "host:port, [::1]:port, :port (all interfaces) or unix:/path; port 0 = any free port".into()
    }

    fn unit(&self) -> &'static str {
        "ADDR"
    }
}

/// The role of clients without credentials.
pub(super) struct Guest;

impl Form<GuestRole> for Guest {
    fn read(&self, raw: &Raw) -> Result<GuestRole, String> {
        match raw.text("the name of a role")? {
            "" => Err(raw.not("the name of a role")),
            "auto" => Ok(GuestRole::Auto),
            "none" => Ok(GuestRole::None),
            role => Ok(GuestRole::Role(role.into())),
        }
    }

    fn show(&self, value: &GuestRole) -> String {
        quoted(match value {
            GuestRole::Auto => "auto",
            GuestRole::None => "none",
            GuestRole::Role(role) => role,
        })
    }

    fn describe(&self) -> String {
        format!("auto, none, {} or a role of auth.file", BUILT_IN_ROLES.join(", "))
    }

    fn unit(&self) -> &'static str {
        "ROLE"
    }
}

/// A host name without a port.
pub(super) struct HostName;

impl Form<String> for HostName {
    fn read(&self, raw: &Raw) -> Result<String, String> {
        const WANTED: &str = "a host name without a port, such as cache.example.com";
        let text = raw.text(WANTED)?;
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let valid = (1..=253).contains(&text.len()) && text.bytes().all(is_letter) && !text.starts_with('.');
        if valid { Ok(text.into()) } else { Err(raw.not(WANTED)) }
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }

    fn describe(&self) -> String {
        "host name".into()
    }

    fn unit(&self) -> &'static str {
        "HOST"
    }
}

/// The URL of a trace collector.
pub(super) struct Collector;

impl Form<String> for Collector {
    fn read(&self, raw: &Raw) -> Result<String, String> {
        const WANTED: &str = "http://host:port of a collector";
        let text = raw.text(WANTED)?;
        let host = text.strip_prefix("http://").unwrap_or_default();
        if !Address::parse(host.trim_end_matches('/')).is_ok_and(|address| address.port != 0) {
            return Err(raw.not(WANTED));
        }
        if !cfg!(feature = "otel") {
            return Err("this build does not support traces; build with --features otel".to_owned());
        }
        Ok(text.into())
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }

    fn describe(&self) -> String {
        "http://host:port".into()
    }

    fn unit(&self) -> &'static str {
        "URL"
    }
}

/// Log level or directives.
pub(super) struct LogFilter;

impl Form<String> for LogFilter {
    fn read(&self, raw: &Raw) -> Result<String, String> {
        const WANTED: &str = "a log level (error, warn, info, debug, trace, off) or directives such as info,h2=warn";
        let text = raw.text(WANTED)?;
        // The filter treats a bare word that is not a level as a target, and would then log nothing else.
        let level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
        let known = |part: &str| part.contains(['=', '[']) || level(part.trim());
        let valid = text.split(',').all(known) && EnvFilter::try_new(text).is_ok();
        if valid { Ok(text.into()) } else { Err(raw.not(WANTED)) }
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }

    fn describe(&self) -> String {
        "log level or directives".into()
    }

    fn unit(&self) -> &'static str {
        "LEVEL"
    }
}

/// The L2 store and its address.
pub(super) struct L2Url;

const L2_WANTED: &str = "redis://[user:password@]host[:port][/db], embedded, embedded:DIR or none";

impl Form<Secret<String>> for L2Url {
    fn read(&self, raw: &Raw) -> Result<Secret<String>, String> {
        let url = raw.text(L2_WANTED)?;
        match url.split_once(':') {
            None if url == "none" || url == "embedded" => Ok(url.into()),
            Some(("embedded", dir)) if !dir.is_empty() => Ok(url.into()),
            Some((_, rest)) if rest.starts_with("//") => {
                RedisUrl::parse(url).map(|_| url.into()).map_err(|error| error.to_string())
            }
            // Without ://, the text may still be a URL with a password.
            Some((scheme, rest)) if rest.contains(['@', '=']) => {
                let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+');
                Err(format!("\"{}:***\" is not {L2_WANTED}", if is_scheme { scheme } else { "***" }))
            }
            Some(_) | None => Err(format!("{} is not {L2_WANTED}", quoted(url))),
        }
    }

    fn show(&self, value: &Secret<String>) -> String {
        let url = value.expose();
        match RedisUrl::parse(url) {
            Ok(parsed) if parsed.has_password() => quoted(parsed.masked()),
            Ok(_) | Err(_) => quoted(url),
        }
    }

    fn describe(&self) -> String {
        L2_WANTED.into()
    }

    fn unit(&self) -> &'static str {
        "URL"
    }
}
