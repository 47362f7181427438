//! Generates structs, defaults and rows from one table of settings.

use super::{Config, form::Raw};

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Key in the file: `l1.size`.
    pub key: &'static str,
    /// Description.
    pub doc: &'static str,
    /// The setting can change at a reload, without a restart.
    pub reloadable: bool,
    /// Placeholder in `--help`: `SIZE`, `DURATION`, `BOOL`.
    pub unit: fn() -> &'static str,
    /// Accepted values: type, unit, range.
    pub form: fn() -> String,
    /// Parses and sets a value; an error names the accepted values.
    pub(super) set: fn(&mut Config, &Raw) -> Result<(), String>,
    /// Returns the value in the notation of the file, with secrets masked.
    pub show: fn(&Config) -> String,
    /// Returns true if both configurations have the same value, which `show` does not tell for secrets.
    pub(super) same: fn(&Config, &Config) -> bool,
    /// Copies this setting from another configuration.
    pub(super) copy: fn(&mut Config, &Config),
}

/// Short flags in addition to the regular flags: (flag, key).
pub const SHORT_FLAGS: [(&str, &str); 6] = [
    ("grpc", "grpc.addr"),
    ("resp", "resp.addr"),
    ("http", "http.addr"),
    ("l2", "l2.url"),
    ("log", "server.log"),
    ("expose", "server.expose"),
];

impl Row {
    /// Returns all settings.
    #[must_use]
    pub fn all() -> &'static [Self] {
        super::TABLE
    }

    /// Returns the setting with this key.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Self> {
        Self::all().iter().find(|row| row.key == key)
    }

    /// Returns true if the setting decides who may use the server or reads a file with a secret. CONFIG SET changes it
    /// only with `resp.protected_configs`.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        let sections = ["auth.", "tls."];
        self.key.ends_with("_file")
            || self.key.ends_with(".tls_mode")
            || sections.iter().any(|section| self.key.starts_with(section))
            || ["resp.protected_mode", "resp.protected_configs", "resp.flush"].contains(&self.key)
    }

    /// Returns the flag, for example `l1-max-entries`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// Returns the environment variable, for example `TERRACE_L1_MAX_ENTRIES`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("TERRACE_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Returns the short flag, if one exists.
    #[must_use]
    pub fn short_flag(&self) -> Option<&'static str> {
        SHORT_FLAGS.iter().find(|(_, key)| *key == self.key).map(|(flag, _)| *flag)
    }

    /// Returns the default in the notation of the file.
    #[must_use]
    pub fn default_value(&self) -> String {
        (self.show)(&Config::default())
    }
}

/// Expands each line `field: type = default, form [, reloadable];` into a struct field, its `Default` and a [`Row`].
macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $type:ty = $default:expr, $form:expr $(, $mark:ident)?;
            )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone)]
            pub struct $Section {
                $(
                    $(#[doc = $doc])+
                    $(#[doc = concat!("(", stringify!($mark), ")")])?
                    pub $field: $type,
                )+
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $($field: $default,)+ }
                }
            }
        )+

        const TABLE: &[Row] = &[
            $($(
                Row {
                    key: concat!(stringify!($section), ".", stringify!($field)),
                    doc: concat!($($doc),+),
                    reloadable: settings!(@reloadable $($mark)?),
                    unit: || form::Form::<$type>::unit(&$form),
                    form: || form::Form::<$type>::describe(&$form),
                    set: |config, raw| {
                        config.$section.$field = form::Form::read(&$form, raw)?;
                        Ok(())
                    },
                    show: |config| form::Form::show(&$form, &config.$section.$field),
                    same: |config, other| config.$section.$field == other.$section.$field,
                    copy: |config, from| config.$section.$field = from.$section.$field.clone(),
                },
            )+)+
        ];
    };
    (@reloadable reloadable) => { true };
    (@reloadable) => { false };
}
pub(super) use settings;
