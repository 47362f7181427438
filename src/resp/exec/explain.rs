//! TERRACE.EXPLAIN: the state of a key on this node.

use std::time::Duration;

use super::terrace::{Field, resident_fields, write};
use crate::{
    cache::{
        LoadState,
        explain::key_history::{LastWrite, Writer, Wrote},
        explain::{Explained, Rule, UserRead},
    },
    clock::{Tick, millis},
    model::{Key, Outcome},
    resp::{
        command::Context,
        frame::Args,
        reply::{Done, Reply},
    },
};

/// TERRACE.EXPLAIN key: a map, also for a key that no tier has, because the reason for its absence is part of the
/// result.
pub(in crate::resp) async fn explain(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let key = Key::copied(args.at(1))?;
    let of = cx.edge.cache.explain(&key).await;
    cx.reply.map(10);
    cx.reply.bulk(b"key");
    cx.reply.bulk(&key);
    cx.reply.bulk(b"l1");
    l1(cx.reply, &of);
    cx.reply.bulk(b"l2");
    l2(cx.reply, &of);
    cx.reply.bulk(b"tags");
    cx.reply.map(of.tags.len());
    for (tag, is_valid) in &of.tags {
        cx.reply.bulk(tag);
        cx.reply.bulk(if *is_valid { b"valid" } else { b"invalidated" });
    }
    cx.reply.bulk(b"bans");
    cx.reply.array(of.bans.len());
    of.bans.iter().for_each(|ban| cx.reply.bulk(ban.glob.pattern()));
    cx.reply.bulk(b"last_write");
    match &of.write {
        Some(write) => last_write(cx.reply, write, of.now),
        None => cx.reply.null(),
    }
    cx.reply.bulk(b"last_read");
    match &of.read {
        Some(read) => last_read(cx.reply, read, of.now),
        None => cx.reply.null(),
    }
    cx.reply.bulk(b"rule");
    rule(cx.reply, &of.rule);
    cx.reply.bulk(b"load");
    load(cx.reply, &of);
    cx.reply.bulk(b"predicted");
    cx.reply.array(of.predictions.len());
    for prediction in &of.predictions {
        cx.reply.map(4);
        cx.reply.bulk(b"key");
        cx.reply.bulk(&prediction.key);
        cx.reply.bulk(b"probability");
        cx.reply.bulk(format!("{:.3}", prediction.p).as_bytes());
        cx.reply.bulk(b"fetched");
        cx.reply.count(u64::from(prediction.fetched));
        cx.reply.bulk(b"why");
        cx.reply.bulk(prediction.why.as_bytes());
    }
    Ok(())
}

fn text(text: &str) -> Field {
    Field::Text(text.to_owned())
}

fn ago(at: Tick, now: Tick) -> Field {
    Field::Number(millis(now.since(at)))
}

fn l1(reply: &mut Reply, of: &Explained) {
    match &of.resident {
        Some(resident) => {
            let mut fields = vec![("held", Field::Number(1))];
            fields.extend(resident_fields(resident, of.now));
            fields.push(("prefetched", Field::Number(u64::from(of.is_staged))));
            write(reply, &fields);
        }
        None => write(
            reply,
            &[
                ("held", Field::Number(0)),
                ("open", Field::Number(u64::from(of.l1_available))),
                ("why", of.not_l1.map_or(Field::Null, |why| text(why.name()))),
            ],
        ),
    }
}

fn l2(reply: &mut Reply, of: &Explained) {
    match &of.l2 {
        Ok(Some(entry)) => write(
            reply,
            &[
                ("type", text(entry.type_name.name())),
                ("ttl_ms", Field::Life(entry.life)),
                ("size_bytes", Field::Number(entry.size_bytes)),
                ("hidden", Field::Number(u64::from(of.tags.iter().any(|(_, is_valid)| !is_valid)))),
            ],
        ),
        Ok(None) => reply.null(),
        Err(error) => write(reply, &[("error", text(error.message()))]),
    }
}

fn last_write(reply: &mut Reply, of: &LastWrite, now: Tick) {
    let writer = match of.by {
        Writer::ThisNode => "this node",
        Writer::Elsewhere => "elsewhere",
    };
    let what = match of.what {
        None => "unknown",
        Some(Wrote::Value(_)) => "value",
        Some(Wrote::Lifetime) => "ttl",
        Some(Wrote::Deletion) => "deletion",
    };
    write(reply, &[("writer", text(writer)), ("kind", text(what)), ("ago_ms", ago(of.at, now))]);
}

fn last_read(reply: &mut Reply, of: &UserRead, now: Tick) {
    let outcome = match of.outcome {
        Outcome::HitL1 => "hit_l1",
        Outcome::Stale => "stale",
        Outcome::HitL2 => "hit_l2",
        Outcome::Miss => "miss",
        Outcome::Error => "error",
    };
    let why = |why: Option<crate::cache::explain::Why>| why.map_or(Field::Null, |why| text(why.name()));
    write(
        reply,
        &[
            ("outcome", text(outcome)),
            ("ago_ms", ago(of.at, now)),
            ("not_l1", why(of.not_l1)),
            ("not_l2", why(of.not_l2)),
        ],
    );
}

fn load(reply: &mut Reply, of: &Explained) {
    let number = |span: Duration| Field::Number(millis(span));
    let (state, age, ends, message) = match &of.load {
        None => (Field::Null, Field::Null, Field::Null, Field::Null),
        Some(LoadState::Loading { age, ends }) => (text("loading"), number(*age), number(*ends), Field::Null),
        Some(LoadState::Failed { message, ends }) => {
            (text("failed"), Field::Null, number(*ends), text(&String::from_utf8_lossy(message)))
        }
        Some(LoadState::Absent { ends }) => (text("absent"), Field::Null, number(*ends), Field::Null),
    };
    let mean = of.group_load.map_or(Field::Null, number);
    let fields = [("state", state), ("age_ms", age), ("ends_ms", ends), ("message", message), ("group_mean_ms", mean)];
    write(reply, &fields);
}

fn rule(reply: &mut Reply, of: &Rule) {
    let span = |span: Option<Duration>| span.map_or(Field::Null, |span| Field::Number(millis(span)));
    let policy = of.pattern.as_ref().map_or(Field::Null, |pattern| text(&String::from_utf8_lossy(pattern)));
    write(
        reply,
        &[
            ("policy", policy),
            ("group", text(&of.group)),
            ("template", text(&of.template)),
            ("write_ttl_ms", span(of.write_ttl)),
            ("max_ttl_ms", span(of.max_ttl)),
            ("touch_on_read_ms", span(of.touch_on_read)),
            ("l1", Field::Number(u64::from(of.l1))),
        ],
    );
}
