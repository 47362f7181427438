//! Generates the reference tables of settings, policies, metrics and the command line from their definitions in the
//! code.

use terrace::{
    config::{POLICY_ROWS, Row},
    metrics::{ALL, Kind},
};

use super::{assert_generated, cell};
use crate::support::markdown::Page;

fn settings() -> String {
    let mut text = String::new();
    let mut section = "";
    for row in Row::all() {
        let of = row.key.split('.').next().unwrap();
        if of != section {
            section = of;
            text += &format!(
                "\n### [{section}]\n\n| setting | default | accepted values | description |\n|---|---|---|---|\n"
            );
        }
        let short = row.short_flag().map(|flag| format!(", `--{flag}`")).unwrap_or_default();
        let reloadable = if row.reloadable { " ↻" } else { "" };
        let (form, doc, default) = (cell(&(row.form)()), cell(row.doc), row.default_value().replace('"', ""));
        text += &format!("| `{}`{short}{reloadable} | `{default}` | {form} | {doc} |\n", row.key);
    }
    text
}

fn policies() -> String {
    let mut table = String::from("| key | default | accepted values | description |\n|---|---|---|---|\n");
    for row in &POLICY_ROWS {
        let default = if row.default.is_empty() { "required".into() } else { format!("`{}`", row.default) };
        table += &format!("| `{}` | {default} | {} | {} |\n", row.key, cell(&(row.form)()), cell(row.doc));
    }
    table
}

fn metrics() -> String {
    let mut table = String::from("| metric | type | labels | description |\n|---|---|---|---|\n");
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        table += &format!("| `{}` | {kind} | {} | {} |\n", metric.name, labels.join(", "), cell(metric.doc));
    }
    table
}

/// Returns one section for each subcommand.
fn cli() -> String {
    let mut cli = terrace::cli::command();
    cli.build();
    let mut text = String::new();
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        text += &format!("## terrace {}\n\n", command.get_name());
        let about = command.get_long_about().or(command.get_about()).unwrap().to_string();
        let paragraphs: Vec<String> = about.split("\n\n").map(|text| cell(text).replace("\\|", "|")).collect();
        text += &format!("{}\n\n", escaped(&paragraphs.join("\n\n")));
        let usage = command.clone().render_usage().to_string();
        text += &format!("```text\n{}\n```\n\n", usage.trim_start_matches("Usage: ").trim());
        text += &arguments(command);
        text.push('\n');
    }
    text
}

/// Markdown interprets `<` as a tag.
fn escaped(text: &str) -> String {
    text.replace('<', "\\<")
}

fn arguments(command: &clap::Command) -> String {
    let own = |arg: &&clap::Arg| !["help", "version"].contains(&arg.get_id().as_str());
    let is_setting = |arg: &&clap::Arg| Row::find(arg.get_id().as_str()).is_some();
    let mut table = String::new();
    let (settings, others): (Vec<_>, Vec<_>) = command.get_arguments().filter(own).partition(is_setting);
    if !others.is_empty() {
        table += "| argument | default | description |\n|---|---|---|\n";
    }
    for arg in others {
        table += &format!("| {} | {} | {} |\n", name(arg), default(arg), description(arg));
    }
    match (settings.is_empty(), command.get_name()) {
        (true, _) => {}
        (false, "serve") => {
            table += "\nEach setting is a flag. [Configuration](configuration.md) describes the settings and the \
                      accepted values.\n\n| flag | setting | environment variable | default |\n|---|---|---|---|\n";
            table.extend(settings.into_iter().map(setting));
        }
        (false, _) => table += "\nEach setting flag of [terrace serve](#terrace-serve) is accepted as well.\n",
    }
    table
}

fn setting(arg: &clap::Arg) -> String {
    let row = Row::find(arg.get_id().as_str()).unwrap();
    let (flag, variable, value) = (arg.get_long().unwrap(), row.variable(), row.default_value().replace('"', ""));
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    let aliases: String = aliases.into_iter().map(|alias| format!(", `--{alias}`")).collect();
    format!("| `--{flag}`{aliases} | `{}` | `{variable}` | `{value}` |\n", row.key)
}

fn name(arg: &clap::Arg) -> String {
    let values = arg.get_value_names().map(|names| names.join(" ")).filter(|_| arg.get_action().takes_values());
    match (arg.get_long(), values) {
        (None, values) => format!("`{}`", cell(&values.unwrap_or_else(|| arg.get_id().as_str().to_uppercase()))),
        (Some(long), None) => format!("`--{long}`"),
        (Some(long), Some(values)) => format!("`--{long} {}`", cell(&values)),
    }
}

fn default(arg: &clap::Arg) -> String {
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
    match (defaults.is_empty() || !arg.get_action().takes_values(), arg.is_required_set()) {
        (false, _) => format!("`{}`", defaults.join(",")),
        (true, true) => "required".into(),
        (true, false) => String::new(),
    }
}

fn description(arg: &clap::Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let values = arg.get_possible_values();
    let is_listed = arg.get_action().takes_values() && !values.is_empty();
    let values: Vec<String> = values
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| {
            let help = value.get_help().map(|help| format!(" ({})", help.to_string().trim_end_matches('.')));
            format!("`{}`{}", value.get_name(), help.unwrap_or_default())
        })
        .collect();
    let values = if is_listed { format!(" Values: {}.", values.join(", ")) } else { String::new() };
    // clap removes the full stop of a single sentence.
    let end = if help.ends_with(['.', ']']) { "" } else { "." };
    escaped(&cell(&format!("{help}{end}{values}")))
}

#[test]
fn settings_are_up_to_date() {
    assert_generated("docs/reference/configuration.md", "settings", &settings());
}

#[test]
fn policies_are_up_to_date() {
    assert_generated("docs/reference/policies.md", "policies", &policies());
}

#[test]
fn metrics_are_up_to_date() {
    assert_generated("docs/reference/metrics.md", "metrics", &metrics());
}

#[test]
fn the_command_line_is_up_to_date_and_complete() {
    assert_generated("docs/reference/cli.md", "cli", &cli());
    let anchors = Page::read("docs/reference/cli.md").anchors();
    for command in terrace::cli::command().get_subcommands() {
        let anchor = format!("terrace-{}", command.get_name());
        assert!(anchors.contains(&anchor), "docs/reference/cli.md has a section #{anchor}");
    }
}
