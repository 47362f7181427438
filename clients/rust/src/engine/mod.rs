//! The engine: operations of many tasks over one stream per node.
//!
//! * `link`: the operations of one node, between their callers and the stream.
//! * `table`, `wheel`: operations without a result, and their deadlines.
//! * `batch`, `messages`: the wire form of both directions.
//! * `connection`: one HTTP/2 connection, and unary calls on it.
//! * `turn`: wakes within the task of a connection.
//! * `driver`: opens, watches and replaces the connections of one node.
//! * `call`: one operation of a caller: selects the node, and repeats what is safe to repeat.

mod batch;
pub(crate) mod call;
pub(crate) mod connection;
pub(crate) mod driver;
pub(crate) mod link;
mod messages;
pub(crate) mod table;
mod turn;
mod wheel;
