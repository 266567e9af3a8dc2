//! What goes over the wire for an answer that is not plain: a list of steps, put together without a socket.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};

use crate::answer::{Question, empty_answer, write_answer, write_error};
use crate::directive::Directive;
use crate::garbage::Garbage;
use crate::wire::{push_head, push_json_answer, push_ok_head};

/// One thing to do on the connection. When the steps are done, the connection takes the next request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Send(Bytes),
    Repeat {
        bytes: Bytes,
        times: u64,
    },
    /// One byte at a time, with a pause before each.
    Trickle {
        bytes: Bytes,
        period: Duration,
    },
    /// Nothing, until the client leaves.
    Wait,
    /// Close in good order (FIN).
    Close,
    /// Close with RST.
    Reset,
    /// The engine dies.
    Crash,
}

/// The steps of one class of garbage, in place of the answer to this question.
pub(crate) fn steps_of(garbage: Garbage, question: &Question<'_>, directive: &Directive) -> Vec<Step> {
    let mut answer = Vec::new();
    if let Err(bad) = write_answer(question, &mut answer) {
        // Garbage is asked for; that the request is bad as well must not hide it.
        write_error(&mut answer, &bad.0, "invalid_request_error", None);
    }
    let answer = answer.as_slice();
    let half = &answer[..answer.len() / 2];
    let body_len = directive.len.unwrap_or(1 << 30);
    match garbage {
        Garbage::Hang => vec![Step::Wait],
        Garbage::SlowLoris => {
            let period = directive.period.unwrap_or(Duration::from_secs(1));
            vec![Step::Trickle { bytes: declared(answer.len(), answer), period }]
        }
        Garbage::HalfJson => vec![Step::Send(declared(half.len(), half))],
        Garbage::Truncated => vec![Step::Send(declared(answer.len(), half)), Step::Close],
        Garbage::WrongLengthShort => vec![Step::Send(declared(half.len(), answer))],
        Garbage::WrongLengthLong => vec![Step::Send(declared(answer.len() + 100, answer)), Step::Wait],
        Garbage::Huge => huge(body_len),
        Garbage::GzipBomb => gzip_bomb(body_len),
        Garbage::EarlyClose => vec![Step::Close],
        Garbage::EndlessHeaders => endless_headers(directive.len.unwrap_or(64 << 20)),
        Garbage::BadStatusLine => vec![Step::Send(Bytes::from_static(b"HELLO THERE\r\n\r\n")), Step::Close],
        Garbage::BadChunk => {
            vec![sent(b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nXYZ\r\n{}\r\n"), Step::Close]
        }
        Garbage::TruncatedSse => vec![
            sent(b"content-type: text/event-stream\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n"),
            Step::Close,
        ],
        Garbage::Html200 => {
            let page = "<!DOCTYPE html>\n<html><body><h1>Welcome to nginx!</h1></body></html>\n";
            let mut out = Vec::new();
            push_head(&mut out, 200, "content-type: text/html\r\n", page.len() as u64);
            out.extend_from_slice(page.as_bytes());
            vec![Step::Send(out.into())]
        }
        Garbage::InvalidUtf8
        | Garbage::WrongShape
        | Garbage::EmptyChoices
        | Garbage::DuplicateKeys
        | Garbage::Nan
        | Garbage::NewlineNoise
        | Garbage::EmptyBody
        | Garbage::NotObject
        | Garbage::DeepNesting => {
            let body = wrong_body(garbage, question, answer);
            vec![Step::Send(declared(body.len(), &body))]
        }
    }
}

/// A JSON answer for a status, with the headers that belong to it.
pub(crate) fn push_status(out: &mut Vec<u8>, status: u16, directive: &Directive, answer: &[u8]) {
    let mut headers = String::new();
    if let Some(retry_after) = &directive.retry_after {
        headers.extend(["retry-after: ", retry_after, "\r\n"]);
    }
    if (300..400).contains(&status) {
        headers.push_str("location: /elsewhere\r\n");
    }
    if (200..300).contains(&status) {
        push_json_answer(out, status, &headers, answer);
    } else {
        let code = directive.code.as_deref();
        crate::wire::push_error_answer(
            out,
            status,
            &headers,
            &format!("scripted status {status}"),
            code,
        );
    }
}

/// Bodies that come whole and in good form over HTTP, and are wrong in themselves.
fn wrong_body(garbage: Garbage, question: &Question<'_>, answer: &[u8]) -> Vec<u8> {
    match garbage {
        Garbage::InvalidUtf8 => {
            let mut body = answer.to_vec();
            let place = body.len() / 2;
            body.splice(place..place, [0xFF, 0xC3, 0x28]);
            body
        }
        Garbage::WrongShape => {
            br#"{"object":"list","data":[{"id":"sim-model","object":"model"}]}"#.to_vec()
        }
        Garbage::EmptyChoices => empty_answer(question.route).as_bytes().to_vec(),
        Garbage::DuplicateKeys => {
            let mut body = answer[..answer.len() - 1].to_vec();
            body.extend_from_slice(br#","id":"twice","choices":[],"data":[],"output":[],"results":[]}"#);
            body
        }
        Garbage::Nan => {
            let mut body = answer[..answer.len() - 1].to_vec();
            body.extend_from_slice(b",\"score\":NaN,\"limit\":-Infinity}");
            body
        }
        Garbage::NewlineNoise => noisy(answer),
        Garbage::EmptyBody => Vec::new(),
        Garbage::NotObject => b"[1,2,3]".to_vec(),
        _ => {
            let mut body = vec![b'['; 100_000];
            body.resize(200_000, b']');
            body
        }
    }
}

/// The answer over many lines: `\n`, `\r\n`, tabs and blanks wherever JSON allows them.
fn noisy(answer: &[u8]) -> Vec<u8> {
    let mut body = b"\n\n \t".to_vec();
    let (mut in_string, mut is_escaped) = (false, false);
    for &byte in answer {
        let was_in_string = in_string;
        if in_string {
            in_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
        } else {
            in_string = byte == b'"';
        }
        body.push(byte);
        if !was_in_string && matches!(byte, b'{' | b'[' | b',' | b':') {
            body.extend_from_slice(if byte == b',' { b"\r\n\t" } else { b"\n  " });
        }
    }
    body.extend_from_slice(b"\n\r\n");
    body
}

/// A head that announces `len` bytes, and what really follows it.
fn declared(len: usize, body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(body.len() + 128);
    push_ok_head(&mut out, len);
    out.extend_from_slice(body);
    out.into()
}

/// Status 200 and whatever follows its line.
fn sent(rest: &[u8]) -> Step {
    Step::Send([b"HTTP/1.1 200 OK\r\n", rest].concat().into())
}

fn huge(body_len: u64) -> Vec<Step> {
    let body_len = body_len.max((HUGE_START.len() + HUGE_END.len()) as u64);
    let filler = body_len - (HUGE_START.len() + HUGE_END.len()) as u64;
    let block = Bytes::from(vec![b'x'; BLOCK_LEN]);
    let mut start = Vec::new();
    push_head(&mut start, 200, "content-type: application/json\r\n", body_len);
    start.extend_from_slice(HUGE_START);
    start.resize(start.len() + (filler % BLOCK_LEN as u64) as usize, b'x');
    vec![
        Step::Send(start.into()),
        Step::Repeat { bytes: block, times: filler / BLOCK_LEN as u64 },
        Step::Send(Bytes::from_static(HUGE_END)),
    ]
}

fn endless_headers(len: u64) -> Vec<Step> {
    let line = Bytes::from(format!("x-noise: {}\r\n", "n".repeat(1000)));
    let times = len / line.len() as u64;
    vec![sent(b""), Step::Repeat { bytes: line, times }, Step::Close]
}

/// One gzip member that unpacks to an answer of about `unpacked_len` bytes. Behind a full flush a deflate block refers to
/// nothing before it, so that one block of blanks may be repeated as often as wanted.
fn gzip_bomb(unpacked_len: u64) -> Vec<Step> {
    static PARTS: OnceLock<BombParts> = OnceLock::new();
    let parts = PARTS.get_or_init(BombParts::pack);
    let times = unpacked_len / BOMB_BLOCK_LEN as u64;
    let mut crc = Crc::new();
    crc.update(HUGE_START);
    for _ in 0..times {
        crc.combine(&parts.block_crc);
    }
    crc.update(HUGE_END);
    let mut end = parts.end.clone();
    end.extend_from_slice(&crc.sum().to_le_bytes());
    end.extend_from_slice(&crc.amount().to_le_bytes());
    let packed_len =
        GZIP_HEAD.len() + parts.start.len() + end.len() + parts.block.len() * times as usize;
    let mut start = Vec::new();
    let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    push_head(&mut start, 200, headers, packed_len as u64);
    start.extend_from_slice(GZIP_HEAD);
    start.extend_from_slice(&parts.start);
    vec![
        Step::Send(start.into()),
        Step::Repeat { bytes: parts.block.clone(), times },
        Step::Send(end.into()),
    ]
}

struct BombParts {
    start: Vec<u8>,
    block: Bytes,
    block_crc: Crc,
    end: Vec<u8>,
}

impl BombParts {
    fn pack() -> Self {
        let block = vec![b' '; BOMB_BLOCK_LEN];
        let mut deflate = Compress::new(Compression::best(), false);
        let start = packed(&mut deflate, HUGE_START, FlushCompress::Full);
        let packed_block = packed(&mut deflate, &block, FlushCompress::Full).into();
        let end = packed(&mut deflate, HUGE_END, FlushCompress::Finish);
        let mut block_crc = Crc::new();
        block_crc.update(&block);
        Self { start, block: packed_block, block_crc, end }
    }
}

fn packed(deflate: &mut Compress, bytes: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / 100 + 1024);
    deflate.compress_vec(bytes, &mut out, flush).expect("deflate takes any bytes");
    out
}

const HUGE_START: &[u8] =
    b"{\"id\":\"chatcmpl-0\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"content\":\"";
const HUGE_END: &[u8] = b"\"}}]}";
const BLOCK_LEN: usize = 64 << 10;
const BOMB_BLOCK_LEN: usize = 1 << 20;
/// Deflate, no flags, no time, best compression, unknown system.
const GZIP_HEAD: &[u8] = &[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 255];

#[cfg(test)]
mod tests {
    use std::io::Read;

    use overnight_domain::route::Route;
    use serde_json::Value;

    use super::*;
    use crate::directive::Text;

    fn question() -> Question<'static> {
        Question {
            route: Route::ChatCompletions,
            body: b"{}",
            hash: 1,
            model: "m",
            text: Text::Unicode,
            len: None,
            embedding_len: 4,
            shape: crate::shape::Shape::OpenAi,
        }
    }

    fn bytes_of(steps: &[Step]) -> Vec<u8> {
        let mut out = Vec::new();
        for step in steps {
            match step {
                Step::Send(bytes) | Step::Trickle { bytes, .. } => out.extend_from_slice(bytes),
                Step::Repeat { bytes, times } => (0..*times).for_each(|_| out.extend_from_slice(bytes)),
                Step::Wait | Step::Close | Step::Reset | Step::Crash => {}
            }
        }
        out
    }

    fn body_of(garbage: Garbage, len: Option<u64>) -> Vec<u8> {
        let directive = Directive { len, ..Directive::default() };
        let bytes = bytes_of(&steps_of(garbage, &question(), &directive));
        let end = memchr::memmem::find(&bytes, b"\r\n\r\n").expect("a head");
        bytes[end + 4..].to_vec()
    }

    #[test]
    fn noise_is_the_same_json() {
        let mut answer = Vec::new();
        write_answer(&question(), &mut answer).unwrap();
        let noisy = body_of(Garbage::NewlineNoise, None);
        assert!(noisy.split(|byte| *byte == b'\n').count() > 10);
        assert_eq!(
            serde_json::from_slice::<Value>(&noisy).unwrap(),
            serde_json::from_slice::<Value>(&answer).unwrap()
        );
    }

    #[test]
    fn huge_is_valid_json_of_the_length_asked_for() {
        for len in [200, 65_536, 1_000_000] {
            let body = body_of(Garbage::Huge, Some(len));
            assert_eq!(body.len() as u64, len);
            serde_json::from_slice::<Value>(&body).unwrap();
        }
    }

    #[test]
    fn the_bomb_unpacks_and_its_checksum_holds() {
        let body = body_of(Garbage::GzipBomb, Some(5 << 20));
        assert!(body.len() < 20_000, "{} bytes", body.len());
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked.len(), (5 << 20) + HUGE_START.len() + HUGE_END.len());
        serde_json::from_slice::<Value>(&unpacked).unwrap();
    }

    #[test]
    fn what_shall_be_no_json_is_none() {
        for garbage in [
            Garbage::HalfJson,
            Garbage::InvalidUtf8,
            Garbage::Nan,
            Garbage::EmptyBody,
            Garbage::Html200,
            Garbage::DeepNesting,
        ] {
            assert!(serde_json::from_slice::<Value>(&body_of(garbage, None)).is_err(), "{garbage}");
        }
        for garbage in
            [Garbage::WrongShape, Garbage::EmptyChoices, Garbage::DuplicateKeys, Garbage::NotObject]
        {
            serde_json::from_slice::<Value>(&body_of(garbage, None)).unwrap();
        }
    }
}
