//! Makes structs, defaults and rows of one table of settings.

use super::{Config, form::Raw};

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// As in the file: `l1.size`.
    pub key: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// Changed by SIGHUP without a restart.
    pub reloadable: bool,
    /// For `--help`: `SIZE`, `DURATION`, `BOOL` and such.
    pub unit: fn() -> &'static str,
    /// What may be written: type, unit, range.
    pub form: fn() -> String,
    /// Reads a value; the error says what would be right.
    pub(super) set: fn(&mut Config, &Raw) -> Result<(), String>,
    /// The value as one would write it in the file, without secrets.
    pub show: fn(&Config) -> String,
    /// Takes this setting of another configuration.
    pub(super) copy: fn(&mut Config, &Config),
}

/// Short flags beside the regular ones: (flag, key).
pub const SHORT_FLAGS: [(&str, &str); 6] = [
    ("grpc", "grpc.addr"),
    ("resp", "resp.addr"),
    ("http", "http.addr"),
    ("l2", "l2.url"),
    ("log", "server.log"),
    ("expose", "server.expose"),
];

impl Row {
    /// All settings.
    #[must_use]
    pub fn all() -> &'static [Self] {
        super::TABLE
    }

    /// The setting of this key.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Self> {
        Self::all().iter().find(|row| row.key == key)
    }

    /// `l1-max-entries`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// `TERRACE_L1_MAX_ENTRIES`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("TERRACE_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// The short flag, where there is one.
    #[must_use]
    pub fn short_flag(&self) -> Option<&'static str> {
        SHORT_FLAGS.iter().find(|(_, key)| *key == self.key).map(|(flag, _)| *flag)
    }

    /// The default, as one would write it in the file.
    #[must_use]
    pub fn default_value(&self) -> String {
        (self.show)(&Config::default())
    }
}

/// `field: type = default, form [, reloadable];` under each table becomes a struct, its `Default` and a [`Row`].
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
                    copy: |config, from| config.$section.$field = from.$section.$field.clone(),
                },
            )+)+
        ];
    };
    (@reloadable reloadable) => { true };
    (@reloadable) => { false };
}
pub(super) use settings;
