//! Result lines: what stands in the output and the error file.
//!
//! A line is a function of the batch, the request and the answer alone: rendering it again gives the same bytes.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::ids::{BatchId, RequestIndex};

/// Seeds that keep the two ids of a line apart.
const LINE_ID_SEED: u64 = 1;
const REQUEST_ID_SEED: u64 = 2;
/// How much of an engine's text is shown where it did not answer in the envelope.
const TEXT_SHOWN_LEN: usize = 1_000;

/// Which line it is.
#[derive(Debug, Clone, Copy)]
pub struct LineHead<'a> {
    /// [`BatchId::digest`].
    pub batch: [u8; 16],
    pub index: RequestIndex,
    pub custom_id: &'a str,
}

impl<'a> LineHead<'a> {
    pub fn new(batch: &BatchId, index: RequestIndex, custom_id: &'a str) -> Self {
        Self { batch: batch.digest(), index, custom_id }
    }

    /// The line of a request that an engine answered with 200.
    pub fn answered(&self, body: &[u8]) -> Vec<u8> {
        self.with_response(200, body)
    }

    /// The line of a request that an engine refused. A body that is no JSON object with an `error` is wrapped in one.
    pub fn refused(&self, status: u16, body: &[u8]) -> Vec<u8> {
        if is_error_envelope(body) {
            return self.with_response(status, body);
        }
        let text = String::from_utf8_lossy(body);
        let shown: String = text.trim().chars().take(TEXT_SHOWN_LEN).collect();
        let message = if shown.is_empty() {
            format!("the engine answered {status} and said nothing")
        } else {
            shown
        };
        let envelope = serde_json::json!({
            "error": {"message": message, "type": "engine_error", "param": null, "code": null}
        });
        self.with_response(status, envelope.to_string().as_bytes())
    }

    /// The line of a request that has no answer.
    pub fn unanswered(&self, code: &str, message: &str) -> Vec<u8> {
        let mut line = self.begin(message.len() + code.len());
        line.extend_from_slice(b",\"response\":null,\"error\":{\"code\":");
        push_json_text(&mut line, code);
        line.extend_from_slice(b",\"message\":");
        push_json_text(&mut line, message);
        line.extend_from_slice(b"}}\n");
        line
    }

    /// The line's own id.
    pub fn line_id(&self) -> String {
        let mut id = b"batch_req_".to_vec();
        push_hex(&mut id, self.digest(LINE_ID_SEED));
        String::from_utf8(id).expect("digits are text")
    }

    /// The id of the answer in it.
    pub fn request_id(&self) -> String {
        let mut id = Vec::with_capacity(32);
        push_hex(&mut id, self.digest(REQUEST_ID_SEED));
        String::from_utf8(id).expect("digits are text")
    }

    fn with_response(&self, status: u16, body: &[u8]) -> Vec<u8> {
        let mut line = self.begin(body.len());
        line.extend_from_slice(b",\"response\":{\"status_code\":");
        line.extend_from_slice(status.to_string().as_bytes());
        line.extend_from_slice(b",\"request_id\":\"");
        push_hex(&mut line, self.digest(REQUEST_ID_SEED));
        line.extend_from_slice(b"\",\"body\":");
        push_on_one_line(&mut line, body);
        line.extend_from_slice(b"},\"error\":null}\n");
        line
    }

    fn begin(&self, more: usize) -> Vec<u8> {
        let mut line = Vec::with_capacity(more + self.custom_id.len() + 192);
        line.extend_from_slice(b"{\"id\":\"batch_req_");
        push_hex(&mut line, self.digest(LINE_ID_SEED));
        line.extend_from_slice(b"\",\"custom_id\":");
        push_json_text(&mut line, self.custom_id);
        line
    }

    fn digest(&self, seed: u64) -> u128 {
        let mut key = [0; 20];
        key[..16].copy_from_slice(&self.batch);
        key[16..].copy_from_slice(&self.index.0.to_be_bytes());
        xxh3_128_with_seed(&key, seed)
    }
}

fn is_error_envelope(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Envelope {
        error: serde_json::Map<String, serde_json::Value>,
    }
    serde_json::from_slice::<Envelope>(body)
        .is_ok_and(|envelope| envelope.error.get("message").is_some_and(serde_json::Value::is_string))
}

