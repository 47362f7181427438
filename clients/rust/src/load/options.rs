//! Options of loads.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    convert::{IntoBytes, all},
    error::{Error, Result},
};

/// Default time to wait for the load of another client.
pub const WAIT: Duration = Duration::from_secs(3);
/// Default deadline of a load.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What `get_or_load` does if no node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnUnavailable {
    /// Loads from the origin without storing the result, with at most [`DIRECT_LOADS_MAX`](crate::DIRECT_LOADS_MAX) such
    /// loads at a time per process.
    #[default]
    Load,
    /// Returns the last copy of the near cache, although nobody can confirm that it is still valid; the error if there is
    /// none.
    Stale,
    /// Returns the error.
    Error,
}

/// Options of loads: how long the loaded values live, and what happens if a load is slow or fails.
///
/// ```
/// use std::time::Duration;
/// use terrace_client::LoadOptions;
///
/// let options = LoadOptions::new().ttl(Duration::from_secs(300)).stale(Duration::from_secs(3600)).tags(["team:7"]);
/// ```
#[derive(Debug, Clone)]
#[must_use = "options do nothing until they are used"]
pub struct LoadOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) stale: Option<Duration>,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) tags: Vec<Bytes>,
    pub(crate) lease: Option<Duration>,
    pub(crate) wait: Duration,
    pub(crate) soft_timeout: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) on_unavailable: OnUnavailable,
    pub(crate) shares_errors: bool,
    pub(crate) refresh: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            ttl: None,
            stale: None,
            negative_ttl: None,
            tags: Vec::new(),
            lease: None,
            wait: WAIT,
            soft_timeout: Duration::ZERO,
            load_timeout: LOAD_TIMEOUT,
            on_unavailable: OnUnavailable::default(),
            shares_errors: false,
            refresh: false,
        }
    }
}

/// Maximum TTL and stale part: the limit of the server, 100 years.
const LIFE_MAX: Duration = Duration::from_millis(3_153_600_000_000);

/// Checks a TTL or a stale part before the load: the server would refuse to store the loaded value.
///
/// # Errors
/// `InvalidArgument` with the value and what is accepted.
pub(crate) fn check_life(name: &str, life: Option<Duration>, least: Duration) -> Result<()> {
    match life {
        Some(life) if life < least || life > LIFE_MAX => {
            let text = format!("{name} is {life:?}; expected {least:?} to 100 years, or no {name}");
            Err(Error::invalid(text))
        }
        Some(_) | None => Ok(()),
    }
}

impl LoadOptions {
    /// Checks the TTLs.
    ///
    /// # Errors
    /// `InvalidArgument` with the value and what is accepted.
    pub(crate) fn check(&self) -> Result<()> {
        const MS: Duration = Duration::from_millis(1);
        check_life("ttl", self.ttl, MS)?;
        check_life("negative_ttl", self.negative_ttl, MS)?;
        check_life("stale", self.stale, Duration::ZERO)
    }

    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Adds the setters of [`LoadOptions`]. `$options` is the path from `self` to the options.
macro_rules! setters {
    ($this:ident => $options:expr) => {
        /// Sets the TTL of loaded values, at least 1 ms. Default: `default_ttl` of the policy on the server, otherwise
        /// values do not expire.
        pub fn ttl(mut self, ttl: std::time::Duration) -> Self {
            let $this = &mut self;
            $options.ttl = Some(ttl);
            self
        }

        /// Keeps values for this time after their TTL. They are returned at once then, and one client loads a new value in
        /// the background. Default: `stale` of the policy.
        pub fn stale(mut self, stale: std::time::Duration) -> Self {
            let $this = &mut self;
            $options.stale = Some(stale);
            self
        }

        /// Stores for this time that the origin does not have the key. Default: `negative_ttl` of the policy; without one,
        /// absent keys are loaded each time.
        pub fn negative_ttl(mut self, ttl: std::time::Duration) -> Self {
            let $this = &mut self;
            $options.negative_ttl = Some(ttl);
            self
        }

        /// Sets the exclusive time of a load, 100 ms to 300 s: after it, another client may load the key. Default: learned
        /// by the server.
        pub fn lease(mut self, lease: std::time::Duration) -> Self {
            let $this = &mut self;
            $options.lease = Some(lease);
            self
        }

        /// Sets the maximum time to wait for the load of another client, and for permission of a load without the cache.
        /// Default: [`WAIT`](crate::WAIT).
        pub fn wait(mut self, wait: std::time::Duration) -> Self {
            let $this = &mut self;
            $options.wait = $crate::convert::bounded(wait);
            self
        }

        /// Waits this long for the refresh of a value that is in its stale part, before the stale value is returned.
        /// Default: zero, which returns the stale value at once.
        pub fn soft_timeout(mut self, timeout: std::time::Duration) -> Self {
            let $this = &mut self;
            $options.soft_timeout = $crate::convert::bounded(timeout);
            self
        }

        /// Ends loads that take longer. Default: [`LOAD_TIMEOUT`](crate::LOAD_TIMEOUT).
        pub fn load_timeout(mut self, timeout: std::time::Duration) -> Self {
            let $this = &mut self;
            $options.load_timeout = $crate::convert::bounded(timeout);
            self
        }

        /// Sets the behavior if no node answers. Default: [`OnUnavailable::Load`](crate::OnUnavailable::Load).
        pub fn on_unavailable(mut self, behavior: $crate::OnUnavailable) -> Self {
            let $this = &mut self;
            $options.on_unavailable = behavior;
            self
        }

        /// Sends the text of a load's error to the clients that wait for the load, at most 256 bytes. All clients that may
        /// read the key can see it. Default: `false`, which sends the name of the error's type.
        pub fn share_errors(mut self, share: bool) -> Self {
            let $this = &mut self;
            $options.shares_errors = share;
            self
        }
    };
}
pub(crate) use setters;

impl LoadOptions {
    setters!(this => this);

    /// Sets the tags of loaded values: at most 16, with 1 to 128 bytes each. An invalidation of a tag during a load makes the
    /// loaded value invalid.
    pub fn tags<T: IntoBytes>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = all(tags);
        self
    }
}
