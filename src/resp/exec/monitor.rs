//! MONITOR.

use std::sync::atomic::Ordering::Relaxed;

use crate::resp::{
    command::Context,
    frame::Args,
    reply::{Done, Refusal},
};

/// MONITOR
pub(in crate::resp) fn monitor(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    if cx.session.in_exec {
        return Err(Refusal::text("ERR MONITOR isn't allowed for DENY BLOCKING client"));
    }
    let client = &cx.session.client;
    if !client.monitors.swap(true, Relaxed) {
        cx.edge.shared.monitors.add(client);
    }
    cx.reply.ok();
    Ok(())
}
