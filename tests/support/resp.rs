//! Clients of the RESP port: connections of a client library, and raw bytes.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use redis::{Connection, RedisResult};

use super::{PATIENCE, terrace::Terrace};

/// Opens a connection to the RESP port at `address`, which must succeed.
pub fn connection(address: &str) -> Connection {
    try_connection(address).expect("the server accepts")
}

/// Opens a connection to the RESP port at `address`.
pub fn try_connection(address: &str) -> RedisResult<Connection> {
    redis::Client::open(format!("redis://{address}")).expect("an address").get_connection()
}

/// A raw connection whose replies are compared byte by byte.
pub struct Client(pub TcpStream);

impl Client {
    pub fn connect(terrace: &Terrace) -> Self {
        Self::connect_to(terrace.resp())
    }

    pub fn connect_to(address: impl std::net::ToSocketAddrs) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        stream.set_nodelay(true).expect("it is TCP");
        Self(stream)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the server takes bytes");
    }

    /// Reads a reply, which must be this one.
    pub fn expect(&mut self, reply: &str) {
        let mut got = vec![0; reply.len()];
        self.0.read_exact(&mut got).expect("a reply");
        assert_eq!(String::from_utf8_lossy(&got), reply);
    }

    /// Sends one command, its words separated by blanks.
    pub fn say(&mut self, command: &str) {
        self.send(&request(command));
    }

    /// Sends one command and reads its reply, which must be this one.
    pub fn ask(&mut self, command: &str, reply: &str) {
        self.say(command);
        self.expect(reply);
    }

    /// Waits until the server closes the connection, without a further reply.
    pub fn expect_end(&mut self) {
        assert_eq!(self.drain(), "");
    }

    /// Reads until the server closes the connection.
    pub fn drain(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset is an end, too: the server closed the connection before it had read all bytes.
        let _read = self.0.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// Reads one line.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("a line");
            line.extend(byte);
        }
        String::from_utf8(line).expect("UTF-8")
    }

    /// Sends one command whose reply is a number.
    pub fn number(&mut self, command: &str) -> i64 {
        self.say(command);
        self.line()[1..].trim().parse().expect("a number")
    }
}

/// Returns the bytes of one word: `''` is empty, and `\r`, `\n`, `\0`, `\xff` and `\_` (a blank) are escapes.
fn unescape(word: &str) -> Vec<u8> {
    if word == "''" {
        return Vec::new();
    }
    let mut out = Vec::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let escapes: [(&str, &[u8]); 5] =
            [("\\r", b"\r"), ("\\n", b"\n"), ("\\0", b"\0"), ("\\xff", b"\xff"), ("\\_", b" ")];
        let (bytes, after) = escapes
            .iter()
            .find_map(|(escape, byte)| rest.strip_prefix(escape).map(|after| (byte.to_vec(), after)))
            .unwrap_or_else(|| (first.to_string().into_bytes(), &rest[first.len_utf8()..]));
        out.extend(bytes);
        rest = after;
    }
    out
}

/// The bytes of one command as a client library sends it.
pub fn request(command: &str) -> Vec<u8> {
    let words: Vec<Vec<u8>> = command.split_whitespace().map(unescape).collect();
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend(format!("${}\r\n", word.len()).as_bytes());
        out.extend(word);
        out.extend(b"\r\n");
    }
    out
}

/// Sends bytes and returns everything that the server sends until it closes the connection.
pub fn converse(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    stream.write_all(bytes).expect("the server takes bytes");
    let mut replies = Vec::new();
    if let Err(error) = stream.read_to_end(&mut replies) {
        // A server that closes a connection before it has read all bytes resets it.
        let sent = bytes.escape_ascii();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error} from {address} after {sent}");
    }
    replies
}

/// The replies to commands separated by ` | `, as text.
pub fn ask(terrace: &Terrace, commands: &str) -> String {
    let mut bytes: Vec<u8> = commands.split(" | ").flat_map(request).collect();
    bytes.extend(request("QUIT"));
    String::from_utf8_lossy(&converse(terrace.resp(), &bytes)).into_owned()
}

/// The value of one field of INFO.
pub fn info_field(terrace: &Terrace, name: &str) -> String {
    let info = ask(terrace, "INFO everything");
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("INFO has no {name}")).to_owned()
}
