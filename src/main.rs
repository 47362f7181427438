//! The `terrace` command.

use std::process::ExitCode;

/// jemalloc keeps fragmentation low and returns memory to the system, because a cache allocates and frees all the time.
#[cfg(all(feature = "jemalloc", not(feature = "mimalloc")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(all(feature = "jemalloc", not(feature = "mimalloc")))]
    terrace::allocator::return_freed_pages();
    terrace::cli::run()
}
