//! Settings of a client, and its builder.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderValue;

use crate::{
    Client, Target,
    convert::bounded,
    engine::connection::Channel,
    error::{Error, ErrorKind, Result},
    near::NearCache,
    net::{address::Address, tls::Tls},
};

/// Default deadline of reads.
pub const READ_TIMEOUT: Duration = Duration::from_millis(250);
/// Default deadline of writes.
pub const WRITE_TIMEOUT: Duration = Duration::from_millis(500);
/// Default deadline of an attempt to connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Default maximum size in bytes of a message from the server, four times the default of the server.
pub const MESSAGE_MAX: usize = 64 << 20;
/// Maximum size of a token in bytes, which gRPC sends as a header.
const TOKEN_MAX: usize = 1_024;

/// Selection of the node of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Routing {
    /// The key selects the node (rendezvous hashing), unless the node has much more to do than the others. The L1 tiers
    /// of all nodes form one large L1.
    #[default]
    Key,
    /// The node with the fewest operations in progress. Each node may hold each hot key in L1.
    Any,
}

/// Source of the token.
#[derive(Clone)]
pub(crate) enum Token {
    Text(String),
    /// A file, read again for each connection.
    File(PathBuf),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(***)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) routing: Routing,
    pub(crate) tls: Option<Tls>,
    pub(crate) token: Option<Token>,
    pub(crate) read_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) message_max: usize,
    pub(crate) retry_writes: bool,
    pub(crate) near: Option<NearCache>,
}

impl Settings {
    /// Returns the header that authenticates the calls to a node.
    ///
    /// # Errors
    /// The token cannot be read, has characters that a header cannot carry, or would be readable on its way.
    pub(crate) fn authorization(&self, address: &Address) -> Result<Option<HeaderValue>> {
        let Some(token) = &self.token else { return Ok(None) };
        if self.tls.is_none() && !address.is_local() {
            let text = format!("{address}: a token is sent only with TLS, to a loopback address or to a Unix socket");
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        let token = match token {
            Token::Text(text) => text.clone(),
            Token::File(path) => read_token(path).map_err(|why| Error::new(ErrorKind::Unauthenticated, why))?,
        };
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Error::invalid("the token contains characters that a header cannot carry"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Reads the token in the first line of a file, or returns the reason why it cannot be used.
fn read_token(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let text = read_start(path, TOKEN_MAX as u64 + 2).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    if line.is_empty() || line.len() > TOKEN_MAX {
        let seen = if line.is_empty() { "is empty" } else { "is too long" };
        return Err(format!("the first line of {shown} {seen}; expected a token of 1 to {TOKEN_MAX} bytes"));
    }
    String::from_utf8(line.to_vec()).map_err(|_| format!("the first line of {shown} is not text"))
}

/// Reads the first bytes of a regular file. A pipe could block the caller.
fn read_start(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut start = Vec::new();
    fs::File::open(path)?.take(bytes).read_to_end(&mut start)?;
    Ok(start)
}

/// Settings of a [`Client`] that is not connected yet.
///
/// ```no_run
/// # async fn example() -> terrace_client::Result<()> {
/// use std::time::Duration;
/// use terrace_client::{Client, Routing, Tls};
///
/// let client = Client::builder("cache-a:7400,cache-b:7400")
///     .tls(Tls::authorities("/etc/terrace/ca.pem"))
///     .token_file("/run/secrets/terrace-token")
///     .routing(Routing::Key)
///     .read_timeout(Duration::from_millis(100))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `connect` or `connect_lazy`"]
pub struct ClientBuilder {
    target: String,
    settings: Settings,
}

impl ClientBuilder {
    pub(crate) fn new(target: impl Into<String>) -> Self {
        let settings = Settings {
            routing: Routing::default(),
            tls: None,
            token: None,
            read_timeout: READ_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            message_max: MESSAGE_MAX,
            retry_writes: false,
            near: None,
        };
        Self { target: target.into(), settings }
    }

    /// Sets the selection of nodes. Default: [`Routing::Key`].
    pub fn routing(mut self, routing: Routing) -> Self {
        self.settings.routing = routing;
        self
    }

    /// Connects with TLS. Default: without TLS.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// Authenticates with a token. Requires TLS, a loopback address or a Unix socket.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.settings.token = Some(Token::Text(token.into()));
        self
    }

    /// Authenticates with the token in the first line of a file, which is read again for each connection.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.token = Some(Token::File(path.into()));
        self
    }

    /// Sets the default deadline of reads. Default: [`READ_TIMEOUT`].
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.settings.read_timeout = bounded(timeout);
        self
    }

    /// Sets the default deadline of writes. Default: [`WRITE_TIMEOUT`].
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.settings.write_timeout = bounded(timeout);
        self
    }

