//! The systemd protocol: takes listeners from socket activation and sends READY and STOPPING. Without systemd, nothing
//! is passed and notifications are skipped.

use sd_notify::NotifyState;

use super::Result;
use crate::server::{Passed, StartError};

/// Returns the listeners that systemd opened, by the names of their sockets.
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
                return Err(fault(format!(
                    "unknown socket name {name:?}; expected FileDescriptorName=grpc, resp or http"
                ))
                .into());
            }
        };
        if place.replace(listener.into_std()).is_some() {
            return Err(fault(format!("duplicate socket name {:?}", name.unwrap_or_default())).into());
        }
    }
    Ok(passed)
}

/// Reports to systemd that the server is ready.
pub(super) fn ready() {
    notify(NotifyState::Ready);
}

/// Reports to systemd that the server drains.
pub(super) fn stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
