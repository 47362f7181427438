//! Users with client certificates, and tokens over TLS.

use std::{fs, sync::Arc};

use hyper_util::rt::{TokioExecutor, TokioIo};
use terrace::{access::SecretHash, config::TlsMode};
use tokio_rustls::rustls::ClientConfig;

use super::{Files, ask, grpc_stream};
use crate::support::{command::printed, eventually, grpc::block_on, terrace::Terrace};

const URI: &str = "spiffe://prod/ns/orders/sa/api";

fn users() -> String {
    let hash = SecretHash::of(b"token").to_text();
    format!(
        "[[role]]\nname = \"orders\"\nkeys = [{{ prefix = \"orders:\", allow = [\"read\", \"write\"] }}]\nallow = \
         [\"inspect\"]\n[[user]]\nname = \"orders\"\nroles = [\"orders\"]\ncerts = [\"uri:{URI}\"]\n[[user]]\nname = \
         \"monitor\"\nroles = [\"operator\"]\nsecrets = [\"{hash}\"]\n"
    )
}

fn guarded(files: &Files) -> Terrace {
    let mut config = files.config(TlsMode::Optional);
    fs::write(files.path("users.toml"), users()).unwrap();
    config.auth.file = Some(files.path("users.toml"));
    Terrace::start(config)
}

/// Status of a call without arguments.
async fn status(server: &Terrace, client: Arc<ClientConfig>, method: &str, token: Option<&str>) -> String {
    let stream = grpc_stream(server.grpc(), client).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut request =
        http::Request::post(format!("https://localhost/{method}")).header("content-type", "application/grpc");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = http_body_util::Full::<bytes::Bytes>::new(vec![0; 5].into());
    let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
    let status = answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    status.unwrap_or_else(|| "0".to_owned())
}

#[test]
fn a_client_certificate_is_the_identity_of_its_connection() {
    let files = Files::new();
    let identity = files.authority.issue(Some(URI));
    identity.write(files.folder.path(), "orders");
    let server = guarded(&files);
    let flags = files.identity("orders");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cli = |args: &[&str]| printed(&files.redis_cli(&server, &[&flags[..], args].concat()));
    assert_eq!(cli(&["ACL", "WHOAMI"]), "orders\n");
    assert_eq!(cli(&["SET", "orders:1", "v"]), "OK\n");
    assert!(cli(&["GET", "users:1"]).starts_with("NOPERM"));
    // A user with certificates only has no secret to log in with.
    let denied = printed(&files.redis_cli(&server, &["AUTH", "orders", ""]));
    assert!(denied.starts_with("WRONGPASS"), "{denied}");
    assert!(printed(&files.redis_cli(&server, &["GET", "orders:1"])).starts_with("NOAUTH"));
    assert_eq!(
        printed(
            &files.redis_cli(&server, &["--user", "monitor", "--pass", "token", "--no-auth-warning", "ACL", "WHOAMI"])
        ),
        "monitor\n"
    );

    let curl = |args: &[&str]| {
        printed(&files.curl(&server, "/metrics", &[&["-o", "/dev/null", "-w", "%{http_code}"], args].concat()))
    };
    assert_eq!(curl(&[]), "401");
    assert_eq!(curl(&flags), "403");
    assert_eq!(curl(&["-H", "Authorization: Bearer token"]), "200");

    block_on(async {
        let with = || files.authority.client(Some(&identity), &["h2"]);
        let without = || files.authority.client(None, &["h2"]);
        assert_eq!(status(&server, with(), "terrace.v1.Insight/GetStats", None).await, "0");
        assert_eq!(status(&server, with(), "terrace.v1.Admin/GetConfig", None).await, "7");
        // The credentials of a call take precedence.
        assert_eq!(status(&server, with(), "terrace.v1.Insight/GetStats", Some("wrong")).await, "16");
        assert_eq!(status(&server, without(), "terrace.v1.Insight/GetStats", None).await, "16");
        assert_eq!(status(&server, without(), "terrace.v1.Insight/GetStats", Some("token")).await, "0");
    });

    // RESET ends the login, not the certificate.
    let client = files.authority.client(Some(&identity), &[]);
    let talk = |commands: &str| ask(server.resp(), &client, &format!("{commands}\r\nQUIT\r\n")).unwrap();
    assert_eq!(
        talk("AUTH monitor token\r\nACL WHOAMI\r\nRESET\r\nACL WHOAMI"),
        "+OK\r\n$7\r\nmonitor\r\n+RESET\r\n$6\r\norders\r\n+OK\r\n"
    );
    let failed = talk("HELLO 2 AUTH monitor wrong\r\nACL WHOAMI");
    assert!(failed.starts_with("-WRONGPASS") && failed.contains("orders"), "{failed}");

    // Without the name in the file, the certificate is valid but nobody's.
    fs::write(files.path("users.toml"), users().replace(URI, "spiffe://other")).unwrap();
    eventually("the certificate loses its user", || cli(&["PING"]).starts_with("NOAUTH"));
}
