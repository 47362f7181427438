//! `terrace config`: the effective configuration and where each value came from.

use serde_json::json;

use super::{Format, Result, say, settings::SettingArgs};
use crate::node::Setting;

/// Print the effective configuration and the source of each value, without secrets.
///
/// Accepts the flags of `serve` and runs the same checks. Use this command to validate a file before a server reads it;
/// an invalid configuration is exit code 64.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingArgs,
    /// Output format: a table, or one JSON object per line.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) fn run(args: Args) -> Result {
    let loaded = args.settings.load()?;
    for warning in &loaded.warnings {
        eprintln!("terrace: warning: {warning}");
    }
    match args.format {
        Format::Text => table(&loaded.settings),
        Format::Json => loaded.settings.iter().for_each(line),
    }
    Ok(())
}

/// Prints the settings in the syntax of the configuration file: dotted keys, then the policies.
fn table(settings: &[Setting]) {
    let width = |text: fn(&Setting) -> &str| settings.iter().map(|setting| text(setting).len()).max().unwrap_or(0);
    let (keys, values) = (width(|setting| &setting.key), width(|setting| &setting.value));
    for Setting { key, value, source, reloadable } in settings {
        let reloadable = if *reloadable { ", reloadable" } else { "" };
        // `policy[0].match` becomes `match`.
        let key = key.split_once("].").map_or(key.as_str(), |(_, key)| key);
        if key == "match" {
            say("\n[[policy]]");
        }
        say(format_args!("{key:keys$} = {value:values$}  # {source}{reloadable}"));
    }
}

fn line(setting: &Setting) {
    let Setting { key, value, source, reloadable } = setting;
    say(json!({ "key": key, "value": value, "source": source, "reloadable": reloadable }));
}
