//! Checks of each request before its handler: the host, the permissions, and the number of handlers that run at a time.
//!
//! A browser sends the name in the address bar as the host. Without the check, the owner of any name could let it resolve
//! to this server and read keys through the browser of somebody who can reach the server (DNS rebinding).

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::{sync::Semaphore, time::sleep};

use super::Edge;
use crate::{
    access::{Access, Credentials, Identity, Peer, Principal, Verbs},
    cache::Cache,
    socket::{Ends, Protocol},
};

/// Paths without secrets of their own, which probes and scrapers request by any name.
const EXEMPT: [&str; 3] = [METRICS, "/healthz", "/readyz"];
/// Path of the metrics.
const METRICS: &str = "/metrics";
/// Domains that only the DNS of a Kubernetes cluster serves, so that nobody else can register a name in them.
const CLUSTER_DOMAINS: [&str; 2] = [".svc", ".svc.cluster.local"];
/// Path whose handler yields often and bounds its work itself. It must not keep a scraper waiting.
const SELF_BOUNDED: &str = "/api/top";
/// Maximum number of other handlers that run at a time. Probes and jobs share their two threads, and one thread stays
/// free for them.
const HANDLERS_MAX: usize = 1;
/// Maximum number of characters of a host that a response repeats.
const SHOWN_HOST_MAX_CHARS: usize = 253;

/// State of the checks.
pub(super) struct Guard {
    edge: Arc<Edge>,
    handlers: Semaphore,
    /// False for a Unix socket, which no browser reaches.
    checks_hosts: bool,
}

impl Guard {
    pub(super) fn new(edge: Arc<Edge>, checks_hosts: bool) -> Arc<Self> {
        Arc::new(Self { edge, handlers: Semaphore::new(HANDLERS_MAX), checks_hosts })
    }

    /// Returns the first host of the request that is not accepted. A request without a host has the host "".
    fn refused_host(&self, request: &Request) -> Option<String> {
        let listed = self.edge.hosts.load();
        let headers = request.headers().get_all(header::HOST).iter();
        let mut hosts: Vec<String> =
            headers.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).collect();
        hosts.extend(request.uri().authority().map(|authority| authority.as_str().to_owned()));
        if hosts.is_empty() {
            hosts.push(String::new());
        }
        hosts.into_iter().find(|host| !is_accepted(host, &listed))
    }
}

/// The permissions of the client of a request.
#[derive(Clone)]
pub(super) struct Viewer(Arc<Principal>);

impl Viewer {
    /// Returns a handle on the cache with the permissions of the client.
    pub(super) fn cache(&self, edge: &Edge) -> Cache {
        edge.cache.for_principal(Arc::clone(&self.0))
    }
}

/// The parts of a request that determine its permissions.
struct Asked {
    is_metrics: bool,
    authorization: Option<HeaderValue>,
    ends: Option<Arc<Ends>>,
}

impl Asked {
    fn of(request: &Request) -> Self {
        Self {
            is_metrics: request.uri().path() == METRICS,
            authorization: request.headers().get(header::AUTHORIZATION).cloned(),
            ends: request.extensions().get().cloned(),
        }
    }
}

