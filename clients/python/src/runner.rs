//! Operations with loaders: who runs the loader, and how the caller waits.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use pyo3::prelude::*;
use tokio::sync::mpsc;

use crate::{
    client::CoreClient,
    engine::Process,
    errors::exception,
    event_loop::{LoopPort, Port},
    load::{Chain, LoadReply},
    reply::Decoding,
    request::{Reply, Request, Running},
};

/// Runs an operation as a part of a load.
pub(crate) fn linked<T: Send + 'static>(
    chain: Option<Py<Chain>>,
    operation: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send + 'static {
    let chain = chain.map(|chain| chain.get().0.clone());
    async {
        match chain {
            Some(chain) => chain.within(operation).await,
            None => operation.await,
        }
    }
}

/// Place where the loaders of an operation run.
#[derive(Clone)]
pub(crate) struct Dispatch {
    run: Arc<Py<PyAny>>,
    place: Place,
}

#[derive(Clone)]
enum Place {
    /// The event loop.
    Loop(Arc<Port>),
    /// The thread of the caller while it waits, otherwise the pool.
    Threads { caller: Option<mpsc::UnboundedSender<LoadReply>>, process: &'static Process },
}

impl Dispatch {
    /// Begins a load, from the task of the load.
    pub(crate) fn begin(&self, reply: LoadReply) {
        let run = Arc::clone(&self.run);
        match &self.place {
            Place::Loop(port) => port.load(run, reply),
            Place::Threads { caller, process } => {
                let rejected = match caller {
                    Some(caller) => caller.send(reply).err().map(|rejected| rejected.0),
                    None => Some(reply),
                };
                if let Some(reply) = rejected {
                    process.pool.run(run, reply);
                }
            }
        }
    }
}

/// Executes an operation with a loader.
pub(crate) struct Runner {
    pub(crate) dispatch: Dispatch,
    /// Loads that the thread of the caller runs.
    loads: Option<mpsc::UnboundedReceiver<LoadReply>>,
}

/// End of a wait: the result of the operation, or a load for the caller to run.
enum Turn {
    Done(terrace_client::Result<Reply>),
    Load(LoadReply),
}

impl Runner {
    /// Prepares an operation. `in_background`: the caller does not run loads.
    pub(crate) fn of(slf: &Bound<'_, CoreClient>, run: Py<PyAny>, in_background: bool) -> PyResult<Self> {
        let (py, core, run) = (slf.py(), slf.get(), Arc::new(run));
        if core.is_async {
            let port = LoopPort::of_running_loop(py, &core.port)?;
            let place = Place::Loop(Arc::clone(&port.get().port));
            return Ok(Self { dispatch: Dispatch { run, place }, loads: None });
        }
        let process = core.started(py)?.process;
        let (caller, loads) = mpsc::unbounded_channel();
        let caller = Some(caller).filter(|_| !in_background);
        Ok(Self { dispatch: Dispatch { run, place: Place::Threads { caller, process } }, loads: Some(loads) })
    }

    pub(crate) fn run(self, slf: &Bound<'_, CoreClient>, request: Request, decoding: Decoding) -> PyResult<Py<PyAny>> {
        let (py, core) = (slf.py(), slf.get());
        let Self { dispatch, loads } = self;
        let Some(mut loads) = loads else { return core.run(slf, request, decoding) };
        let started = core.started(py)?;
        let client = started.client_of_thread();
        let mut running = {
            let _context = started.runtime.enter();
            request.begin(&client)
        };
        let result = wait(py, started.process, &mut running, &mut loads, &dispatch.run);
        // A refresh that was begun for this caller does not need it.
        loads.close();
        while let Ok(reply) = loads.try_recv() {
            started.process.pool.run(Arc::clone(&dispatch.run), reply);
        }
        core.within(|| drop(running));
        decoding.object(py, result?.map_err(|error| exception(py, &error))?, slf)
    }
}

/// Waits for an operation, and runs its loads.
fn wait(
    py: Python<'_>,
    process: &'static Process,
    running: &mut Running,
    loads: &mut mpsc::UnboundedReceiver<LoadReply>,
    run: &Py<PyAny>,
) -> PyResult<terrace_client::Result<Reply>> {
    loop {
        let turn = poll_fn(|context| {
            if let Poll::Ready(result) = Pin::new(&mut *running).poll(context) {
                return Poll::Ready(Turn::Done(result));
            }
            match loads.poll_recv(context) {
                Poll::Ready(Some(reply)) => Poll::Ready(Turn::Load(reply)),
                // All senders are dropped: no load will come.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        });
        match process.blocking()?.wait(py, turn)? {
            Turn::Done(result) => return Ok(result),
            Turn::Load(reply) => drop(run.call1(py, (reply, false))?),
        }
    }
}
