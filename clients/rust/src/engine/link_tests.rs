//! The operations of a node, without a network: the tests play the stream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Wake, Waker},
};

use prost::Message;
use terrace_proto::{
    GetOrLeaseRequest, GetOrLeaseResponse, GetRequest, GetResponse, LeaseLoad, Missing, PipelineRequest, SetRequest,
    get_response,
};

use super::{super::batch::PREFIX_BYTES, *};

/// Counts its wakes.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn get(key: &str) -> Operation {
    Operation::Get(GetRequest { key: key.to_owned().into(), options: None })
}

fn lease(key: &str) -> Operation {
    Operation::GetOrLease(GetOrLeaseRequest { key: key.to_owned().into(), ..GetOrLeaseRequest::default() })
}

fn missing() -> Answer {
    Answer::Get(GetResponse { result: Some(get_response::Result::Missing(Missing {})) })
}

fn granted(token: &'static str) -> Answer {
    let grant = Some(Grant { token: token.into(), lease_ms: 1, reason: 1 });
    Answer::GetOrLease(GetOrLeaseResponse { result: Some(get_or_lease_response::Result::Load(LeaseLoad { grant })) })
}

fn open() -> Link {
    let link = Link::new();
    link.activate(1);
    link
}

fn submit(link: &Link, operation: &Operation) -> Id {
    let deadline = Instant::now() + Duration::from_secs(60);
    link.submit(operation, 0, deadline, Waker::noop()).expect("accepted")
}

fn poll(link: &Link, id: Id, operation: &Operation) -> Poll<Outcome> {
    link.poll(id, operation, 0, Waker::noop())
}

/// Returns the operations of the next batch.
fn sent(link: &Link, stream: u32) -> Vec<terrace_proto::Operation> {
    match link.next_batch(stream, Waker::noop()) {
        Poll::Ready(Some(message)) => PipelineRequest::decode(&message[PREFIX_BYTES..]).expect("a message").operations,
        Poll::Ready(None) | Poll::Pending => Vec::new(),
    }
}

fn complete(link: &Link, id: Id, answer: Answer) {
    link.complete(1, vec![OperationResult { id: id.0, result: Some(answer) }]);
}

#[test]
fn what_is_queued_at_a_time_is_one_batch() {
    let link = open();
    let ids: Vec<Id> = (0..250).map(|key| submit(&link, &get(&key.to_string()))).collect();
    let batch = sent(&link, 1);
    assert_eq!(batch.iter().map(|operation| Id(operation.id)).collect::<Vec<_>>(), ids);
    assert!(sent(&link, 1).is_empty());
}

#[test]
fn no_more_than_the_window_is_sent_and_results_open_it() {
    let link = open();
    let ids: Vec<Id> = (0..3_000).map(|key| submit(&link, &get(&key.to_string()))).collect();
    assert_eq!((sent(&link, 1).len(), sent(&link, 1).len()), (1_000, 0));
    for id in &ids[..1_000] {
        complete(&link, *id, missing());
    }
    assert_eq!((sent(&link, 1).len(), sent(&link, 1).len()), (1_000, 0));
}

#[test]
fn callers_wait_for_room_in_the_order_of_their_arrival() {
    let link = open();
    let count = UNITS_MAX as usize;
    let mut ids: VecDeque<Id> = (0..count).map(|key| submit(&link, &get(&key.to_string()))).collect();
    let wakes: Vec<Arc<Wakes>> = std::iter::repeat_with(Arc::default).take(10).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    let late: Vec<Id> = wakes
        .iter()
        .map(|wakes| link.submit(&get("late"), 0, deadline, &Waker::from(Arc::clone(wakes))).expect("accepted"))
        .collect();
    let woken = || wakes.iter().map(|wakes| wakes.0.load(SeqCst)).collect::<Vec<_>>();
    assert_eq!(woken(), [0; 10]);
    // A caller that leaves loses its place, and the places of the others stay in order.
    link.forget(late[1]);
    for admitted in [[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0, 0, 0, 0, 0]] {
        link.forget(ids.pop_front().expect("an operation"));
        assert_eq!(woken(), admitted);
    }
    // Of the operations, only those whose callers are still there are sent.
    assert!(poll(&link, late[0], &get("late")).is_pending());
    let mut keys = Vec::new();
    loop {
        let batch = sent(&link, 1);
        if batch.is_empty() {
            break;
        }
        for operation in batch {
            keys.push(operation.id);
            complete(&link, Id(operation.id), missing());
        }
    }
    assert_eq!((keys.len(), keys.first(), keys.last()), (count - 2, ids.front().map(|id| &id.0), Some(&late[0].0)));
}

