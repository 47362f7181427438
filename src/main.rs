//! The `terrace` command.

use std::process::ExitCode;

/// A cache allocates and frees all day: jemalloc keeps fragmentation low and gives memory back.
#[cfg(all(feature = "jemalloc", not(feature = "mimalloc")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(all(feature = "jemalloc", not(feature = "mimalloc")))]
    give_memory_back();
    terrace::cli::run()
}

/// Lets a thread of jemalloc's return freed pages after two seconds (its default is ten, and only while the
/// application allocates): what L1 frees comes back within seconds, also on an idle server.
#[cfg(all(feature = "jemalloc", not(feature = "mimalloc")))]
fn give_memory_back() {
    use tikv_jemalloc_ctl::{Access, AsName};

    const DECAY_MS: isize = 2000;
    let settings = [
        tikv_jemalloc_ctl::background_thread::write(true),
        "arenas.dirty_decay_ms\0".name().write(DECAY_MS),
        "arenas.muzzy_decay_ms\0".name().write(DECAY_MS),
        // The main thread's arena exists already and does not follow the default for new ones.
        "arena.0.dirty_decay_ms\0".name().write(DECAY_MS),
        "arena.0.muzzy_decay_ms\0".name().write(DECAY_MS),
    ];
    for refused in settings.into_iter().filter_map(Result::err) {
        // Nothing depends on it but the size of an idle process.
        eprintln!("jemalloc keeps its default: {refused}");
    }
}
