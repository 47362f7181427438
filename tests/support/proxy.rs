//! A fault proxy: it forwards TCP from a free loopback port to a target and injects network faults by connection.
//!
//! Bytes of one connection and direction stay in order, as in TCP; between connections any order is possible. [`Who`]
//! selects the connections that a fault applies to: all, those of one [`Link`], or one alone. So the invalidation link
//! can be slow while data is fast, or the reverse, which reorders messages *between links*. The first bytes of a client
//! classify its connection: `HELLO 3` or `CLIENT TRACKING` make it the invalidation link, otherwise it is a data
//! connection.
//!
//! Limits: each direction of a connection holds at most [`QUEUE_CHUNKS`] × [`CHUNK_BYTES`]; beyond that the proxy stops
//! reading, and TCP applies back pressure. Everything ends on drop.
//!
//! It serves a standalone Redis. Sentinels and the nodes of a Cluster announce their own addresses, which bypass the
//! proxy.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

/// Maximum number of bytes read at once.
pub const CHUNK_BYTES: usize = 16 << 10;
/// Maximum number of queued chunks per direction of a connection.
pub const QUEUE_CHUNKS: usize = 64;
/// Maximum number of first bytes of a client that are used to classify its connection.
const PREFACE_BYTES: usize = 1024;
/// Period of sends of a throttled direction.
const THROTTLE_TURN: Duration = Duration::from_millis(20);

/// The purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Requests and replies.
    Data,
    /// Pushes.
    Invalidation,
}

/// A selection of connections; `All` and `Link` include later connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    All,
    Link(Link),
    /// One connection by its number, from [`FaultProxy::connections`].
    One(u64),
}

impl Who {
    fn is(self, id: u64, link: Link) -> bool {
        match self {
            Self::All => true,
            Self::Link(wanted) => wanted == link,
            Self::One(wanted) => wanted == id,
        }
    }
}

/// Faults of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// Delay of each chunk.
    pub delay: Duration,
    /// Maximum random addition to the delay; chunks stay in order.
    pub jitter: Duration,
    /// Bytes per second; `None` = unlimited.
    pub rate: Option<u64>,
    /// Nothing is delivered while this is set.
    pub held: bool,
}

/// Faults of a connection. The default has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// From the client to the target.
    pub up: Flow,
    /// From the target to the client.
    pub down: Flow,
    /// Half-open: bytes of both directions are accepted and lost, and an end of the target is not forwarded. A connection
    /// that has lost bytes stays half-open until its client closes it.
    pub silent: bool,
}

impl Faults {
    fn both(flow: Flow) -> Self {
        Self { up: flow, down: flow, silent: false }
    }

    /// Delays both directions.
    pub fn late(delay: Duration, jitter: Duration) -> Self {
        Self::both(Flow { delay, jitter, ..Flow::default() })
    }

    /// Delays the bytes of the target.
    pub fn late_answers(delay: Duration, jitter: Duration) -> Self {
        Self { down: Flow { delay, jitter, ..Flow::default() }, ..Self::default() }
    }

    /// Delivers nothing and loses nothing.
    pub fn held() -> Self {
        Self::both(Flow { held: true, ..Flow::default() })
    }

    /// Limits the bytes per second of each direction.
    pub fn throttled(bytes_per_second: u64) -> Self {
        Self::both(Flow { rate: Some(bytes_per_second.max(1)), ..Flow::default() })
    }

    /// Accepts and loses everything.
    pub fn half_open() -> Self {
        Self { silent: true, ..Self::default() }
    }
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both sides see the end of the stream.
    Fin,
    /// Both sides see a reset.
    Rst,
}

/// A running proxy.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    refuses: AtomicBool,
    accepted: AtomicU64,
    swallowed: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Faults of new connections, by [`Link`].
    data: Faults,
    invalidation: Faults,
    open: Vec<Arc<Connection>>,
}