#[test]
fn large_requests_take_more_room() {
    let link = open();
    let value = vec![0; UNIT_BYTES * UNITS_MAX as usize];
    let large = Operation::Set(SetRequest { key: "large".into(), value: value.into(), ..SetRequest::default() });
    let first = submit(&link, &large);
    let second = submit(&link, &get("small"));
    assert_eq!(sent(&link, 1).len(), 1);
    link.forget(first);
    assert!(poll(&link, second, &get("small")).is_pending());
    assert_eq!(sent(&link, 1).len(), 1);
}

#[test]
fn a_caller_that_leaves_cancels_its_lease_and_a_late_grant_is_released() {
    let link = open();
    let (left, waiting) = (submit(&link, &lease("left")), submit(&link, &lease("waiting")));
    assert_eq!(sent(&link, 1).len(), 2);
    link.forget(left);
    let cancel = sent(&link, 1);
    assert_eq!(cancel[0].operation, Some(Operation::Cancel(CancelRequest { id: left.0 })));
    complete(&link, left, granted("late"));
    let release = ReleaseRequest { key: "left".into(), token: "late".into(), failed: None };
    assert_eq!(sent(&link, 1)[0].operation, Some(Operation::Release(release)));
    // A grant that arrived, but that its caller did not take.
    complete(&link, waiting, granted("unseen"));
    link.forget(waiting);
    let release = ReleaseRequest { key: "waiting".into(), token: "unseen".into(), failed: None };
    assert_eq!(sent(&link, 1)[0].operation, Some(Operation::Release(release)));
    let state = link.state.lock();
    assert_eq!((state.table.len(), state.abandoned.len(), state.used_units), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_silent_is_ready_again_after_a_health_check() {
    let link = open();
    let id = link.submit(&get("key"), 0, Instant::now() + Duration::from_secs(1), Waker::noop()).expect("accepted");
    assert_eq!((sent(&link, 1).len(), link.readiness()), (1, Readiness::Ready));
    tokio::time::advance(Duration::from_secs(2)).await;
    link.check_deadlines();
    assert!(matches!(poll(&link, id, &get("key")), Poll::Ready(Err(Failure::Expired { is_sent: true }))));
    assert_eq!(link.readiness(), Readiness::Doubtful);
    link.checked(false);
    assert_eq!(link.readiness(), Readiness::Doubtful, "it does not serve");
    link.checked(true);
    assert_eq!(link.readiness(), Readiness::Ready);
}

#[test]
fn the_end_of_a_stream_is_the_outcome_of_what_it_has_sent_only() {
    let link = open();
    let old = submit(&link, &get("old"));
    assert_eq!(sent(&link, 1).len(), 1);
    // A new connection takes over while the old one is read to its end.
    link.activate(2);
    assert!(matches!(link.next_batch(1, Waker::noop()), Poll::Ready(None)));
    let new = submit(&link, &get("new"));
    assert_eq!(sent(&link, 2).len(), 1);
    let error = Error::new(ErrorKind::Unavailable, "the end");
    link.stream_ended(1, &Failure::Broken(error.clone()));
    assert!(matches!(poll(&link, old, &get("old")), Poll::Ready(Err(Failure::Broken(_)))));
    assert!(poll(&link, new, &get("new")).is_pending());
    assert_eq!(link.readiness(), Readiness::Ready);
    link.down(&error);
    let unsent = link.submit(&get("unsent"), 0, Instant::now(), Waker::noop());
    assert!(matches!(unsent, Err(Failure::NotBegun(_))));
}
