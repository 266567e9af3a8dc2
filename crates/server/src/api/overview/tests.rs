use std::time::Instant;

use futures::StreamExt as _;
use overnight_domain::batch::BatchError;
use overnight_domain::ids::{BatchId, TenantId};
use overnight_domain::time::UnixTime;
use overnight_store::conformance::samples;
use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::api::harness::Harness;
use crate::config::{KeyConfig, Secret};

/// As the store's samples, but of this tenant and with ids that sort like those that we give out.
fn batch(number: u32, tenant: &TenantId) -> Batch {
    let id = BatchId::from_uuid(Uuid::from_u128(u128::from(number)));
    Batch { id, tenant: tenant.clone(), ..samples::batch(number) }
}

async fn create(harness: &Harness, batch: Batch) -> BatchId {
    let id = batch.id.clone();
    harness.ctx.store.create_batch(batch, samples::roomy(), None).await.unwrap();
    id
}

async fn plan(harness: &Harness, id: &BatchId, chunks: u32) {
    harness.ctx.store.plan_batch(id, samples::planned(chunks), UnixTime::from_millis(7)).await.unwrap();
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|batch| batch["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_runs_comes_in_the_order_of_the_queue_and_what_ended_newest_first() {
    let harness = Harness::new();
    let tenant = TenantId::default();
    let first = create(&harness, batch(1, &tenant)).await;
    let mut urgent = batch(2, &tenant);
    urgent.options.priority = 7;
    let urgent = create(&harness, urgent).await;
    let mut ended = Vec::new();
    for number in 3..=30 {
        let id = create(&harness, batch(number, &tenant)).await;
        harness.ctx.store.reject_batch(&id, Vec::new(), UnixTime::from_millis(9)).await.unwrap();
        ended.insert(0, id);
    }
    let overview = harness.get("/v1/overview").await.ok();
    assert_eq!(ids(&overview["unfinished"]), [urgent.as_str(), first.as_str()]);
    let newest: Vec<&str> = ended.iter().take(OVERVIEW_ENDED_MAX).map(BatchId::as_str).collect();
    assert_eq!(ids(&overview["ended"]), newest);
    assert_eq!(overview["ended"]["has_more"], true);
    assert_eq!(overview["ended"]["last_id"], *newest.last().unwrap());
    let one = harness.get(&format!("/v1/batches/{first}")).await.ok();
    assert_eq!(overview["unfinished"]["data"][1], one);
    assert_eq!(overview["health"]["queue"]["active_jobs"], 2);
}

#[tokio::test]
async fn a_tenant_sees_its_own() {
    let key = |name: &str, admin| KeyConfig {
        name: name.to_owned(),
        tenant: TenantId::new(name),
        value: Secret::new(format!("sk-{name}")),
        admin,
    };
    let harness =
        Harness::with(|config| config.server.keys = vec![key("blue", true), key("red", false)]);
    let blue = create(&harness, batch(1, &TenantId::new("blue"))).await;
    let red = create(&harness, batch(2, &TenantId::new("red"))).await;
    for (name, admin, own) in [("blue", true, blue), ("red", false, red)] {
        let mut request =
            crate::api::harness::request(http::Method::GET, "/v1/overview", axum::body::Body::empty());
        let value = http::HeaderValue::from_str(&format!("Bearer sk-{name}")).unwrap();
        request.headers_mut().insert(http::header::AUTHORIZATION, value);
        let overview = harness.call(request).await.ok();
        assert_eq!(ids(&overview["unfinished"]), [own.as_str()]);
        assert_eq!((&overview["tenant"], &overview["admin"]), (&name.into(), &admin.into()));
    }
}

#[tokio::test]
async fn the_rate_is_that_of_all_batches() {
    let harness = Harness::new();
    let overview = harness.get("/v1/overview").await.ok();
    assert_eq!(overview["rate"]["per_second"], Value::Null);
    assert_eq!(overview["rate"]["steps"], serde_json::json!([]));
}

#[test]
fn long_messages_are_cut_between_characters() {
    assert_eq!(cut("short"), "short");
    let long = "ä".repeat(MESSAGE_SHOWN);
    assert_eq!(cut(&long), long);
    assert_eq!(cut(&format!("{long}ä")), format!("{long}…"));
}

/// A fifth runs; the input of the others could not be used, which is what takes the most room in a list.
async fn one_of_many(harness: &Harness, number: u32) {
    let mut new = batch(number, &TenantId::default());
    if number.is_multiple_of(5) {
        let id = create(harness, new).await;
        return plan(harness, &id, 40).await;
    }
    let error = BatchError {
        code: "invalid_line".to_owned(),
        message: "m".repeat(200),
        param: None,
        line: Some(7),
    };
    new.state = BatchState::Failed;
    new.errors = vec![error; 100];
    create(harness, new).await;
}

/// A refresh every two seconds must not be felt, whatever lies in the store. It is held against a list of a hundred,
/// taken in turn: the machine may be busy with anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overview_of_a_thousand_batches_costs_less_than_a_list_of_a_hundred() {
    let harness = Harness::new();
    let all = (1..=1_000).map(|number| one_of_many(&harness, number));
    futures::stream::iter(all).buffer_unordered(64).collect::<Vec<()>>().await;
    let time = async |path: &str| {
        let started = Instant::now();
        let answer = harness.get(path).await;
        assert_eq!(answer.status, 200);
        (started.elapsed(), answer.body.len())
    };
    let (mut overviews, mut lists) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let (took, len) = time("/v1/overview").await;
        assert!(len < 256 * 1024, "{len}");
        overviews.push(took);
        lists.push(time("/v1/batches?limit=100").await.0);
    }
    let overview = harness.get("/v1/overview").await.ok();
    assert_eq!(ids(&overview["unfinished"]).len(), OVERVIEW_UNFINISHED_MAX);
    assert_eq!(overview["health"]["queue"]["active_jobs"], 200);
    // What is slow by itself is slow each time; the others waited for somebody else.
    let [overview, list] = [overviews, lists].map(|took| *took.iter().min().expect("it was measured"));
    eprintln!("an overview takes {overview:?}, a list {list:?}");
    assert!(overview <= list, "an overview takes {overview:?}, a list {list:?}");
}
