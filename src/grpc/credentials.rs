//! Authenticates the calls of a connection.
//!
//! gRPC clients send their credentials with every call. The connection remembers the last header that was verified, so that
//! a repeated one costs a comparison. A proxy may send calls of several users over one connection: each other header is
//! verified anew. A call without credentials has the identity of the client certificate, or else the role of clients without
//! credentials.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, header::AUTHORIZATION};
use parking_lot::Mutex;
use tonic::Status;

use super::{Edge, unary::Call};
use crate::{
    access::{self, Access, Identity, LoginFailure, Peer, is_same},
    socket::{Ends, Protocol},
};

/// Message for calls without credentials.
const MISSING: &str = "this server requires credentials: send authorization: Bearer TOKEN, or use a client certificate";
/// Message for credentials of an unknown form.
const MALFORMED: &str = "the authorization header is not \"Bearer TOKEN\" or \"Basic BASE64(USER:TOKEN)\"";

/// The identity of a call, with the edge for its requests.
struct Verified {
    identity: Arc<Identity>,
    edge: Arc<Edge>,
}

/// The identities of one connection.
pub(super) struct Credentials {
    /// The edge of the connection. Its permissions are never used.
    edge: Arc<Edge>,
    ends: Ends,
    /// Identity of calls without credentials.
    of_connection: Mutex<Option<Verified>>,
    /// The last header that was verified.
    last: Mutex<Option<(Vec<u8>, Verified)>>,
    failures: AtomicU32,
}

impl Credentials {
    pub(super) fn new(edge: Arc<Edge>, ends: Ends) -> Self {
        Self { edge, ends, of_connection: Mutex::default(), last: Mutex::default(), failures: AtomicU32::new(0) }
    }

    /// Returns the edge for a call with these headers.
    ///
    /// # Errors
    /// The reason why the call is not authenticated.
    #[inline]
    pub(super) fn edge_for(&self, headers: &HeaderMap) -> Result<Arc<Edge>, Refused> {
        match headers.get(AUTHORIZATION) {
            None => self.without_header(),
            Some(header) => self.with_header(header.as_bytes()),
        }
    }

    fn without_header(&self) -> Result<Arc<Edge>, Refused> {
        let access = &self.edge.access;
        let mut known = self.of_connection.lock();
        if let Some(verified) = &*known
            && access.is_current(&verified.identity)
        {
            return Ok(Arc::clone(&verified.edge));
        }
        *known = self.identity_of_connection(access).map(|identity| self.verified(identity));
        known.as_ref().map(|verified| Arc::clone(&verified.edge)).ok_or_else(|| refused(MISSING, Duration::ZERO))
    }

    fn identity_of_connection(&self, access: &Access) -> Option<Identity> {
        access.of_connection(self.ends.certified(), self.ends.is_here, Protocol::Grpc)
    }

    fn with_header(&self, header: &[u8]) -> Result<Arc<Edge>, Refused> {
        let access = &self.edge.access;
        let mut last = self.last.lock();
        if let Some((known, verified)) = &*last
            && is_same(known, header)
            && access.is_current(&verified.identity)
        {
            return Ok(Arc::clone(&verified.edge));
        }
        let verified = self.verified(self.verify(header)?);
        let edge = Arc::clone(&verified.edge);
        *last = Some((header.to_vec(), verified));
        Ok(edge)
    }

    fn verify(&self, header: &[u8]) -> Result<Identity, Refused> {
        let access = &self.edge.access;
        let peer = Peer { address: &self.ends.peer, is_local: self.ends.is_here, is_private: self.ends.is_private() };
        if !access.has_users() {
            // Without users, a header says nothing: some clients and proxies always send one.
            return self.identity_of_connection(access).ok_or_else(|| refused(MISSING, Duration::ZERO));
        }
        let given = access::Credentials::parse(header);
        let given = given.ok_or_else(|| refused(MALFORMED, Duration::ZERO))?;
        access.log_in(given.user.as_deref(), &given.secret, Protocol::Grpc, peer).map_err(|failure| {
            let delay = match failure {
                LoginFailure::Wrong => Access::delay(self.failures.fetch_add(1, Relaxed) + 1),
                LoginFailure::Plaintext => Duration::ZERO,
            };
            refused(failure.reason(), delay)
        })
    }

    fn verified(&self, identity: Identity) -> Verified {
        self.failures.store(0, Relaxed);
        let identity = Arc::new(identity);
        Verified { edge: Arc::new(self.edge.for_identity(Arc::clone(&identity))), identity }
    }
}

/// A call that is not authenticated.
pub(super) struct Refused {
    reason: &'static str,
    /// Delay of the response to a failed login.
    delay: Duration,
}

impl Refused {
    /// Responds to the call after the delay.
    pub(super) fn into_call(self) -> Call {
        let response = Status::unauthenticated(self.reason).into_http();
        if self.delay.is_zero() { Call::ready(response) } else { Call::after(self.delay, response) }
    }
}

fn refused(reason: &'static str, delay: Duration) -> Refused {
    Refused { reason, delay }
}
