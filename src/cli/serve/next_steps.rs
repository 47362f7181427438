//! The commands that `serve` suggests to a person at a terminal.

use std::net::SocketAddr;

use crate::node::Addresses;

/// Requirements of the ports that change the commands.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    /// The RESP port requires a password.
    pub(super) password: bool,
    /// The RESP port has TLS.
    pub(super) resp_tls: bool,
    /// The HTTP port has TLS.
    pub(super) http_tls: bool,
}

/// Returns the lines that follow `ready` on a terminal.
pub(super) fn next_steps(bound: &Addresses, needs: Needs) -> String {
    let mut redis_cli = format!("redis-cli{}", redis_cli_target(&bound.resp));
    if needs.resp_tls && !bound.resp.starts_with("unix:") {
        redis_cli += " --tls";
    }
    if needs.password {
        redis_cli += " --askpass";
    }
    let page = page(&bound.http, if needs.http_tls { "https" } else { "http" });
    format!(
        "\nTry next:\n  {redis_cli} SET greeting hello\n  {redis_cli} GET greeting\n  {page}\n\nCtrl+C drains and stops."
    )
}

/// The options of redis-cli that name the RESP port. Without a host it uses 127.0.0.1.
fn redis_cli_target(address: &str) -> String {
    if let Some(path) = address.strip_prefix("unix:") {
        return format!(" -s {path}");
    }
    match reachable(address) {
        Some(address) if address.ip().is_loopback() && address.is_ipv4() => format!(" -p {}", address.port()),
        Some(address) => format!(" -h {} -p {}", address.ip(), address.port()),
        None => String::new(),
    }
}

/// The URL of the page, or the command that fetches it over a Unix socket.
fn page(address: &str, scheme: &str) -> String {
    if let Some(path) = address.strip_prefix("unix:") {
        return format!("curl --unix-socket {path} http://localhost/");
    }
    let address = reachable(address).map_or_else(|| address.to_owned(), |address| address.to_string());
    format!("{scheme}://{address}/ (live statistics in a browser)")
}

/// The address that a client on this machine connects to: loopback, where the port is bound to all interfaces.
fn reachable(address: &str) -> Option<SocketAddr> {
    let mut address: SocketAddr = address.parse().ok()?;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(resp: &str, http: &str, password: bool) -> String {
        steps_with(resp, http, Needs { password, ..Needs::default() })
    }

    fn steps_with(resp: &str, http: &str, needs: Needs) -> String {
        next_steps(&Addresses { grpc: String::new(), resp: resp.into(), http: http.into(), health: None }, needs)
    }

    #[test]
    fn the_bound_ports_are_named() {
        let text = steps("127.0.0.1:6399", "127.0.0.1:8099", false);
        assert!(text.contains("\n  redis-cli -p 6399 GET greeting\n"), "{text}");
        assert!(text.contains("\n  http://127.0.0.1:8099/ "), "{text}");
    }

    #[test]
    fn every_kind_of_address_is_reachable_as_it_is_written() {
        for (resp, wanted) in [
            ("0.0.0.0:6379", "redis-cli -p 6379 SET"),
            ("10.0.0.7:6379", "redis-cli -h 10.0.0.7 -p 6379 SET"),
            ("[::1]:6379", "redis-cli -h ::1 -p 6379 SET"),
            ("unix:/run/terrace.sock", "redis-cli -s /run/terrace.sock SET"),
        ] {
            assert!(steps(resp, "127.0.0.1:1", false).contains(wanted), "{resp}");
        }
        assert!(steps("127.0.0.1:6379", "[::]:8080", false).contains("http://[::1]:8080/"));
        assert!(steps("127.0.0.1:6379", "unix:/run/http", false).contains("curl --unix-socket /run/http http://"));
        assert!(steps("127.0.0.1:6379", "127.0.0.1:1", true).contains("redis-cli -p 6379 --askpass SET"));
        let tls = Needs { password: false, resp_tls: true, http_tls: true };
        let by_tls = steps_with("127.0.0.1:6379", "127.0.0.1:1", tls);
        assert!(by_tls.contains("redis-cli -p 6379 --tls SET") && by_tls.contains("https://127.0.0.1:1/"), "{by_tls}");
        let by_path = steps_with("unix:/run/resp", "unix:/run/http", tls);
        assert!(by_path.contains("redis-cli -s /run/resp SET") && by_path.contains(" http://localhost/"), "{by_path}");
    }
}