impl State {
    fn rules(&mut self, link: Link) -> &mut Faults {
        match link {
            Link::Data => &mut self.data,
            Link::Invalidation => &mut self.invalidation,
        }
    }
}

struct Connection {
    id: u64,
    link: Mutex<Link>,
    faults: watch::Sender<Faults>,
    cut: watch::Sender<Option<Cut>>,
    /// Bytes were lost, so the connection stays half-open.
    deaf: AtomicBool,
}

impl FaultProxy {
    /// Starts a proxy to `127.0.0.1:target`, without faults.
    pub fn start(target: u16) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let proxy = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, target, proxy) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// The port that the proxy listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Sets the faults of connections from now on; queued chunks keep their delay.
    pub fn set(&self, who: Who, faults: Faults) {
        let mut state = self.shared.state.lock();
        for link in [Link::Data, Link::Invalidation] {
            if who == Who::All || who == Who::Link(link) {
                *state.rules(link) = faults;
            }
        }
        for connection in &state.open {
            if who.is(connection.id, *connection.link.lock()) {
                connection.faults.send_replace(faults);
            }
        }
    }

    /// Removes all faults and accepts connections. Half-open connections stay half-open.
    pub fn heal(&self) {
        self.refuse(false);
        self.set(Who::All, Faults::default());
    }

    /// Closes connections; queued bytes are lost.
    pub fn cut(&self, who: Who, cut: Cut) {
        for connection in &self.shared.state.lock().open {
            if who.is(connection.id, *connection.link.lock()) {
                connection.cut.send_replace(Some(cut));
            }
        }
    }

    /// Sets whether new connections are reset at once. (The port stays bound, because another process could take it.)
    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, SeqCst);
    }

    /// Number and link of each open connection.
    pub fn connections(&self) -> Vec<(u64, Link)> {
        self.shared.state.lock().open.iter().map(|connection| (connection.id, *connection.link.lock())).collect()
    }

    /// Number of connections that clients have opened so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(SeqCst)
    }

    /// Number of bytes that half-open connections have lost so far.
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the proxy ended in a panic");
        }
    }
}

async fn accept(listener: std::net::TcpListener, target: u16, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("a listener of this runtime");
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // The process is out of file descriptors, which is temporary.
            sleep(THROTTLE_TURN).await;
            continue;
        };
        let id = shared.accepted.fetch_add(1, SeqCst);
        if shared.refuses.load(SeqCst) {
            reset(&client);
        } else {
            tokio::spawn(serve(client, target, id, Arc::clone(&shared)));
        }
    }
}

/// Makes closing this stream send a reset.
fn reset(stream: &TcpStream) {
    let lingers = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    lingers.expect("a socket can end at once");
}

/// Serves one connection until it ends.
async fn serve(mut client: TcpStream, target: u16, id: u64, shared: Arc<Shared>) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
        return reset(&client);
    };
    for stream in [&client, &server] {
        // This fails only if the peer has closed the connection, which the pumps detect.
        let _gone = stream.set_nodelay(true);
    }
    let connection = shared.enter(id);
    let cut = pump(&connection, &shared, &mut client, &mut server).await;
    if cut == Some(Cut::Rst) {
        reset(&client);
        reset(&server);
    }
    shared.state.lock().open.retain(|open| open.id != id);
}

impl Shared {
    fn enter(&self, id: u64) -> Arc<Connection> {
        let mut state = self.state.lock();
        let connection = Arc::new(Connection {
            id,
            link: Mutex::new(Link::Data),
            faults: watch::Sender::new(state.data),
            cut: watch::Sender::new(None),
            deaf: AtomicBool::new(false),
        });
        state.open.push(Arc::clone(&connection));
        connection
    }

    /// Classifies a connection as an invalidation link.
    fn is_invalidation(&self, connection: &Connection) {
        let state = self.state.lock();
        *connection.link.lock() = Link::Invalidation;
        connection.faults.send_replace(state.invalidation);
    }
}

