//! How the KV cells are laid out: one pool where most of the prompts is shared, a stream for each sequence otherwise.

use serde_json::{Value, json};

use crate::harness::{Answer, Engine};

const SLOTS: u32 = 4;
const KINDS: [&str; 7] = ["invoice", "contract", "resume", "email", "report", "recipe", "other"];

/// The model takes them for three kinds or more.
const DOCUMENTS: [&str; 4] = [
    "INVOICE No. 1042\nBill to: Hill Ltd\nTotal due 144.00",
    "Whisk two eggs with sugar, add the flour and bake for 25 minutes.",
    "This agreement is made between the landlord and the tenant.",
    "Dear Anna,\nthank you for your message.\nBest regards,\nTom",
];

/// Those whose answers are compared.
const CHATS: usize = 8;
/// So many that more wait than there are slots, however they arrive.
const CROWD: usize = 64;

/// Chats about the documents, whose beginnings are the same when `is_shared`.
fn chats(is_shared: bool, count: usize) -> Vec<Value> {
    let rules = "Read the document to its end and say which kind it is, no more and no less. ".repeat(4);
    let labels = format!("Classify the document as one of: {}.", KINDS.join(", "));
    let schema = json!({"type": "object", "required": ["category"], "additionalProperties": false,
        "properties": {"category": {"type": "string", "enum": KINDS}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "kind", "schema": schema}});
    let beginning = |number: usize| if is_shared { rules.clone() } else { format!("{number}. ") };
    let system = |number: usize| format!("{}{labels}", beginning(number));
    (0..count)
        .map(|number| {
            json!({"temperature": 0, "response_format": format, "messages": [
                {"role": "system", "content": system(number)},
                {"role": "user", "content": DOCUMENTS[number % DOCUMENTS.len()]}]})
        })
        .collect()
}

async fn ask_together(engine: &Engine, chats: &[Value]) -> Vec<String> {
    let asked = chats.iter().map(|chat| engine.post("/v1/chat/completions", chat));
    let answers = futures::future::join_all(asked).await;
    answers.iter().map(Answer::ok).map(|answer| content(&answer)).collect()
}

async fn ask_one_by_one(engine: &Engine, chats: &[Value]) -> Vec<String> {
    let mut said = Vec::new();
    for chat in chats {
        said.push(content(&engine.post("/v1/chat/completions", chat).await.ok()));
    }
    said
}

fn content(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

async fn is_unified(engine: &Engine) -> bool {
    engine.metric("kv_unified").await > 0.5
}

/// Asks again until the engine has found that a crowd is better off in the other layout; what the first of it were told.
async fn ask_until(engine: &Engine, is_shared: bool, wanted: bool) -> Vec<String> {
    let crowd = chats(is_shared, CROWD);
    for _ in 0..50 {
        let mut said = ask_together(engine, &crowd).await;
        if is_unified(engine).await == wanted {
            said.truncate(CHATS);
            return said;
        }
    }
    panic!("the layout never became the other one");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_follows_what_is_asked_and_changes_no_label() {
    let engine = Engine::demo(1_024, SLOTS).await;
    let (shared, own) = (chats(true, CHATS), chats(false, CHATS));
    assert!(is_unified(&engine).await, "an engine for batches begins with one pool");
    let labels = ask_one_by_one(&engine, &shared).await;
    let kinds: std::collections::BTreeSet<&String> = labels.iter().collect();
    assert!(kinds.len() >= 3, "what all get alike proves nothing: {labels:?}");
    let own_labels = ask_until(&engine, false, false).await;
    assert_eq!(own_labels, ask_one_by_one(&engine, &own).await);
    // Streams: those of a group copy its beginning, or have it from the one before them.
    assert_eq!(ask_together(&engine, &own).await, own_labels);
    let computed = engine.metric("prompt_tokens_computed_total").await;
    assert_eq!(ask_until(&engine, true, true).await, labels);
    assert_eq!(ask_together(&engine, &shared).await, labels);
    assert!(
        engine.metric("prompt_tokens_computed_total").await > computed,
        "a change starts no count anew"
    );
    engine.stop().await;
}

/// Whether they come together is up to the machine: those of one round do sooner or later, and one is enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_is_computed_once_for_all_who_come_together() {
    const ROUNDS: usize = 20;
    let engine = Engine::demo(1_024, SLOTS).await;
    let mut seen = Vec::new();
    for round in 0..ROUNDS {
        // Another beginning each time: of the last round's nothing is of use.
        let mut shared = chats(true, CHATS);
        for chat in &mut shared {
            let system = chat["messages"][0]["content"].as_str().unwrap();
            chat["messages"][0]["content"] = format!("{round}. {system}").into();
        }
        let before = engine.metric("prompt_tokens_computed_total").await;
        let answers = shared.iter().map(|chat| engine.post("/v1/chat/completions", chat));
        let answers = futures::future::join_all(answers).await;
        let answers: Vec<Value> = answers.iter().map(Answer::ok).collect();
        let total = |name: &str| {
            answers.iter().map(|answer| answer["usage"].pointer(name).unwrap().as_u64().unwrap()).sum()
        };
        let prompts: u64 = total("/prompt_tokens");
        let cached: u64 = total("/prompt_tokens_details/cached_tokens");
        let computed = engine.metric("prompt_tokens_computed_total").await - before;
        // What must follow before the model has its first choice counts as computed, and not as a prompt.
        assert!(computed >= (prompts - cached) as f64);
        seen.push((computed, prompts));
        if computed * 3.0 < prompts as f64 {
            return engine.stop().await;
        }
    }
    panic!("of the prompts' tokens too many were computed each time: {seen:?}");
}
