//! `terrace top`: a live view of a running server in the terminal.
//!
//! One task waits for the next message of WatchStats, a key press or the end. A dedicated thread reads the keyboard,
//! because terminal reads block. Its queue is short, and the thread ends with the process.

use std::{io::IsTerminal, time::Duration};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use terrace_client::Channel;

use super::{
    Failure, Result,
    connection::ServerArgs,
    stats::{connect, refused},
};
use crate::{
    grpc::client::InsightClient,
    proto::{SimulateCapacityRequest, TopBy, TopKeysRequest, WatchStatsRequest},
};
use screen::{Screen, State};

mod screen;

/// Number of keys to request: more than the largest terminal shows.
const TOP_KEYS: u32 = 100;
/// Maximum number of key presses in the queue.
const PRESSES_WAITING: usize = 16;

/// Show live statistics of a running server in the terminal: rates, hit rates, key groups, hot keys and L2.
///
/// Keyboard: q quits; s and S select the sort column of the key groups, r reverses the order; k selects the ranking of the
/// hot keys; w selects the time window; / filters key groups and keys by a part of the name, Esc clears the filter.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Refresh interval.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

pub(super) fn run(args: Args) -> Result {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::new("stdout is not a terminal; use terrace stats instead"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let client = runtime.block_on(connect(&args.server))?;
    let mut terminal = ratatui::try_init().map_err(Failure::new)?;
    let shown = runtime.block_on(show(&args, client, &mut terminal));
    ratatui::restore();
    // The keyboard thread still waits for a key press.
    runtime.shutdown_background();
    shown
}

async fn show(args: &Args, mut client: InsightClient<Channel>, terminal: &mut ratatui::DefaultTerminal) -> Result {
    let interval_ms = i64::try_from(args.interval.as_millis()).ok();
    let request = WatchStatsRequest { interval_ms };
    let mut messages = client.watch_stats(request).await.map_err(refused)?.into_inner();
    let mut presses = presses();
    let mut state = State::new(&args.server.address);
    loop {
        terminal.draw(|frame| Screen(&state).draw(frame)).map_err(Failure::new)?;
        tokio::select! {
            message = messages.message() => {
                let Some(message) = message.map_err(refused)? else {
                    return Err(Failure::new(format_args!("the server {} is stopping", args.server)));
                };
                state.took(message.stats.unwrap_or_default());
                ask(&mut client, &mut state).await?;
            }
            press = presses.recv() => match press {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                    let by = state.by();
                    if is_interrupt || state.pressed(key.code) {
                        return Ok(());
                    }
                    if state.by() != by {
                        ask(&mut client, &mut state).await?;
                    }
                }
                // The terminal was resized: the next frame uses the new size.
                Some(_) => {}
                None => return Err(Failure::new("the terminal was closed")),
            },
        }
    }
}

/// Requests the data that WatchStats messages do not contain.
async fn ask(client: &mut InsightClient<Channel>, state: &mut State) -> Result {
    let by: TopBy = state.by();
    let request = TopKeysRequest { by: by.into(), count: TOP_KEYS };
    let top = client.top_keys(request).await.map_err(refused)?.into_inner();
    let capacity = client.simulate_capacity(SimulateCapacityRequest {}).await.map_err(refused)?.into_inner();
    state.asked(top, capacity);
    Ok(())
}

fn presses() -> mpsc::Receiver<Event> {
    let (sender, presses) = mpsc::channel(PRESSES_WAITING);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    presses
}

fn interval(text: &str) -> std::result::Result<Duration, String> {
    super::duration_in(Duration::from_millis(100)..=Duration::from_secs(3_600), "100ms to 1h, such as 1s", text)
}
