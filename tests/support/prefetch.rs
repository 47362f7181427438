//! Users with profiles, as prefetch tests read them: each read of a user is followed by a read of the user's profile.

use redis::{Commands, Connection};
use terrace::{
    cache::policy::{Policy, Prefetch},
    config::Config,
    glob::Glob,
    proto::{PredictRequest, Prediction, insight_client::InsightClient},
};

use super::{
    grpc::{block_on, connect},
    node::wait_until_open,
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config_patient},
};

/// Users that are read to learn from.
pub const TAUGHT: std::ops::Range<u32> = 10_000..10_300;
/// Users that nobody has read yet.
pub const NEW: std::ops::Range<u32> = 20_000..21_600;

/// Writes users with their profiles to Redis, past Terrace.
pub fn write(redis: &RedisServer, users: impl Iterator<Item = u32>) {
    let mut below = redis.connect();
    let mut all = redis::pipe();
    for user in users {
        for kind in ["user", "profile"] {
            all.set(format!("{kind}:{user}"), format!("{kind} of {user}")).ignore();
        }
    }
    all.exec(&mut below).expect("written");
}

/// A Redis with users and profiles.
pub fn redis_with_users() -> RedisServer {
    let redis = RedisServer::start();
    write(&redis, TAUGHT.chain(NEW));
    redis
}

/// The configuration of a node over this Redis, with one worker and this prefetch mode for all keys.
pub fn over(redis: &RedisServer, prefetch: Prefetch) -> Config {
    let mut config = config_patient(redis.url());
    config.server.workers = 1;
    config.policies = vec![Policy { prefetch, ..Policy::of(Glob::new(b"*").expect("a pattern")) }];
    config
}

/// A node over a Redis, after it has read the users of [`TAUGHT`] with their profiles.
pub fn taught(prefetch: Prefetch) -> (RedisServer, Terrace, Connection) {
    let redis = redis_with_users();
    let terrace = Terrace::start(over(&redis, prefetch));
    let client = teach(&terrace);
    (redis, terrace, client)
}

/// Reads the users of [`TAUGHT`] with their profiles, once L1 may answer.
pub fn teach(terrace: &Terrace) -> Connection {
    wait_until_open(terrace);
    let mut client = connection(terrace.resp());
    TAUGHT.for_each(|user| read(&mut client, user));
    client
}

/// Reads a user, then its profile.
pub fn read(client: &mut Connection, user: u32) {
    for kind in ["user", "profile"] {
        let value: String = client.get(format!("{kind}:{user}")).expect("an answer");
        assert_eq!(value, format!("{kind} of {user}"));
    }
}

/// The prediction of this user's profile that a miss of the user would cause now.
pub fn predicted(terrace: &Terrace, user: u32) -> Option<Prediction> {
    let (asked, profile) = (format!("user:{user}"), format!("profile:{user}"));
    let predictions = block_on(async {
        let mut insight = InsightClient::new(connect(terrace.grpc()).await);
        insight.predict(PredictRequest { key: asked.into() }).await.expect("an answer").into_inner().predictions
    });
    predictions.into_iter().find(|prediction| prediction.key == profile)
}

/// New users whose profile a miss of the user would prefetch: not those that the control group leaves out.
pub fn fetched(terrace: &Terrace) -> impl Iterator<Item = u32> {
    NEW.filter(|&user| predicted(terrace, user).is_some_and(|prediction| prediction.fetched))
}
