//! Keeps the topology map current, and one invalidation link to each primary in it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    cluster::{self, Members},
    invalidation_link::{Link, LinkSettings},
    map::View,
    sentinel::{self, Sentinels},
};
use crate::{
    clock::Clock,
    l2::{
        ChangeSink, InvalidationSink, Source,
        redis::{client::Redis, url::Endpoint},
    },
};

/// Minimum time between two topology refreshes.
const LOOK_APART: Duration = Duration::from_millis(50);

/// The running tasks. Dropping this stops them, and the fences expire.
#[derive(Debug)]
pub struct Following {
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Redis {
    /// Starts to follow the topology and to maintain the invalidation links on the current runtime, until the returned
    /// guard is dropped. With Sentinel and Cluster, no primary is known before. The runtime should not be a worker's
    /// runtime.
    #[must_use]
    pub fn follow(
        self: &Arc<Self>,
        settings: &LinkSettings,
        clock: &Clock,
        sink: Arc<dyn InvalidationSink>,
    ) -> Following {
        let mut tasks = Vec::new();
        if let Some(finder) = Finder::new(self) {
            tasks.push(tokio::spawn(find(finder, Arc::clone(self), Arc::clone(&sink))));
        }
        self.log().set_sink(Arc::clone(&sink));
        let looks = self.backend();
        tasks.push(tokio::spawn(async move { looks.follow_bans().await }));
        let links = Links { redis: Arc::clone(self), settings: settings.clone(), clock: clock.clone(), sink };
        tasks.push(tokio::spawn(links.run()));
        Following { tasks }
    }
}

/// Source of topology views.
enum Finder {
    Sentinels(Sentinels),
    Members(Members),
}

impl Finder {
    fn new(redis: &Redis) -> Option<Self> {
        let dialer = redis.dialer();
        Sentinels::new(redis, dialer).map(Self::Sentinels).or_else(|| Members::new(redis, dialer).map(Self::Members))
    }

    async fn look(&mut self) -> Option<View> {
        match self {
            Self::Sentinels(sentinels) => sentinels.look().await,
            Self::Members(members) => members.look().await,
        }
    }

    fn period(&self) -> Duration {
        match self {
            Self::Sentinels(_) => sentinel::ASK_EVERY,
            Self::Members(_) => cluster::ASK_EVERY,
        }
    }

    fn no_primary(&self) -> String {
        match self {
            Self::Sentinels(sentinels) => sentinels.no_primary(),
            Self::Members(_) => {
                "no member of the Redis Cluster answers and reports a working cluster; retrying".to_owned()
            }
        }
    }
}

/// Refreshes the topology periodically and on request; logs only the first of consecutive failures.
async fn find(mut finder: Finder, redis: Arc<Redis>, sink: Arc<dyn InvalidationSink>) {
    let mut questions = redis.topology().questions();
    let mut told = false;
    loop {
        let number = *questions.borrow_and_update();
        match finder.look().await {
            Some(view) => {
                told = false;
                install(&redis, &view, &*sink);
                redis.topology().answer(number);
            }
            None if told => {}
            None => {
                told = true;
                tracing::warn!(redis = %redis.url(), "{}", finder.no_primary());
            }
        }
        sleep(LOOK_APART).await;
        // The sender is part of the topology, which this task holds, so only a request or the period ends the wait.
        let _asked_or_time = timeout(finder.period(), questions.changed()).await;
    }
}

/// Installs a view and logs changes and errors.
fn install(redis: &Redis, view: &View, sink: &dyn ChangeSink) {
    let before = redis.topology().map().version;
    if let Err(why) = redis.topology().install(view, sink) {
        tracing::error!(why, "rejected new Redis topology; keeping the current one");
    } else if redis.topology().map().version != before {
        let primaries: Vec<String> = view.primaries.iter().map(Endpoint::to_string).collect();
        tracing::info!(primaries = primaries.join(" "), epoch = view.epoch, "Redis topology changed");
    }
}

/// The links of all primaries.
struct Links {
    redis: Arc<Redis>,
    settings: LinkSettings,
    clock: Clock,
    sink: Arc<dyn InvalidationSink>,
}

impl Links {
    async fn run(self) {
        let mut running: HashMap<Source, Link> = HashMap::new();
        let mut changes: watch::Receiver<u64> = self.redis.topology().changes();
        loop {
            changes.mark_unchanged();
            self.adjust(&mut running).await;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the links of removed primaries and starts links to new primaries.
    async fn adjust(&self, running: &mut HashMap<Source, Link>) {
        let map = Arc::clone(&self.redis.topology().map());
        let gone: Vec<Source> = running.keys().filter(|source| map.of_source(**source).is_none()).copied().collect();
        for source in gone {
            if let Some(link) = running.remove(&source) {
                link.end().await;
            }
            self.sink.gone(source);
            self.redis.topology().release(source);
        }
        for primary in &map.primaries {
            running.entry(primary.source).or_insert_with(|| {
                Link::spawn(&self.redis, primary, self.settings.clone(), self.clock.clone(), Arc::clone(&self.sink))
            });
        }
    }
}
