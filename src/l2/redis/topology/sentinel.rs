//! Finds the primary through Sentinels: queries them every second, and immediately when the map may be outdated.
//!
//! All Sentinels are queried. The answer with the highest configuration epoch wins, because an isolated Sentinel keeps
//! reporting the old primary. If only a minority of the Sentinels and the old primary are reachable, the failover
//! cannot be detected: the age of L1 copies is then bounded by `l1.max_age` alone. For this reason, set
//! `min-replicas-to-write` in Redis.

use std::time::Duration;

use ::redis::{Pipeline, Value};

use super::{control_connections::ControlConnections, map::View};
use crate::l2::redis::{
    client::Redis,
    connection::connect::Dialer,
    url::{Endpoint, Target},
};

/// Interval of queries without a refresh request.
pub(crate) const ASK_EVERY: Duration = Duration::from_secs(1);

/// Finds the primary.
pub(crate) struct Sentinels {
    sentinels: Vec<Endpoint>,
    name: String,
    controls: ControlConnections,
    questions: Pipeline,
}

impl Sentinels {
    pub(crate) fn new(redis: &Redis, dialer: &Dialer) -> Option<Self> {
        let Target::Sentinel { sentinels, name } = redis.url().target() else { return None };
        let mut questions = Pipeline::new();
        questions.cmd("SENTINEL").arg("MASTER").arg(name);
        let controls = ControlConnections::new(dialer.to_sentinel());
        Some(Self { sentinels: sentinels.clone(), name: name.clone(), controls, questions })
    }

    /// Queries the Sentinels once. Returns `None` if none of them reports a primary.
    pub(crate) async fn look(&mut self) -> Option<View> {
        let answers = self.controls.ask(&self.sentinels, &self.questions).await;
        let views = answers.iter().filter_map(|(_, replies)| view(replies.first()?));
        views.max_by_key(|view| view.epoch)
    }

    pub(crate) fn no_primary(&self) -> String {
        format!("no Sentinel answers with an address for the primary {:?}; retrying", self.name)
    }
}

/// Decodes the reply of SENTINEL MASTER, a flat list of names and values.
fn view(reply: &Value) -> Option<View> {
    let Value::Array(parts) = reply else { return None };
    let field = |name: &[u8]| {
        let pair = parts.chunks_exact(2).find(|pair| matches!(&pair[0], Value::BulkString(found) if found == name))?;
        let Value::BulkString(bytes) = &pair[1] else { return None };
        std::str::from_utf8(bytes).ok()
    };
    let endpoint = Endpoint::Tcp(field(b"ip")?.to_owned(), field(b"port")?.parse().ok()?);
    Some(View { epoch: field(b"config-epoch")?.parse().ok()?, primaries: vec![endpoint], slots: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_read_by_name() {
        let words = ["name", "m", "ip", "10.1.2.3", "port", "6390", "flags", "master", "config-epoch", "7"];
        let reply = Value::Array(words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect());
        let expected = Endpoint::Tcp("10.1.2.3".to_owned(), 6390);
        assert_eq!(view(&reply), Some(View { epoch: 7, primaries: vec![expected], slots: None }));
        assert_eq!(view(&Value::Array(vec![])), None);
        assert_eq!(view(&Value::Nil), None);
    }
}