/// Checks a request, runs its handler and completes the response.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let mut response = if EXEMPT[1..].contains(&path) {
        next.run(request).await
    } else {
        let asked = Asked::of(&request);
        let admitted = match guard.misdirected(&request) {
            Some(misdirected) => Err(Box::new(misdirected)),
            None => guard.admit(asked).await,
        };
        match admitted {
            Err(refused) => *refused,
            Ok(viewer) => {
                request.extensions_mut().insert(viewer);
                // The semaphore is never closed.
                let is_bounded = request.uri().path() == SELF_BOUNDED;
                let _permit = if is_bounded { None } else { guard.handlers.acquire().await.ok() };
                next.run(request).await
            }
        }
    };
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl Guard {
    /// Returns the response to a request for a host that is not accepted.
    fn misdirected(&self, request: &Request) -> Option<Response> {
        let is_checked = self.checks_hosts && request.uri().path() != METRICS;
        is_checked.then(|| self.refused_host(request)).flatten().map(|host| misdirected(&host))
    }

    /// Returns the client of a request that it has the permission for. A client that may inspect some keys sees a page about
    /// these keys. The metrics are about all keys.
    ///
    /// # Errors
    /// The response to another request.
    async fn admit(&self, asked: Asked) -> Result<Viewer, Box<Response>> {
        let is_metrics = asked.is_metrics;
        let identity = self.identity(asked).await?;
        let principal = identity.principal();
        let checked = if is_metrics { principal.check_everywhere(Verbs::METRICS) } else { principal.check_inspects() };
        match checked {
            Ok(()) => Ok(Viewer(Arc::clone(principal))),
            Err(denied) => Err(Box::new((StatusCode::FORBIDDEN, format!("{denied}\n")).into_response())),
        }
    }

    /// Authenticates a request.
    async fn identity(&self, asked: Asked) -> Result<Identity, Box<Response>> {
        let access = &self.edge.access;
        let ends = asked.ends.as_deref();
        let is_local = ends.is_some_and(|ends| ends.is_here);
        let missing = || Box::new(unauthorized("this server requires credentials", None));
        let given = asked.authorization.as_ref().filter(|_| access.has_users());
        let Some(given) = given else {
            return access.of_connection(ends.and_then(Ends::certified), is_local, Protocol::Http).ok_or_else(missing);
        };
        let Some(given) = Credentials::parse(given.as_bytes()) else {
            return Err(Box::new(unauthorized("the authorization header is neither Basic nor Bearer", None)));
        };
        let peer = Peer {
            address: ends.map_or("", |ends| &ends.peer),
            is_local,
            is_private: ends.is_some_and(|ends| ends.is_private()),
        };
        match access.log_in(given.user.as_deref(), &given.secret, Protocol::Http, peer) {
            Ok(identity) => Ok(identity),
            Err(failure) => {
                sleep(Access::delay(1)).await;
                Err(Box::new(unauthorized(failure.reason(), Some("invalid_token"))))
            }
        }
    }
}

fn unauthorized(reason: &str, error: Option<&str>) -> Response {
    let error = error.map_or_else(String::new, |error| format!(", error=\"{error}\""));
    let challenges = [
        (header::WWW_AUTHENTICATE, "Basic realm=\"Terrace\", charset=\"UTF-8\"".to_owned()),
        (header::WWW_AUTHENTICATE, format!("Bearer realm=\"Terrace\"{error}")),
    ];
    let mut response = (StatusCode::UNAUTHORIZED, format!("{reason}\n")).into_response();
    for (name, value) in challenges {
        // The texts are ASCII.
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn misdirected(host: &str) -> Response {
    let shown: String = host.chars().take(SHOWN_HOST_MAX_CHARS).collect();
    let text = format!("host {shown:?} is not accepted; add it to http.hosts\n");
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// Returns true for a host that a request may name: an IP literal, a name without a dot, a name of a Kubernetes service,
/// or a listed name.
fn is_accepted(host: &str, listed: &[String]) -> bool {
    if let Some(literal) = host.strip_prefix('[') {
        let address = literal.split_once(']').map(|(address, _)| address);
        return address.is_some_and(|address| address.parse::<IpAddr>().is_ok());
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    is_name(name)
        && (!name.contains('.')
            || name.parse::<IpAddr>().is_ok()
            || CLUSTER_DOMAINS.iter().any(|domain| name.ends_with(domain))
            || listed.iter().any(|listed| listed.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_else_can_register_and_listed_names() {
        let listed = ["cache.example.com".to_owned()];
        let accepted = "localhost localhost:7402 127.0.0.1:7402 10.0.0.7 [::1]:7402 [::1] terrace-a:7402 Terrace TERRACE. \
                        terrace.prod.svc:7402 terrace.prod.svc.cluster.local cache.example.com Cache.Example.com.:80";
        for host in accepted.split_whitespace() {
            assert!(is_accepted(host, &listed), "{host}");
        }
        let refused = "evil.com evil.com:7402 evil.com. 127.0.0.1.nip.io [evil.com] a@localhost localhost/x cluster.local \
                       x.cache.example.com svc.evil.com 0x7f.1 example.com [::1";
        for host in refused.split_whitespace().chain([""]) {
            assert!(!is_accepted(host, &listed), "{host}");
        }
    }
}
