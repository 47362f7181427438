//! The method `Insight.Explain`.

use std::time::Duration;

use super::{
    Edge,
    convert::{life_ms, to_i64},
    prefetch_insight::prediction,
};
use crate::{
    cache::{
        LoadState, Resident,
        explain::key_history::{LastWrite, Writer, Wrote},
        explain::{Explained, Rule, UserRead, Why},
    },
    clock::{Tick, millis},
    error::Result,
    model::{Key, Outcome},
    proto::{
        self, ExplainRequest, ExplainResponse, KeyLoad, KeyRead, KeyRule, KeyWrite, L1Copy, L2Entry, TagState,
        key_load, key_read, key_write,
    },
};

impl Edge {
    pub(super) async fn explain(&self, request: ExplainRequest) -> Result<ExplainResponse> {
        let key = Key::new(request.key)?;
        self.principal().check_sees(&key)?;
        Ok(response(self.cache.explain(&key).await))
    }
}

fn response(of: Explained) -> ExplainResponse {
    let hidden = of.tags.iter().any(|(_, is_valid)| !is_valid);
    let (l2, l2_error) = match &of.l2 {
        Ok(entry) => (entry.as_ref(), String::new()),
        Err(error) => (None, error.message().to_owned()),
    };
    ExplainResponse {
        l1: of.resident.as_ref().map(|resident| copy(resident, of.is_staged, of.now)),
        l1_absent: of.not_l1.map_or(proto::Why::Unspecified, why).into(),
        l1_open: of.l1_available,
        l2: l2.map(|entry| L2Entry {
            ttl_ms: life_ms(entry.life),
            size_bytes: entry.size_bytes,
            r#type: entry.type_name.name().to_owned(),
            hidden,
        }),
        l2_error,
        bans: of.bans.iter().map(|ban| ban.glob.pattern().clone()).collect(),
        last_write: of.write.map(|write| last_write(&write, of.now)),
        last_read: of.read.map(|read| last_read(&read, of.now)),
        rule: Some(rule(of.rule)),
        predictions: of.predictions.into_iter().map(prediction).collect(),
        load: Some(load(of.load, of.group_load)),
        tags: of.tags.into_iter().map(|(tag, valid)| TagState { tag, valid }).collect(),
    }
}

fn since(at: Tick, now: Tick) -> i64 {
    to_i64(millis(now.since(at)))
}

fn copy(resident: &Resident, prefetched: bool, now: Tick) -> L1Copy {
    let left = |until: Tick| (until != Tick::FAR).then(|| to_i64(millis(until.since(now))));
    L1Copy {
        ttl_ms: left(resident.hit.expires_at),
        copy_ttl_ms: left(resident.deadline),
        age_ms: since(resident.hit.filled_at, now),
        idle_ms: since(resident.used_at, now),
        hits: u64::from(resident.hit.hits),
        size_bytes: resident.hit.value.len() as u64,
        weight_bytes: resident.weight_bytes,
        prefetched,
    }
}

fn last_write(write: &LastWrite, now: Tick) -> KeyWrite {
    let writer = match write.by {
        Writer::ThisNode => key_write::Writer::ThisNode,
        Writer::Elsewhere => key_write::Writer::Elsewhere,
    };
    let kind = match write.what {
        None => key_write::Kind::Unspecified,
        Some(Wrote::Value(_)) => key_write::Kind::Value,
        Some(Wrote::Lifetime) => key_write::Kind::Ttl,
        Some(Wrote::Deletion) => key_write::Kind::Deletion,
    };
    KeyWrite { writer: writer.into(), kind: kind.into(), ago_ms: since(write.at, now) }
}

fn last_read(read: &UserRead, now: Tick) -> KeyRead {
    let outcome = match read.outcome {
        Outcome::HitL1 => key_read::Outcome::HitL1,
        Outcome::Stale => key_read::Outcome::Stale,
        Outcome::HitL2 => key_read::Outcome::HitL2,
        Outcome::Miss => key_read::Outcome::Miss,
        Outcome::Error => key_read::Outcome::Error,
    };
    KeyRead {
        outcome: outcome.into(),
        ago_ms: since(read.at, now),
        not_l1: read.not_l1.map_or(proto::Why::Unspecified, why).into(),
        not_l2: read.not_l2.map_or(proto::Why::Unspecified, why).into(),
    }
}

fn load(of: Option<LoadState>, mean: Option<Duration>) -> KeyLoad {
    let ms = |span: Duration| Some(to_i64(millis(span)));
    let state = |state: key_load::State| KeyLoad { state: state.into(), ..KeyLoad::default() };
    let known = match of {
        None => KeyLoad::default(),
        Some(LoadState::Loading { age, ends }) => {
            KeyLoad { age_ms: ms(age), ends_ms: ms(ends), ..state(key_load::State::Loading) }
        }
        Some(LoadState::Failed { message, ends }) => {
            let message = String::from_utf8_lossy(&message).into_owned();
            KeyLoad { message, ends_ms: ms(ends), ..state(key_load::State::Failed) }
        }
        Some(LoadState::Absent { ends }) => KeyLoad { ends_ms: ms(ends), ..state(key_load::State::Absent) },
    };
    KeyLoad { group_mean_ms: mean.map(|mean| mean.as_secs_f64() * 1e3), ..known }
}

fn rule(rule: Rule) -> KeyRule {
    let ms = |span: Option<Duration>| span.map(|span| to_i64(millis(span)));
    KeyRule {
        policy: rule.pattern,
        group: rule.group.to_string(),
        template: rule.template,
        write_ttl_ms: ms(rule.write_ttl),
        max_ttl_ms: ms(rule.max_ttl),
        touch_on_read_ms: ms(rule.touch_on_read),
        l1: rule.l1,
    }
}

fn why(why: Why) -> proto::Why {
    match why {
        Why::Unknown => proto::Why::Unknown,
        Why::NeverSeen => proto::Why::NeverSeen,
        Why::Evicted => proto::Why::Evicted,
        Why::Expired => proto::Why::Expired,
        Why::TooOld => proto::Why::TooOld,
        Why::Written => proto::Why::Written,
        Why::Deleted => proto::Why::Deleted,
        Why::Announced => proto::Why::Announced,
        Why::Banned => proto::Why::Banned,
        Why::TagGone => proto::Why::Tag,
        Why::Ended => proto::Why::Ended,
        Why::Closed => proto::Why::Closed,
        Why::NotAllowed => proto::Why::NotAllowed,
    }
}
