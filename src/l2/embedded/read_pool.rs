//! [`ReadPool`]: the threads that run scans, large reads, and all reads while the disk is slow.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use super::errors::{late, overloaded, stopped};
use crate::error::{CacheError, Kind, Result};

/// Number of reader threads: one may wait for the disk while the other serves reads from memory.
const THREADS: usize = 2;
/// Maximum number of reads that wait for a reader thread. Further reads are rejected as overloaded. At 10 µs per read the
/// last of them waits about 5 ms.
const WAITING_MAX: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// Reader threads with one bounded queue.
pub(super) struct ReadPool {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl ReadPool {
    /// Starts the threads.
    pub(super) fn start() -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(WAITING_MAX);
        let queue = Arc::new(Mutex::new(queue));
        let thread = |number| {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(format!("l2-read-{number}")).spawn(move || work(&queue))
        };
        let threads = (0..THREADS).map(thread).collect::<std::io::Result<_>>()?;
        Ok(Self { jobs: Some(jobs), threads })
    }

    /// Runs `read` on one of the threads and waits for it for at most `deadline`.
    ///
    /// # Errors
    /// `Overloaded` if the queue is full, `DeadlineExceeded`, and the errors of `read`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        deadline: Duration,
        read: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            // No caller waits for the result any more, so the read is skipped.
            if !answer.is_closed() {
                let _ = answer.send(read());
            }
        });
        match self.jobs.as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => return Err(overloaded()),
            Some(Err(TrySendError::Disconnected(_))) | None => return Err(stopped()),
        }
        match timeout(deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(CacheError::new(Kind::Internal, "a read of the embedded store ended without a result")),
            Err(_) => Err(late(deadline)),
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while the thread waits for a job, not while it runs the job: the other threads wait for the
        // lock.
        let job = queue.lock().recv();
        let Ok(job) = job else { return };
        // A panic ends only this read; the caller detects the closed channel.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}

impl Drop for ReadPool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
