//! Logs when L2 becomes unavailable and available again, and why L1 cannot answer although Redis does. Each change is
//! logged once.

use std::time::Duration;

use crate::cache::{Cache, State};

/// Interval of checks. A loss is logged within this time; shorter losses appear only in the counters.
const PERIOD: Duration = Duration::from_millis(200);

/// Watches until the future is dropped.
pub async fn run(cache: Cache) {
    let (mut l2, mut l1) = (None, None);
    let mut ticks = super::ticks(PERIOD);
    loop {
        ticks.tick().await;
        log_l2_change(&cache, &mut l2);
        log_l1_refusal(&cache, &mut l1);
    }
}

/// Logs a change of L2's availability. `logged` is the last logged state: `true` if L2 was available.
fn log_l2_change(cache: &Cache, logged: &mut Option<bool>) {
    match (cache.l2_state(), *logged) {
        (State::Connecting, _) | (State::Up, Some(true)) | (State::Down(_), Some(false)) => {}
        (State::Up, before) => {
            *logged = Some(true);
            if before.is_some() {
                tracing::info!("L2 is available again");
            }
        }
        (State::Down(why), _) => {
            *logged = Some(false);
            if cache.l2_reached() {
                tracing::warn!(why, "L2 is unavailable");
            } else {
                tracing::warn!(why, "L2 is unreachable; the server runs but is not ready until L2 answers");
            }
        }
    }
}

/// Logs the reason why L1 is bypassed. `logged` is the last logged reason.
fn log_l1_refusal(cache: &Cache, logged: &mut Option<String>) {
    let (_, refused) = cache.l1_availability();
    if let Some(why) = refused.as_ref().filter(|_| refused != *logged) {
        tracing::warn!(why, "Redis rejected invalidation tracking; L1 is bypassed unless l1.coherence = \"ttl\"");
    }
    *logged = refused;
}
