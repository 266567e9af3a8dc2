//! Checks that an answer is one whole JSON object of its route's shape, and reads from it what we count.
//!
//! The text is walked once and never built up. Members that come twice are no error: the last one counts.

use std::borrow::Cow;
use std::fmt;

use overnight_domain::route::Route;
use overnight_domain::tally::Usage;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What is read from an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reading {
    pub(crate) usage: Usage,
    pub(crate) model: Option<String>,
}

/// More tokens than this in one answer is an engine's mistake, and would spoil every sum.
const TOKENS_MAX: u64 = 1_000_000_000;

/// The longest model name, as JSON text, that is taken over.
const MODEL_LEN_MAX: usize = 1024;

/// Gives the reason when `body` is no answer of `route`.
pub(crate) fn read(route: Route, body: &[u8]) -> Result<Reading, String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("not UTF-8: {error}"))?;
    let mut reading = Reading::default();
    let mut choices = None;
    let mut data = None;
    let mut is_cut_short = false;
    let walk = each_member(text, |name, value| match name {
        "usage" => reading.usage = read_usage(value.get()),
        "model" => reading.model = read_text(value.get()),
        "choices" => choices = Some(value.get()),
        "data" => data = Some(value.get()),
        // Of the Responses route: everything that ends it early is told as `incomplete`.
        "status" if route == Route::Responses => is_cut_short = value.get() == "\"incomplete\"",
        _ => {}
    });
    walk.map_err(|error| format!("not a JSON object: {error}"))?;
    is_cut_short |= choices.is_some_and(ends_at_length);
    reading.usage.cut_short = u64::from(is_cut_short);
    match route {
        Route::ChatCompletions | Route::Completions if !choices.is_some_and(has_elements) => {
            Err("empty choices".to_owned())
        }
        Route::Embeddings if !data.is_some_and(|value| value.starts_with('[')) => {
            Err("no data".to_owned())
        }
        _ => Ok(reading),
    }
}

/// The ids of a list of models. A list that is `null` is empty: some engines write so before the first model is there.
pub(crate) fn read_models(body: &[u8]) -> Result<Vec<String>, String> {
    #[derive(serde::Deserialize)]
    struct Model {
        id: String,
    }
    #[derive(serde::Deserialize)]
    struct List {
        data: Option<Vec<Model>>,
    }
    let list: List =
        serde_json::from_slice(body).map_err(|error| format!("not a list of models: {error}"))?;
    Ok(list.data.unwrap_or_default().into_iter().map(|model| model.id).collect())
}

/// What an engine says in an error body, in the forms that are about: OpenAI's envelope, and plain members.
pub(crate) fn read_error(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let mut message = None;
    each_member(text, |name, value| match name {
        "error" => {
            message = read_text(value.get());
            // An `error` that is no object holds no message; that it cannot be walked is the answer.
            let _ = each_member(value.get(), |name, value| {
                if name == "message" {
                    message = read_text(value.get());
                }
            });
        }
        "message" | "detail" if message.is_none() => message = read_text(value.get()),
        _ => {}
    })
    .ok()?;
    message
}

fn has_elements(value: &str) -> bool {
    value.strip_prefix('[').is_some_and(|tail| !tail.trim_start().starts_with(']'))
}

/// Whether a choice says so. Within a text the quotation marks of the name would be escaped, so what is found is a name.
fn ends_at_length(choices: &str) -> bool {
    const NAME: &str = "\"finish_reason\"";
    choices.match_indices(NAME).any(|(at, _)| {
        let rest = choices[at + NAME.len()..].trim_start().strip_prefix(':');
        rest.is_some_and(|rest| rest.trim_start().starts_with("\"length\""))
    })
}

fn read_text(value: &str) -> Option<String> {
    if value.len() > MODEL_LEN_MAX {
        return None;
    }
    serde_json::from_str(value).ok()
}

fn read_usage(value: &str) -> Usage {
    let mut usage = Usage::default();
    // Usage that is no object, such as `null`, says nothing.
    let _ = each_member(value, |name, value| match name {
        "prompt_tokens" | "input_tokens" => usage.input_tokens = read_count(value.get()),
        "completion_tokens" | "output_tokens" => usage.output_tokens = read_count(value.get()),
        "prompt_tokens_details" | "input_tokens_details" => {
            let _ = each_member(value.get(), |name, value| {
                if name == "cached_tokens" {
                    usage.cached_tokens = read_count(value.get());
                }
            });
        }
        "completion_tokens_details" | "output_tokens_details" => {
            let _ = each_member(value.get(), |name, value| {
                if name == "reasoning_tokens" {
                    usage.reasoning_tokens = read_count(value.get());
                }
            });
        }
        _ => {}
    });
    usage
}

fn read_count(value: &str) -> u64 {
    let count = match value.parse::<u64>() {
        Ok(count) => count,
        // Some engines write whole numbers as `12.0`. The cast saturates, and gives 0 for what is below it.
        Err(_) => value.parse::<f64>().map_or(0, |count| count as u64),
    };
    if count > TOKENS_MAX { 0 } else { count }
}

/// Calls `visit` for each member of the one object that `text` must be.
pub(crate) fn each_member<'text>(
    text: &'text str,
    visit: impl FnMut(&str, &'text RawValue),
) -> serde_json::Result<()> {
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Members(visit))?;
    json.end()
}

struct Members<F>(F);

impl<'de, F: FnMut(&str, &'de RawValue)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            (self.0)(&name, map.next_value()?);
        }
        Ok(())
    }
}

