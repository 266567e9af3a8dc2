//! Writing HTTP/1.1 heads.

use crate::answer::{push_number, write_error};

/// The head of an answer with status 200 and a JSON body.
pub(crate) fn push_ok_head(out: &mut Vec<u8>, body_len: usize) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ");
    push_number(out, body_len as u64);
    out.extend_from_slice(b"\r\n\r\n");
}

/// Any head: `headers` are whole lines with their line ends.
pub(crate) fn push_head(out: &mut Vec<u8>, status: u16, headers: &str, body_len: u64) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_number(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(headers.as_bytes());
    out.extend_from_slice(b"content-length: ");
    push_number(out, body_len);
    out.extend_from_slice(b"\r\n\r\n");
}

/// A whole JSON answer.
pub(crate) fn push_json_answer(out: &mut Vec<u8>, status: u16, headers: &str, body: &[u8]) {
    push_head(out, status, &format!("content-type: application/json\r\n{headers}"), body.len() as u64);
    out.extend_from_slice(body);
}

/// A whole answer in OpenAI's error envelope.
pub(crate) fn push_error_answer(
    out: &mut Vec<u8>,
    status: u16,
    headers: &str,
    message: &str,
    code: Option<&str>,
) {
    let mut body = Vec::new();
    write_error(&mut body, message, error_type(status), code);
    push_json_answer(out, status, headers, &body);
}

const fn error_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        529 => "Site Is Overloaded",
        _ => "Scripted",
    }
}
