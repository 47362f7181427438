//! Settings of the memory allocator.

/// Makes a jemalloc thread return freed pages to the system after two seconds, also on an idle server. By default it
/// returns them after ten seconds, and only while the application allocates.
#[cfg(feature = "jemalloc")]
pub fn return_freed_pages() {
    use tikv_jemalloc_ctl::{Access, AsName};

    const DECAY_MS: isize = 2000;
    let settings = [
        tikv_jemalloc_ctl::background_thread::write(true),
        "arenas.dirty_decay_ms\0".name().write(DECAY_MS),
        "arenas.muzzy_decay_ms\0".name().write(DECAY_MS),
        // The main thread's arena already exists, so the default for new arenas does not apply to it.
        "arena.0.dirty_decay_ms\0".name().write(DECAY_MS),
        "arena.0.muzzy_decay_ms\0".name().write(DECAY_MS),
    ];
    for refused in settings.into_iter().filter_map(Result::err) {
        // Not fatal: only the memory use of an idle process depends on the setting.
        eprintln!("jemalloc rejected the page decay time; keeping its default: {refused}");
    }
}
