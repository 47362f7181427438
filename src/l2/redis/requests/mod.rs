//! Requests on their way to a primary: routing, pipelining, deadlines and the circuit breaker.

pub(crate) mod apply;
pub(crate) mod circuit_breaker;
pub(crate) mod count;
pub(crate) mod deadline;
pub(crate) mod group;
pub(crate) mod inspect;
pub(crate) mod pipelined_connection;
pub(crate) mod route;
pub(crate) mod send_state;
pub(crate) mod spread;