/// Forwards bytes of both directions until one side ends or the connection is cut.
async fn pump(connection: &Connection, shared: &Shared, client: &mut TcpStream, server: &mut TcpStream) -> Option<Cut> {
    let ((client_reads, client_writes), (server_reads, server_writes)) = (client.split(), server.split());
    let (up, to_server) = mpsc::channel(QUEUE_CHUNKS);
    let (down, to_client) = mpsc::channel(QUEUE_CHUNKS);
    let up = async {
        tokio::join!(
            take(client_reads, up, connection, Way::Up(shared)),
            give(server_writes, to_server, connection, &shared.swallowed, Way::Up(shared))
        );
    };
    let down = async {
        tokio::join!(
            take(server_reads, down, connection, Way::Down),
            give(client_writes, to_client, connection, &shared.swallowed, Way::Down)
        );
        if connection.deaf.load(SeqCst) {
            // The client of a half-open connection does not see its end.
            std::future::pending::<()>().await;
        }
    };
    let mut cut = connection.cut.subscribe();
    tokio::select! {
        () = up => None,
        () = down => None,
        cut = cut.wait_for(Option::is_some) => cut.ok().and_then(|cut| *cut),
    }
}

#[derive(Clone, Copy)]
enum Way<'a> {
    /// From the client: its first bytes classify the connection.
    Up(&'a Shared),
    Down,
}

impl Way<'_> {
    fn of(self, faults: &Faults) -> Flow {
        match self {
            Self::Up(_) => faults.up,
            Self::Down => faults.down,
        }
    }
}

struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

/// Reads until the end, and sets when each chunk is due.
async fn take(mut from: ReadHalf<'_>, queue: mpsc::Sender<Chunk>, connection: &Connection, way: Way<'_>) {
    let mut preface = Vec::new();
    let mut last = Instant::now();
    loop {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        match from.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Way::Up(shared) = way
            && preface.len() < PREFACE_BYTES
        {
            preface.extend_from_slice(&bytes);
            if speaks_of_pushes(&preface) {
                preface.resize(PREFACE_BYTES, 0);
                shared.is_invalidation(connection);
            }
        }
        let flow = way.of(&connection.faults.borrow());
        let due = Instant::now() + flow.delay + flow.jitter.mul_f64(fastrand::f64());
        last = due.max(last);
        if queue.send(Chunk { due: last, bytes }).await.is_err() {
            return;
        }
    }
}

fn speaks_of_pushes(preface: &[u8]) -> bool {
    let has = |words: &[u8]| preface.windows(words.len()).any(|found| found.eq_ignore_ascii_case(words));
    has(b"HELLO\r\n$1\r\n3\r\n") || has(b"TRACKING\r\n")
}

/// Writes the chunks that are due, as the current faults allow.
async fn give(
    mut to: WriteHalf<'_>,
    mut queue: mpsc::Receiver<Chunk>,
    connection: &Connection,
    swallowed: &AtomicU64,
    way: Way<'_>,
) {
    let mut faults = connection.faults.subscribe();
    while let Some(Chunk { due, bytes }) = queue.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        let Ok(now) = faults.wait_for(|faults| !way.of(faults).held).await.map(|now| *now) else { return };
        if now.silent || connection.deaf.load(SeqCst) {
            connection.deaf.store(true, SeqCst);
            swallowed.fetch_add(bytes.len() as u64, SeqCst);
            continue;
        }
        let written = match way.of(&now).rate {
            None => to.write_all(&bytes).await,
            Some(rate) => drip(&mut to, &bytes, rate).await,
        };
        if written.is_err() {
            return;
        }
    }
}

async fn drip(to: &mut WriteHalf<'_>, bytes: &[u8], rate: u64) -> std::io::Result<()> {
    let turns = 1000 / THROTTLE_TURN.as_millis() as u64;
    let piece = usize::try_from(rate.div_ceil(turns)).unwrap_or(usize::MAX);
    for piece in bytes.chunks(piece) {
        to.write_all(piece).await?;
        sleep(THROTTLE_TURN).await;
    }
    Ok(())
}
