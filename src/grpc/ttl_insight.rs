//! The method `Insight.GetTtlAdvice`.

use super::Edge;
use crate::{
    cache::ttl::tuning::{Advised, Expected, HotKeyAdvice, Spread},
    error::Result,
    proto::{GetTtlAdviceRequest, GetTtlAdviceResponse, HotKeyTtl, IntervalStats, TtlAdvice, TtlOutcome},
};

impl Edge {
    pub(super) async fn get_ttl_advice(&self, request: GetTtlAdviceRequest) -> Result<GetTtlAdviceResponse> {
        self.principal().check_inspects()?;
        let all = self.cache.ttl_advice();
        let matching = all.iter().filter(|advised| {
            advised.advice.name.starts_with(&request.prefix) && self.principal().sees_group(&advised.advice.name)
        });
        let hottest = self.cache.hottest();
        let hot_keys = hottest
            .iter()
            .filter(|hot| hot.key.starts_with(request.prefix.as_bytes()) && self.principal().sees(&hot.key))
            .map(hot_key);
        Ok(GetTtlAdviceResponse { advice: matching.map(advice).collect(), hot_keys: hot_keys.collect() })
    }
}

fn hot_key(hot: &HotKeyAdvice) -> HotKeyTtl {
    HotKeyTtl {
        key: hot.key.bytes().clone(),
        ttl_ms: signed(hot.ttl_ms),
        access_ms: hot.access_ms,
        reads: hot.reads,
        change: hot.change.as_ref().map(intervals),
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn advice(advised: &Advised) -> TtlAdvice {
    let advice = &advised.advice;
    TtlAdvice {
        template: advice.name.to_string(),
        ttl_ms: signed(advice.ttl_ms),
        tuned_ms: advised.tuned_ms.map(signed),
        current_ttl_ms: advice.current_ttl_ms.map(signed),
        keys: advice.keys as u64,
        access: Some(intervals(&advice.access)),
        change: advice.change.as_ref().map(intervals),
        value_bytes: advice.value_bytes,
        now: Some(outcome(&advice.now, advice.value_bytes)),
        then: Some(outcome(&advice.then, advice.value_bytes)),
    }
}

fn intervals(spread: &Spread) -> IntervalStats {
    IntervalStats { count: spread.count as u64, mean_ms: spread.mean_ms, p50_ms: spread.p50_ms, p90_ms: spread.p90_ms }
}

#[expect(clippy::cast_precision_loss, reason = "the length of a value is much less than 2^53")]
fn outcome(expected: &Expected, value_bytes: u64) -> TtlOutcome {
    TtlOutcome {
        hit_rate: expected.hit_rate,
        stale_share: expected.stale_share,
        held: expected.held,
        bytes_held: expected.held * value_bytes as f64,
    }
}
