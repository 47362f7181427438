//! Resets connections that hold memory without progress ([`Budget::inspect`]).

use std::time::Duration;

use crate::budget::Budget;

/// Interval of inspections: short in comparison with the timeout of an unread answer.
const PERIOD: Duration = Duration::from_millis(100);

/// Inspects until the future is dropped.
pub async fn run(budget: Budget) {
    let mut ticks = super::ticks(PERIOD);
    loop {
        ticks.tick().await;
        budget.inspect();
    }
}