/// A member's name, borrowed where it has no escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: serde::de::Error>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, cached: u64, output: u64, reasoning: u64) -> Usage {
        Usage {
            input_tokens: input,
            cached_tokens: cached,
            output_tokens: output,
            reasoning_tokens: reasoning,
            cut_short: 0,
        }
    }

    #[test]
    fn reads_usage_in_both_shapes() {
        let chat = br#"{"model":"m","choices":[{}],"usage":{"prompt_tokens":9,"completion_tokens":2,
            "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1}}}"#;
        let reading = read(Route::ChatCompletions, chat).unwrap();
        assert_eq!(reading.usage, usage(9, 4, 2, 1));
        assert_eq!(reading.model.as_deref(), Some("m"));
        let responses =
            br#"{"output":[],"usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":1},
            "output_tokens":5,"output_tokens_details":{"reasoning_tokens":2}}}"#;
        assert_eq!(read(Route::Responses, responses).unwrap().usage, usage(3, 1, 5, 2));
    }

    #[test]
    fn an_answer_that_ended_at_its_limit_is_counted() {
        let cut = |route, body: &str| read(route, body.as_bytes()).unwrap().usage.cut_short;
        let chat = Route::ChatCompletions;
        assert_eq!(
            cut(chat, r#"{"choices":[{"finish_reason":"stop"},{"finish_reason" : "length"}]}"#),
            1
        );
        assert_eq!(
            cut(chat, r#"{"choices":[{"finish_reason":"stop"}],"x":{"finish_reason":"length"}}"#),
            0
        );
        let quoted = r#"{"choices":[{"message":{"content":"{\"finish_reason\":\"length\"}"},"finish_reason":null}]}"#;
        assert_eq!(cut(chat, quoted), 0, "said, not so");
        assert_eq!(cut(Route::Responses, r#"{"status":"incomplete","output":[]}"#), 1);
        assert_eq!(cut(Route::Responses, r#"{"status":"completed","output":[]}"#), 0);
        assert_eq!(cut(chat, r#"{"status":"incomplete","choices":[{}]}"#), 0);
    }

    #[test]
    fn nonsense_in_usage_counts_nothing() {
        for (text, input) in [
            (r#"{"prompt_tokens":-5}"#, 0),
            (r#"{"prompt_tokens":1e30}"#, 0),
            (r#"{"prompt_tokens":1e999}"#, 0),
            (r#"{"prompt_tokens":18446744073709551615}"#, 0),
            (r#"{"prompt_tokens":"7"}"#, 0),
            (r#"{"prompt_tokens":null,"prompt_tokens_details":null}"#, 0),
            (r#"{"prompt_tokens":12.0}"#, 12),
            (r#"{"prompt_tokens":1,"prompt_tokens":2}"#, 2),
            ("null", 0),
            ("[1]", 0),
        ] {
            let body = format!(r#"{{"choices":[0],"usage":{text}}}"#);
            let reading = read(Route::ChatCompletions, body.as_bytes()).unwrap();
            assert_eq!(reading.usage, usage(input, 0, 0, 0), "for `{text}`");
        }
    }

    #[test]
    fn refuses_what_is_no_whole_object() {
        for body in [
            &b""[..],
            b"null",
            b"[1]",
            b"\"text\"",
            b"{",
            b"{\"choices\":[1]",
            b"{\"choices\":[1]} {",
            b"{\"choices\":[NaN]}",
            b"{\"choices\":[1],}",
            b"{\"choices\":[\"\xff\"]}",
            b"{\"choices\":[\"a\nb\"]}",
            b"data: {}\n\n",
        ] {
            assert!(read(Route::Responses, body).is_err(), "took {body:?}");
        }
    }

    #[test]
    fn refuses_answers_that_answer_nothing() {
        for body in [r"{}", r#"{"choices":[]}"#, r#"{"choices":[ ]}"#, r#"{"choices":null}"#] {
            assert_eq!(read(Route::ChatCompletions, body.as_bytes()).unwrap_err(), "empty choices");
            assert!(read(Route::Completions, body.as_bytes()).is_err());
        }
        assert!(read(Route::Embeddings, b"{}").is_err());
        assert!(read(Route::Embeddings, br#"{"data":[]}"#).is_ok());
    }

    #[test]
    fn takes_escaped_and_doubled_names() {
        let body = br#"{"choi\u0063es":[],"choices":[1],"model":1,"model":"last"}"#;
        assert_eq!(read(Route::ChatCompletions, body).unwrap().model.as_deref(), Some("last"));
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let depth = 200_000;
        let body = format!(r#"{{"choices":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(read(Route::ChatCompletions, body.as_bytes()).is_ok());
    }

    #[test]
    fn reads_lists_of_models_and_messages_of_errors() {
        assert_eq!(read_models(br#"{"data":[{"id":"a","x":1},{"id":"b"}]}"#).unwrap(), ["a", "b"]);
        assert!(read_models(br#"{"object":"list","data":null}"#).unwrap().is_empty());
        assert!(read_models(b"<html>").is_err());
        for body in [
            r#"{"error":{"message":"no"}}"#,
            r#"{"error":"no"}"#,
            r#"{"message":"no"}"#,
            r#"{"detail":"no"}"#,
        ] {
            assert_eq!(read_error(body.as_bytes()).as_deref(), Some("no"), "for `{body}`");
        }
        assert_eq!(read_error(b"no"), None);
    }
}
