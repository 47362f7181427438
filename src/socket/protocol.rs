//! The protocols of the server.

/// A protocol of the server, which has a port of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// RESP.
    Resp,
    /// HTTP.
    Http,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 3] = [Self::Grpc, Self::Resp, Self::Http];

    /// Returns the name of the port in settings, metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Resp => "resp",
            Self::Http => "http",
        }
    }
}