fn push_hex(line: &mut Vec<u8>, digest: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in digest.to_be_bytes() {
        line.push(DIGITS[usize::from(byte >> 4)]);
        line.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn push_json_text(line: &mut Vec<u8>, text: &str) {
    let json = serde_json::to_vec(text).expect("text is always JSON");
    push_on_one_line(line, &json);
}

/// Appends valid JSON so that no reader can cut it: line breaks between tokens become blanks, and U+0085, U+2028 and
/// U+2029, which may stand raw only inside strings, are escaped, because Python's `splitlines` breaks at them.
fn push_on_one_line(line: &mut Vec<u8>, json: &[u8]) {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r' | 0xc2 | 0xe2)) {
        line.extend_from_slice(&rest[..at]);
        let (escape, taken): (&[u8], usize) = match &rest[at..] {
            [b'\n' | b'\r', ..] => (b" ", 1),
            [0xc2, 0x85, ..] => (b"\\u0085", 2),
            [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
            [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
            other => (&other[..1], 1),
        };
        line.extend_from_slice(escape);
        rest = &rest[at + taken..];
    }
    line.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    fn head(custom_id: &str) -> LineHead<'_> {
        LineHead::new(&BatchId::from_uuid(Uuid::from_u128(5)), RequestIndex(7), custom_id)
    }

    fn parse(line: &[u8]) -> Value {
        let text = std::str::from_utf8(line).expect("text");
        assert!(text.ends_with('\n'));
        assert!(!text[..text.len() - 1].contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']));
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn an_answer_keeps_its_body() {
        let line =
            parse(&head("row \"1\"").answered(b"{\n \"a\": \"x\\ny \xe2\x80\xa8 \xc2\x85 \xc3\xa9\"}"));
        assert_eq!(line["custom_id"], "row \"1\"");
        assert_eq!(line["response"]["status_code"], 200);
        assert_eq!(line["response"]["body"], json!({"a": "x\ny \u{2028} \u{85} \u{e9}"}));
        assert_eq!(line["error"], Value::Null);
        assert!(
            line["id"].as_str().is_some_and(|id| id.len() == 10 + 32 && id.starts_with("batch_req_"))
        );
        assert!(line["response"]["request_id"].as_str().is_some_and(|id| id.len() == 32));
    }

    #[test]
    fn a_refusal_keeps_the_engine_s_envelope_and_wraps_what_has_none() {
        let envelope = br#"{"error":{"message":"too long","type":"t","param":null,"code":"c"}}"#;
        let line = parse(&head("a").refused(400, envelope));
        assert_eq!(line["response"]["body"]["error"]["message"], "too long");
        for (body, message) in [
            (&b"<html>no</html>"[..], "<html>no</html>"),
            (b"", "the engine answered 422 and said nothing"),
            (b"{\"detail\":1}", "{\"detail\":1}"),
        ] {
            let line = parse(&head("a").refused(422, body));
            assert_eq!(line["response"]["status_code"], 422);
            assert_eq!(line["response"]["body"]["error"]["message"], message);
            assert_eq!(line["response"]["body"]["error"]["type"], "engine_error");
        }
    }

    #[test]
    fn no_answer_has_a_code_and_a_message() {
        let line = parse(&head("a").unanswered("batch_expired", "late"));
        assert_eq!(line["response"], Value::Null);
        assert_eq!(line["error"], json!({"code": "batch_expired", "message": "late"}));
    }

    #[test]
    fn ids_differ_by_request_and_stay_the_same() {
        let batch = BatchId::from_uuid(Uuid::from_u128(5));
        let id = |index| {
            parse(&LineHead::new(&batch, RequestIndex(index), "a").answered(b"{}"))["id"].clone()
        };
        assert_eq!(id(1), id(1));
        assert_eq!(id(1), LineHead::new(&batch, RequestIndex(1), "b").line_id());
        assert_ne!(id(1), id(2));
    }

    proptest! {
        #[test]
        fn any_text_stays_one_line(custom_id in "\\PC{0,20}|[\\n\u{85}\u{2028}\u{2029}\"\\\\]{0,9}", text in any::<String>()) {
            let body = json!({"t": text}).to_string();
            let line = parse(&head(&custom_id).answered(body.as_bytes()));
            prop_assert_eq!(line["custom_id"].as_str(), Some(custom_id.as_str()));
            prop_assert_eq!(line["response"]["body"]["t"].as_str(), Some(text.as_str()));
        }
    }
}
