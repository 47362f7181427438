//! Command-line flags for all settings, generated from the table of settings.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, builder::ValueParser};

use crate::config::{Faults, Given, Loaded, Row, Sources, default_file, environment, load};

/// Configuration file and flags of `serve` and `config`.
#[derive(Debug, Clone, Default)]
pub(super) struct SettingArgs {
    file: Option<PathBuf>,
    flags: Vec<Given>,
}

impl SettingArgs {
    /// Returns the sources of the configuration, with the current environment.
    pub(super) fn sources(self) -> Sources {
        Sources { file: self.file, default_file: default_file(), environment: environment(), flags: self.flags }
    }

    /// Loads and validates the configuration.
    pub(super) fn load(self) -> Result<Loaded, Faults> {
        load(&self.sources())
    }
}

impl clap::Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(ValueParser::path_buf())
            .help("TOML file with settings and policies; SIGHUP rereads the file [default: /etc/terrace/terrace.toml, if it exists] [env: TERRACE_CONFIG]");
        command.arg(file).args(Row::all().iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<PathBuf>("config").cloned();
        let given = |row: &Row| {
            let value = matches.get_one::<String>(row.key)?.clone();
            Some(Given { key: row.key, flag: shown_flag(row), value })
        };
        self.flags = Row::all().iter().filter_map(given).collect();
        Ok(())
    }
}

fn shown_flag(row: &Row) -> String {
    row.short_flag().map_or_else(|| row.flag(), str::to_owned)
}

/// Returns the flag of a setting. Values stay text, because the loader parses them and reports the faults of all
/// sources together.
fn arg(row: &'static Row) -> Arg {
    let arg =
        Arg::new(row.key).long(shown_flag(row)).value_name((row.unit)()).help_heading(heading(row)).help(help(row));
    let arg = if row.short_flag().is_some() { arg.visible_alias(row.flag()) } else { arg };
    // A flag without a value means true.
    match (row.unit)() {
        "BOOL" => arg.num_args(0..=1).default_missing_value("true"),
        _ => arg.allow_hyphen_values(true),
    }
}

fn heading(row: &Row) -> String {
    let section = row.key.split('.').next().unwrap_or_default();
    format!("[{section}]")
}

fn help(row: &Row) -> String {
    let reloadable = if row.reloadable { "; reloadable" } else { "" };
    let (doc, form, default, variable) = (row.doc.trim(), (row.form)(), row.default_value(), row.variable());
    format!("{doc} ({form}{reloadable}) [default: {}] [env: {variable}]", default.trim_matches('"'))
}
