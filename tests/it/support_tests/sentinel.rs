//! The test Sentinels fail over from a primary that is killed, stopped or replaced by command.

use redis::Commands;

use crate::support::sentinel::{Sentinels, is_primary};

#[test]
fn the_replica_takes_over_from_a_primary_that_is_killed_stopped_or_told_to_go() {
    let mut group = Sentinels::start();
    assert_eq!(group.url().matches("127.0.0.1:").count(), 3);
    assert_eq!(group.primary(), Some(0));
    let mut client = group.servers[0].connect();
    client.set::<_, _, ()>("k", "first").expect("the primary takes writes");
    assert_eq!(redis::cmd("WAIT").arg(1).arg(0).query(&mut client), Ok(1), "the replica has it");

    group.servers[0].kill();
    let primary = group.wait_for_another_primary(0);
    assert_eq!(group.servers[primary].connect().get::<_, String>("k").expect("it answers"), "first");
    group.servers[0].restart();
    group.settle();
    assert!(!is_primary(&group.servers[0]), "it came back as a replica");

    group.servers[primary].pause();
    let again = group.wait_for_another_primary(primary);
    group.servers[primary].resume();
    group.settle();
    assert_eq!((primary, again), (1, 0));

    assert_eq!(group.failover(), 1);
    group.settle();
}
