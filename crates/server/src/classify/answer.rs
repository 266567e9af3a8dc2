//! What came of asking for a document, read from the result lines of a batch.

use std::collections::HashMap;

use anyhow::Context as _;
use overnight_domain::file::Sha256;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::labels::Labels;
use super::question::MEMBER;

/// How much of an answer that is no label is shown.
const SHOWN_CHARS: usize = 200;

/// What is known of documents, by what they hold.
pub(crate) type Answers = HashMap<Sha256, Answer>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    pub(crate) tokens: Option<Tokens>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Label(usize),
    /// The model said something that is no label; why, with its words.
    Stray(String),
    /// There is no answer.
    Failed(String),
}

/// What the engine counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tokens {
    pub(crate) prompt: u64,
    pub(crate) answer: u64,
}

impl Outcome {
    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Self::Label(_) => None,
            Self::Stray(why) | Self::Failed(why) => Some(why),
        }
    }
}

/// Reads one result line: the document that was asked for, and its answer.
pub(super) fn read(line: &str, labels: &Labels) -> anyhow::Result<(Sha256, Answer)> {
    #[derive(Deserialize)]
    struct Line {
        custom_id: Sha256,
        response: Option<Response>,
        error: Option<Refusal>,
    }
    #[derive(Deserialize)]
    struct Response {
        status_code: u16,
        body: Value,
    }
    #[derive(Deserialize)]
    struct Refusal {
        code: String,
        message: String,
    }
    let line: Line = serde_json::from_str(line).context("a result line is damaged")?;
    let answer = match (line.response, line.error) {
        (Some(Response { status_code: 200, body }), _) => answered(&body, labels),
        (Some(Response { status_code, body }), _) => {
            let message = body["error"]["message"].as_str().unwrap_or("no reason was given");
            let code =
                body["error"]["code"].as_str().map(|code| format!(", {code}")).unwrap_or_default();
            failed(format!("the engine refused it: {} ({status_code}{code})", shown(message)))
        }
        (None, Some(Refusal { code, message })) => failed(format!("{} ({code})", shown(&message))),
        (None, None) => failed("the result line holds neither an answer nor an error".to_owned()),
    };
    Ok((line.custom_id, answer))
}

fn failed(why: String) -> Answer {
    Answer { outcome: Outcome::Failed(why), tokens: None }
}

fn answered(body: &Value, labels: &Labels) -> Answer {
    let usage = &body["usage"];
    let count = |name: &str| usage[name].as_u64();
    let tokens = count("prompt_tokens")
        .map(|prompt| Tokens { prompt, answer: count("completion_tokens").unwrap_or_default() });
    let choice = &body["choices"][0];
    let outcome = match choice["message"]["content"].as_str() {
        None => Outcome::Stray("the answer has no text".to_owned()),
        Some(content) => match label(content, labels) {
            Some(label) => Outcome::Label(label),
            None if choice["finish_reason"] == "length" => Outcome::Stray(format!(
                "the answer was cut before it named a label: `{}`",
                shown(content)
            )),
            None => Outcome::Stray(format!("the answer is no label: `{}`", shown(content))),
        },
    };
    Answer { outcome, tokens }
}

/// The label that an answer names: as JSON, as was asked, or by itself, as engines answer that know no JSON.
fn label(content: &str, labels: &Labels) -> Option<usize> {
    let content = unfenced(content.trim());
    match serde_json::from_str::<Value>(content) {
        Ok(Value::Object(members)) => labels.find(members.get(MEMBER)?.as_str()?),
        Ok(Value::String(text)) => labels.find(&text),
        // A label may look like a number.
        Ok(_) | Err(_) => labels.find(content),
    }
}

/// Without the fence of a code block, which many models put around JSON.
fn unfenced(text: &str) -> &str {
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inner.map_or(text, |inner| inner.strip_prefix("json").unwrap_or(inner).trim())
}

fn shown(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(response: &Value, error: &Value) -> Outcome {
        let labels = Labels::from_list("invoice,Other thing,7").unwrap();
        let id = "ab".repeat(32);
        let line = json!({"id": "batch_req_1", "custom_id": id, "response": response, "error": error});
        let (document, answer) = read(&line.to_string(), &labels).unwrap();
        assert_eq!(document.to_string(), id);
        answer.outcome
    }

    fn of_content(content: &Value, finish: &str) -> Outcome {
        let body = json!({"choices": [{"message": {"content": content}, "finish_reason": finish}]});
        outcome(&json!({"status_code": 200, "body": body}), &Value::Null)
    }

    #[test]
    fn a_label_is_found_where_it_is_named() {
        for (content, label) in [
            (r#"{"category":"invoice"}"#, 0),
            (" {\n \"category\" : \" INVOICE \" }\n", 0),
            ("```json\n{\"category\": \"Other Thing\"}\n```", 1),
            ("```\ninvoice\n```", 0),
            ("Invoice\n", 0),
            ("\"other thing\"", 1),
            ("7", 2),
            (r#"{"category":"7","confidence":0.5}"#, 2),
        ] {
            assert_eq!(of_content(&json!(content), "stop"), Outcome::Label(label), "{content}");
        }
    }

    #[test]
    fn what_is_no_label_is_shown_and_not_guessed_at() {
        for content in [
            "",
            "This is an invoice",
            r#"{"category":"invoices"}"#,
            r#"{"category":["invoice"]}"#,
            r#"{"label":"invoice"}"#,
            r#"{"category":null}"#,
            "{\"category\":\"inv",
            "[\"invoice\"]",
            "null",
        ] {
            let Outcome::Stray(why) = of_content(&json!(content), "stop") else { panic!("{content}") };
            assert_eq!(why, format!("the answer is no label: `{content}`"));
        }
        assert_eq!(
            of_content(&json!("{\"category\": "), "length"),
            Outcome::Stray("the answer was cut before it named a label: `{\"category\":`".to_owned())
        );
        assert!(matches!(of_content(&Value::Null, "stop"), Outcome::Stray(_)));
        let Outcome::Stray(why) = of_content(&json!("ü".repeat(10_000)), "stop") else {
            panic!("found")
        };
        assert!(why.chars().count() < 250, "{why}");
    }

    #[test]
    fn a_request_that_failed_says_why() {
        let refused = json!({"status_code": 400, "body": {"error": {"message": "too long", "code": "context_length_exceeded"}}});
        let late = json!({"code": "batch_expired", "message": "it was too late"});
        let failed = |response: &Value, error: &Value| match outcome(response, error) {
            Outcome::Failed(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            failed(&refused, &Value::Null),
            "the engine refused it: too long (400, context_length_exceeded)"
        );
        assert_eq!(failed(&Value::Null, &late), "it was too late (batch_expired)");
        assert!(failed(&Value::Null, &Value::Null).contains("neither"));
        assert!(read("{\"custom_id\":\"row-1\"}", &Labels::from_list("a,b").unwrap()).is_err());
    }

    #[test]
    fn tokens_are_those_that_the_engine_counted() {
        let body = json!({"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}});
        let line = json!({"custom_id": "00".repeat(32), "response": {"status_code": 200, "body": body}, "error": null});
        let (_, answer) = read(&line.to_string(), &Labels::from_list("a,b").unwrap()).unwrap();
        assert_eq!(answer.tokens, Some(Tokens { prompt: 9, answer: 2 }));
    }
}
