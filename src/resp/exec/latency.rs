//! LATENCY and its subcommands: events over the threshold `latency-monitor-threshold`, and durations of commands.

use crate::resp::{
    command::{Context, readable},
    frame::Args,
    lookup::find_subcommand,
    reply::{Done, Refusal},
    slow::LatencyEvent,
};

/// LATENCY LATEST
pub(in crate::resp) fn latest(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let events = cx.edge.shared.slow.events();
    cx.reply.array(events.len());
    for (name, event) in &events {
        let (at, ms) = event.samples.back().copied().unwrap_or_default();
        cx.reply.array(4);
        cx.reply.bulk(name.as_bytes());
        [at, ms, event.max_ms].into_iter().for_each(|number| cx.reply.count(number));
    }
    Ok(())
}

/// LATENCY HISTORY event
pub(in crate::resp) fn history(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let events = cx.edge.shared.slow.events();
    let event = events.iter().find(|(name, _)| args.at(2).eq_ignore_ascii_case(name.as_bytes()));
    let samples = event.map(|(_, event)| &event.samples).into_iter().flatten();
    cx.reply.array(samples.clone().count());
    for (at, ms) in samples {
        cx.reply.array(2);
        cx.reply.count(*at);
        cx.reply.count(*ms);
    }
    Ok(())
}

/// LATENCY RESET [event ...]
pub(in crate::resp) fn reset(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let names: Vec<&[u8]> = args.from(2).iter().collect();
    let forgotten = cx.edge.shared.slow.forget(&names);
    cx.reply.count(forgotten);
    Ok(())
}

/// LATENCY HISTOGRAM [command ...]: commands with calls, each with the number of calls that took at most 1, 2, 4 ...
/// µs.
pub(in crate::resp) fn histogram(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let commands = cx.edge.commands;
    let mut found: Vec<(&str, usize)> = Vec::new();
    if args.len() == 2 {
        found.extend(commands.numbers().map(|number| (commands.name_of(number), number)));
    }
    for name in args.from(2).iter() {
        let Some(container) = commands.find(name) else { continue };
        found.push((container.row.name, container.number));
        let subcommands = container.row.subcommands.iter();
        let numbered = subcommands.filter_map(|row| find_subcommand(container.row, row.short_name().as_bytes()));
        found.extend(numbered.map(|sub| (sub.row.name, sub.number)));
    }
    let statistics = &cx.edge.shared.statistics;
    let called: Vec<_> =
        found.into_iter().filter_map(|(name, number)| Some((name, statistics.durations(number)?))).collect();
    cx.reply.map(called.len());
    for (name, durations) in called {
        let total = durations.count();
        let mut buckets = Vec::new();
        for power in 0..40 {
            let within = durations.within_us(1000 << power);
            let before = buckets.last().map_or(0, |(_, count)| *count);
            if within > before {
                buckets.push((1u64 << power, within));
            }
            if within == total {
                break;
            }
        }
        cx.reply.bulk(name.as_bytes());
        cx.reply.map(2);
        cx.reply.bulk(b"calls");
        cx.reply.count(total);
        cx.reply.bulk(b"histogram_usec");
        cx.reply.map(buckets.len());
        for (us, count) in buckets {
            cx.reply.count(us);
            cx.reply.count(count);
        }
    }
    Ok(())
}

/// LATENCY GRAPH event: the samples of the event, one per line.
pub(in crate::resp) fn graph(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let events = cx.edge.shared.slow.events();
    let event = events.iter().find(|(name, _)| args.at(2).eq_ignore_ascii_case(name.as_bytes()));
    let Some((name, event)) = event else {
        let name = readable(args.at(2), 128);
        return Err(Refusal::text(format!("ERR No samples available for event '{name}'")));
    };
    let text = draw(name, event);
    cx.reply.verbatim(&text);
    Ok(())
}

fn draw(name: &str, event: &LatencyEvent) -> String {
    const WIDTH: u64 = 40;
    let high = event.samples.iter().map(|(_, ms)| *ms).max().unwrap_or(0);
    let mut text = format!("{name} - high {high} ms (all time high {} ms)\n", event.max_ms);
    for (at, ms) in &event.samples {
        let bar = usize::try_from(ms * WIDTH / high.max(1)).unwrap_or(0);
        text.push_str(&format!("{at} {ms:>6} ms {}\n", "#".repeat(bar)));
    }
    text
}

/// LATENCY DOCTOR
pub(in crate::resp) fn doctor(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let slow = &cx.edge.shared.slow;
    let events = slow.events();
    let threshold = slow.latency_ms.load(std::sync::atomic::Ordering::Relaxed);
    let text = match (threshold, events.is_empty()) {
        (0, _) => {
            "Latency monitoring is disabled. Use CONFIG SET latency-monitor-threshold <milliseconds> to enable it; \
                   LATENCY HISTOGRAM and INFO latencystats need no threshold.\n"
                .to_owned()
        }
        (_, true) => format!("No event took {threshold} ms or longer.\n"),
        (_, false) => events.iter().map(|(name, event)| draw(name, event)).collect(),
    };
    cx.reply.verbatim(&text);
    Ok(())
}
