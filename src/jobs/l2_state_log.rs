//! Logs when L2 becomes unavailable and available again, and why L1 cannot answer although Redis does: once per change.

use std::time::Duration;

use crate::cache::{Cache, State};

/// Interval of checks: a loss is logged within this time; shorter losses appear in the counters only.
const PERIOD: Duration = Duration::from_millis(200);

/// Watches until it is dropped.
pub async fn run(cache: Cache) {
    let (mut l2, mut l1) = (None, None);
    let mut ticks = super::ticks(PERIOD);
    loop {
        ticks.tick().await;
        tell_l2(&cache, &mut l2);
        tell_l1(&cache, &mut l1);
    }
}

/// `told` is the last logged state: whether L2 was up.
fn tell_l2(cache: &Cache, told: &mut Option<bool>) {
    match (cache.l2_state(), *told) {
        (State::Connecting, _) | (State::Up, Some(true)) | (State::Down(_), Some(false)) => {}
        (State::Up, before) => {
            *told = Some(true);
            if before.is_some() {
                tracing::info!("L2 answers again");
            }
        }
        (State::Down(why), _) => {
            *told = Some(false);
            if cache.l2_reached() {
                tracing::warn!(why, "L2 is away");
            } else {
                tracing::warn!(why, "L2 cannot be reached; serving, but not ready before it answers");
            }
        }
    }
}

/// `told` is the last logged reason.
fn tell_l1(cache: &Cache, told: &mut Option<String>) {
    let (_, refused) = cache.l1_availability();
    if let Some(why) = refused.as_ref().filter(|_| refused != *told) {
        tracing::warn!(
            why,
            "Redis refuses what keeps L1 true; L1 stays closed, or goes by age alone where l1.coherence = \"ttl\""
        );
    }
    *told = refused;
}
