//! MEMORY: memory used by keys and by the process.

use super::{DB_L1, integer, is};
use crate::{
    cache::Flavor,
    resp::{
        command::Context,
        frame::Args,
        process,
        reply::{Done, Refusal},
    },
};

/// Overhead of the embedded store per entry in bytes, in addition to the key (twice) and the value (see `l2/embedded`).
const BESIDE_BYTES: u64 = 107;

/// MEMORY USAGE key [SAMPLES count]: the weight of the L1 copy, or the size in L2 if L1 has no copy.
pub(in crate::resp) async fn usage(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    check_samples(args.from(3))?;
    let key = args.at(2);
    if cx.session.db <= DB_L1
        && let Some(resident) = cx.edge.cache.resident(key)
    {
        cx.reply.count(resident.weight_bytes);
        return Ok(());
    }
    if cx.session.db == 0 && cx.edge.cache.flavor() == Flavor::Redis {
        return cx.ask_redis(args).await;
    }
    match cx.describe(key).await? {
        Some(described) => cx.reply.count(described.size_bytes + 2 * key.len() as u64 + BESIDE_BYTES),
        None => cx.reply.null(),
    }
    Ok(())
}

fn check_samples(options: Args<'_>) -> Done {
    for at in (0..options.len()).step_by(2) {
        match (options.at(at), options.get(at + 1)) {
            (word, Some(count)) if is(word, "samples") => {
                if integer(count)? < 0 {
                    return Err(Refusal::Syntax);
                }
            }
            (_, _) => return Err(Refusal::Syntax),
        }
    }
    Ok(())
}

/// MEMORY STATS
pub(in crate::resp) async fn stats(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let (memory, l1) = (process::memory(), cx.edge.cache.l1_usage());
    let keys = cx.edge.cache.count().await.unwrap_or(0);
    let clients: usize = cx.edge.shared.clients().iter().map(|client| client.buffer_bytes()).sum();
    let numbers = [
        ("peak.allocated", cx.edge.shared.note_peak(memory.used_bytes)),
        ("total.allocated", memory.used_bytes),
        ("clients.normal", clients as u64),
        ("keys.count", keys),
        ("keys.bytes-per-key", l1.bytes / l1.entries.max(1)),
        ("dataset.bytes", l1.bytes),
        ("l1.entries", l1.entries),
        ("l1.capacity", l1.capacity_bytes),
        ("allocator.resident", memory.resident_bytes),
    ];
    cx.reply.map(numbers.len());
    for (name, number) in numbers {
        cx.reply.bulk(name.as_bytes());
        cx.reply.count(number);
    }
    Ok(())
}

/// MEMORY DOCTOR
pub(in crate::resp) fn doctor(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let (memory, l1) = (process::memory(), cx.edge.cache.l1_usage());
    let text = if l1.bytes * 100 < l1.capacity_bytes * 95 {
        format!(
            "L1 holds {} of {} bytes and does not evict entries. The process has {} bytes resident.\n",
            l1.bytes, l1.capacity_bytes, memory.resident_bytes
        )
    } else {
        format!(
            "L1 is full ({} bytes) and evicts entries. Run `terrace simulate` with a trace to estimate the hit rate of a \
             larger l1.size. The process has {} bytes resident.\n",
            l1.bytes, memory.resident_bytes
        )
    };
    cx.reply.verbatim(&text);
    Ok(())
}

/// MEMORY PURGE: has no effect, because the allocator returns memory automatically.
pub(in crate::resp) fn purge(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.ok();
    Ok(())
}

/// MEMORY MALLOC-STATS
pub(in crate::resp) fn malloc_stats(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let memory = process::memory();
    let text = format!(
        "allocator: {}\nallocated: {} bytes\nresident: {} bytes\n",
        process::ALLOCATOR,
        memory.used_bytes,
        memory.resident_bytes
    );
    cx.reply.verbatim(&text);
    Ok(())
}
