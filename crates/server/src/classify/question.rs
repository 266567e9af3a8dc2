//! The request that asks for the label of one document.

use overnight_domain::file::Sha256;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::Digest as _;

use super::labels::Labels;

/// The member of the answer that holds the label.
pub(super) const MEMBER: &str = "category";
/// Tokens around the label: braces, quotation marks, and blanks where an engine likes them.
const FRAME_TOKENS: usize = 32;

/// What is asked of every document.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) labels: Labels,
    /// A longer document is cut to so many characters.
    pub(crate) chars_max: usize,
    system: String,
    response_format: Value,
    tokens_max: usize,
}

impl Question {
    pub(crate) fn new(labels: Labels, chars_max: usize) -> Self {
        let names: Vec<&str> = labels.names().collect();
        let response_format = json!({
            "type": "json_schema",
            "json_schema": {"name": MEMBER, "strict": true, "schema": {
                "type": "object",
                "properties": {MEMBER: {"type": "string", "enum": names}},
                "required": [MEMBER],
                "additionalProperties": false,
            }},
        });
        // No token is shorter than a byte, and JSON escapes are part of what is written.
        let longest = labels.names().map(|name| json!(name).to_string().len()).max().unwrap_or_default();
        let system = system(&labels);
        Self { labels, chars_max, system, response_format, tokens_max: FRAME_TOKENS + longest }
    }

    /// The line of the input file that asks for one document. It names no model: the batch does.
    pub(super) fn line(&self, document: &Sha256, text: &str) -> Vec<u8> {
        let request = Request {
            custom_id: document.to_string(),
            method: "POST",
            url: "/v1/chat/completions",
            body: Body {
                messages: [
                    Message { role: "system", content: &self.system },
                    Message { role: "user", content: text },
                ],
                temperature: 0,
                max_tokens: self.tokens_max,
                response_format: &self.response_format,
            },
        };
        let mut line = serde_json::to_vec(&request).expect("text is always JSON");
        line.push(b'\n');
        line
    }

    /// The same for the same labels and lengths: what was answered is good for another run exactly then.
    pub(super) fn digest(&self) -> String {
        let mut hash = sha2::Sha256::new();
        hash.update(self.line(&Sha256([0; 32]), ""));
        hash.update(self.chars_max.to_be_bytes());
        Sha256(hash.finalize().into()).to_string()[..16].to_owned()
    }

    /// What of a document is sent, and whether something was cut.
    pub(super) fn cut<'a>(&self, text: &'a str) -> (&'a str, bool) {
        match text.char_indices().nth(self.chars_max) {
            Some((at, _)) => (&text[..at], true),
            None => (text, false),
        }
    }
}

#[derive(Serialize)]
struct Request<'a> {
    custom_id: String,
    method: &'static str,
    url: &'static str,
    body: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    messages: [Message<'a>; 2],
    temperature: u8,
    max_tokens: usize,
    response_format: &'a Value,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

fn system(labels: &Labels) -> String {
    let names: Vec<&str> = labels.names().collect();
    let mut text = format!(
        "Classify the user's document into one of these categories: {}. Answer with JSON only, like {{\"{MEMBER}\":\"...\"}}.",
        names.join(", ")
    );
    let described: Vec<String> = labels
        .iter()
        .filter_map(|label| Some(format!("\n- {}: {}", label.name, label.description.as_ref()?)))
        .collect();
    if !described.is_empty() {
        text = format!("{text}\nWhat they mean:{}", described.concat());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str =
        "a \"quote\" \\ \n\r\t \u{0} \u{2028}\u{2029}\u{85} \u{1F980} {\"category\":\"x\"}";

    fn question(chars_max: usize) -> Question {
        Question::new(Labels::from_lines("invoice: asks for money\nsay \"no\"\n").unwrap(), chars_max)
    }

    #[test]
    fn a_request_is_one_line_of_json_with_the_document_as_it_is() {
        let id = Sha256([7; 32]);
        let line = question(100).line(&id, HOSTILE);
        let text = std::str::from_utf8(&line).unwrap();
        assert!(text.ends_with("}\n") && text.matches('\n').count() == 1);
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value["custom_id"], "07".repeat(32));
        assert_eq!(value["url"], "/v1/chat/completions");
        let body = &value["body"];
        assert!(body.get("model").is_none(), "the batch names it");
        assert_eq!(body["temperature"], 0);
        assert_eq!(body["messages"][1], json!({"role": "user", "content": HOSTILE}));
        let system = body["messages"][0]["content"].as_str().unwrap();
        assert!(
            system.contains("categories: invoice, say \"no\".") && system.contains("\n- invoice: asks")
        );
        let schema = &body["response_format"]["json_schema"]["schema"];
        assert_eq!(schema["properties"]["category"]["enum"], json!(["invoice", "say \"no\""]));
        assert_eq!(body["max_tokens"], 32 + r#""say \"no\"""#.len());
    }

    #[test]
    fn a_document_is_cut_between_characters() {
        let three = question(3);
        assert_eq!(three.cut("äöü"), ("äöü", false));
        assert_eq!(three.cut("äöü\u{1F980}"), ("äöü", true));
        assert_eq!(three.cut(""), ("", false));
    }

    #[test]
    fn another_question_has_another_digest() {
        let digest = |labels: &str, chars_max| {
            Question::new(Labels::from_lines(labels).unwrap(), chars_max).digest()
        };
        let digests = [
            digest("a\nb", 10),
            digest("a\nb", 11),
            digest("b\na", 10),
            digest("a\nb: more", 10),
            digest("a\nb, more", 10),
        ];
        assert_eq!(digests[0], digest("# the same\na\n b ", 10));
        let different: std::collections::HashSet<&String> = digests.iter().collect();
        assert_eq!(different.len(), digests.len(), "{digests:?}");
    }
}
