//! Commands about the server: CONFIG GET, DBSIZE, FLUSHDB and FLUSHALL.

use super::{DATABASES, DB_L1, is, keys::must_have_l2};
use crate::{
    glob::Glob,
    resp::{
        command::Context,
        frame::{Args, LINE_MAX_BYTES, REQUEST_MAX_BYTES},
        reply::{Done, Refusal},
    },
};

/// DBSIZE
pub(in crate::resp) async fn dbsize(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let count = match cx.session.db {
        DB_L1 => cx.edge.cache.l1_usage().entries,
        _ => cx.edge.cache.count().await?,
    };
    cx.reply.count(count);
    Ok(())
}

/// FLUSHDB [ASYNC|SYNC], FLUSHALL [ASYNC|SYNC]. FLUSHALL empties db 0 and with it L1, whatever database is selected.
pub(in crate::resp) async fn flush(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let known = args.get(1).is_none_or(|word| is(word, "async") || is(word, "sync"));
    if !known || args.len() > 2 {
        return Err(Refusal::Syntax);
    }
    if cx.session.db == DB_L1 && cx.row.name == "flushdb" {
        must_have_l2(cx)?;
        cx.edge.cache.clear_resident();
    } else {
        if !cx.edge.settings.load().flush {
            let name = cx.row.name.to_ascii_uppercase();
            return Err(Refusal::text(format!("ERR {name} is refused by the setting resp.flush = \"refuse\"")));
        }
        cx.edge.cache.clear().await?;
    }
    cx.reply.ok();
    Ok(())
}

/// CONFIG GET pattern [pattern ...]: Redis's names for what tools ask, and Terrace's own settings.
pub(in crate::resp) fn config_get(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let patterns = args.from(2).iter().map(Pattern::new).collect::<Result<Vec<_>, _>>()?;
    let found: Vec<(Vec<u8>, String)> = parameters(cx)
        .into_iter()
        .filter_map(|(name, value)| {
            let pattern = patterns.iter().find(|pattern| pattern.glob.matches(name.as_bytes()))?;
            Some((pattern.literal.clone().unwrap_or(name.into_bytes()), value))
        })
        .collect();
    cx.reply.map(found.len());
    for (name, value) in &found {
        cx.reply.bulk(name);
        cx.reply.bulk(value.as_bytes());
    }
    Ok(())
}

/// A pattern for names in any case; a name without a wildcard is shown as it was asked for.
struct Pattern {
    glob: Glob,
    literal: Option<Vec<u8>>,
}

impl Pattern {
    fn new(text: &[u8]) -> Result<Self, Refusal> {
        let is_literal = !text.iter().any(|byte| b"[*?".contains(byte));
        Ok(Self { glob: Glob::new(&text.to_ascii_lowercase())?, literal: is_literal.then(|| text.to_vec()) })
    }
}

fn parameters(cx: &Context<'_>) -> Vec<(String, String)> {
    let settings = cx.edge.settings.load();
    let resp = cx.edge.node.addresses.get().map(|addresses| addresses.resp.clone()).unwrap_or_default();
    let (host, port) = resp.rsplit_once(':').unwrap_or((&resp, "0"));
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" };
    let mut parameters: Vec<(String, String)> = [
        ("appendonly", "no".to_owned()),
        ("bind", host.trim_matches(['[', ']']).to_owned()),
        ("databases", DATABASES.to_string()),
        ("maxmemory", cx.edge.cache.l1_usage().capacity_bytes.to_string()),
        ("maxmemory-policy", "allkeys-lru".to_owned()),
        ("port", port.to_owned()),
        ("proto-inline-max-size", LINE_MAX_BYTES.to_string()),
        ("client-query-buffer-limit", REQUEST_MAX_BYTES.to_string()),
        ("proto-max-bulk-len", settings.value_max.to_string()),
        ("protected-mode", yes_or_no(settings.protected_mode).to_owned()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let own = cx.edge.node.settings.load();
    parameters.extend(own.iter().map(|setting| (setting.key.clone(), setting.value.clone())));
    parameters
}
