//! `terrace token`: creates tokens for the users file.

use clap::Subcommand;
use serde_json::json;

use super::{Failure, Format, Result, say};
use crate::access::{SecretHash, new_token};

/// Create tokens for the users file (`auth.file`).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    New(New),
}

/// Print a new random token, and the entry for the users file.
///
/// The token is shown only here. The users file contains its SHA-256, so that a reader of the file cannot log in.
#[derive(Debug, clap::Args)]
struct New {
    /// Name of the user.
    name: String,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) fn run(args: Args) -> Result {
    let Action::New(New { name, format }) = args.action;
    let token = new_token().map_err(Failure::new)?;
    let hash = SecretHash::of(token.as_bytes()).to_text();
    match format {
        Format::Json => say(json!({ "name": name, "token": token, "secret": hash })),
        Format::Text => {
            // A string of JSON is also one of TOML.
            let entry = json!(name);
            say(format_args!(
                "token (give it to the client; it is not shown again):\n{token}\n\nentry for the users file (choose the \
                 roles):\n[[user]]\nname = {entry}\nroles = []\nsecrets = [\"{hash}\"]"
            ));
        }
    }
    Ok(())
}