    /// Sets the deadline of an attempt to connect to a node. Default: [`CONNECT_TIMEOUT`].
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = bounded(timeout);
        self
    }

    /// Sets the maximum size in bytes of a message from the server. It has to exceed `grpc.max_message` of the server.
    /// Default: [`MESSAGE_MAX`].
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.settings.message_max = bytes;
        self
    }

    /// Repeats unconditional Sets and Touches whose connection broke after they were sent, instead of
    /// [`ErrorKind::OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown). A repetition may undo a newer write of another
    /// client. Default: `false`.
    pub fn retry_writes(mut self, retry_writes: bool) -> Self {
        self.settings.retry_writes = retry_writes;
        self
    }

    /// Keeps copies of values in this process, which the change feeds of the nodes keep true. Default: no copies.
    pub fn near_cache(mut self, near: NearCache) -> Self {
        self.settings.near = Some(near);
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn settings(self) -> Settings {
        self.settings
    }

    /// Connects, and waits until at least one node is ready.
    ///
    /// # Errors
    /// The target or a setting of the near cache is not valid, or no node is ready within the deadline of [`Self::connect_timeout`].
    pub async fn connect(self) -> Result<Client> {
        let client = self.connect_lazy()?;
        client.ready().await?;
        Ok(client)
    }

    /// Opens one connection for the generated stubs in [`proto`](crate::proto), for calls that [`Client`] does not have.
    ///
    /// # Errors
    /// The target is not one node, or the node cannot be reached.
    pub async fn channel(self) -> Result<Channel> {
        let target: Target =
            self.target.parse().map_err(|error: crate::AddressError| Error::invalid(error.to_string()))?;
        match target {
            Target::Nodes(nodes) if nodes.len() == 1 => Channel::connect(&nodes[0], &self.settings).await,
            Target::Nodes(_) | Target::Dns { .. } => Err(Error::invalid(format!(
                "a channel has one node; the target is {target}, expected host:port or unix:/path"
            ))),
        }
    }

    /// Connects in the background. Operations wait for the connection until their deadline, and fail as soon as every
    /// node has refused it. Requires a tokio runtime.
    ///
    /// # Errors
    /// The target or a setting of the near cache is not valid.
    pub fn connect_lazy(self) -> Result<Client> {
        let target = self.checked_target()?;
        Ok(Client::start(target, self.settings))
    }

    /// Checks the settings and returns the target.
    pub(crate) fn checked_target(&self) -> Result<Target> {
        self.settings.near.as_ref().map_or(Ok(()), NearCache::check)?;
        self.target.parse().map_err(|error: crate::AddressError| Error::invalid(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_first_line_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let long = "t".repeat(TOKEN_MAX);
        for (text, token) in [("s3cret", "s3cret"), ("s3cret\r\nsecond\n", "s3cret"), (&format!("{long}\r\nx"), &long)]
        {
            fs::write(&path, text).unwrap();
            assert_eq!(read_token(&path).unwrap(), token);
        }
        let limit = "expected a token of 1 to 1024 bytes";
        for (bytes, why) in [
            (&b""[..], format!("is empty; {limit}")),
            (b"\nsecond", format!("is empty; {limit}")),
            (&[b't'; TOKEN_MAX + 1], format!("is too long; {limit}")),
            (b"\xff\n", "is not text".to_owned()),
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(read_token(&path).unwrap_err(), format!("the first line of {} {why}", path.display()));
        }
        let folder = read_token(folder.path()).unwrap_err();
        assert!(folder.ends_with("it is not a regular file"), "{folder}");
        let builder = Client::builder("127.0.0.1:1").token_file("/nowhere");
        let error = builder.settings.authorization(&"127.0.0.1:1".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(error.message().starts_with("cannot read /nowhere: "), "{error}");
    }
}
