//! The extension module of the Python client: a binding of the Rust client. The classes that applications use are in
//! `python/terrace`.

mod client;
mod convert;
mod engine;
mod errors;
mod event_loop;
mod fake;
mod grant;
mod load;
mod reply;
mod request;
mod runner;
mod settings;
mod watch;

/// The extension module.
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use crate::{
        client::CoreClient,
        event_loop::{Call, LoopPort},
        fake::CoreFake,
        grant::Grant,
        load::{Chain, LoadOptions, LoadReply},
        reply::{Entry, Lease},
        settings::{NearCache, Tls},
        watch::{Event, Feed},
    };

    /// Forgets the connections of the parent, and returns their descriptors, which the child has to close. Called in the
    /// child after a fork.
    #[pyo3::pyfunction]
    fn forked() -> Vec<i32> {
        crate::engine::forked();
        terrace_client::bindings::inherited_descriptors()
    }
}
