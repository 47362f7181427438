//! The basic operations, against a server on this machine: `cargo run -p terrace-client --example quickstart`

use std::time::Duration;

use terrace_client::{Client, Lease, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    run(&address).await
}

/// Runs all operations once. The tests call it with the address of a server.
pub async fn run(address: &str) -> Result<()> {
    let client = Client::connect(address).await?;

    // Values are bytes. A miss is `None`, and a failed read is an error.
    client.set("user:1", "Ada").ttl(Duration::from_secs(300)).tags(["team:7"]).await?;
    let name = client.get("user:1").await?;
    assert_eq!(name.as_deref(), Some(&b"Ada"[..]));
    let names = client.get_many(["user:1", "user:2"]).await?;
    assert_eq!(names, [name, None]);

    // Metadata: the remaining TTL, the tags, the tier that answered.
    let entry = client.lookup("user:1").await?;
    assert!(entry.is_some_and(|entry| entry.expires_in.is_some() && entry.tags == ["team:7"]));

    // Conditions and counters.
    assert!(!client.set("user:1", "Bob").if_absent().await?);
    client.delete(["visits"]).await?;
    assert_eq!(client.increment("visits", 2).await?, 2);

    // All entries with a tag become absent at once, on all nodes.
    client.invalidate_tags(["team:7"]).await?;
    assert_eq!(client.get("user:1").await?, None);

    // One client of the fleet loads an absent key; the others wait for its result.
    if let Lease::Load(grant) = client.get_or_lease("report:1").await? {
        let report = "expensive";
        grant.fill(report, Some(Duration::from_secs(60)), Some(Duration::from_secs(600))).await?;
    }
    assert!(matches!(client.get_or_lease("report:1").await?, Lease::Hit { .. }));
    Ok(())
}
