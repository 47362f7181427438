//! What systemd passes to a service and wants to hear of it: listeners (socket activation), READY and STOPPING. Elsewhere
//! nothing is passed and nobody hears.

use sd_notify::NotifyState;

use super::Result;
use crate::server::{Passed, StartError};

/// The listeners that systemd opened, by the names that their sockets have.
pub(super) fn passed() -> Result<Passed> {
    let fault = |why: String| StartError::Config(format!("listeners passed by systemd: {why}"));
    let listeners = sd_listen_fds::get().map_err(|error| fault(error.to_string()))?;
    let mut passed = Passed::default();
    for (name, listener) in listeners {
        let place = match name.as_deref() {
            Some("grpc") => &mut passed.grpc,
            Some("resp") => &mut passed.resp,
            Some("http") => &mut passed.http,
            Some(_) | None => {
                let name = name.unwrap_or_default();
                return Err(fault(format!("{name:?} is not grpc, resp or http; set FileDescriptorName=")).into());
            }
        };
        if place.replace(listener.into_std()).is_some() {
            return Err(fault(format!("two of the name {:?}", name.unwrap_or_default())).into());
        }
    }
    Ok(passed)
}

/// The server serves.
pub(super) fn ready() {
    tell(NotifyState::Ready);
}

/// The server drains.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
