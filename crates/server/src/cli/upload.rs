//! Uploading a file, or a part of one, as a multipart form of known length. The bytes are streamed from disk.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use serde::Deserialize;

use super::client::{Client, ClientError, Patience};
use super::meter::Meter;
use crate::clock;

const PATH: &str = "/v1/files";

#[derive(Debug, Deserialize)]
struct FileView {
    id: String,
}

/// A stretch of a file that becomes a file of the server.
pub(super) struct Upload<'a> {
    pub(super) path: &'a Path,
    pub(super) filename: String,
    pub(super) range: Range<u64>,
    /// A batch of any size is meant.
    pub(super) is_large: bool,
}

/// Whether this caller may send a batch of any size. Asked with a form that lacks its file, so that nobody uploads
/// gigabytes to be refused.
pub(super) fn may_send_large(client: &Client) -> Result<bool, ClientError> {
    let form = Form::new(true, None);
    let bytes = form.head + &form.tail;
    let len = bytes.len() as u64;
    let body = || Ok(Box::new(io::Cursor::new(bytes.clone().into_bytes())) as Box<dyn Read>);
    match client.send_stream(PATH, &form.content_type, len, Patience::Brief, body) {
        Ok(_) => Ok(true),
        Err(ClientError::Refused(refusal)) if refusal.status == 403 => Ok(false),
        Err(ClientError::Refused(refusal))
            if refusal.status == 400 && refusal.param.as_deref() == Some("file") =>
        {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

impl Upload<'_> {
    /// Returns the id of the file.
    pub(super) fn send(&self, client: &Client) -> anyhow::Result<String> {
        let form = Form::new(self.is_large, Some(&self.filename));
        let file_len = self.range.end - self.range.start;
        let len = form.head.len() as u64 + file_len + form.tail.len() as u64;
        let label = format!("uploading {}", self.filename);
        let meter = Arc::new(Mutex::new(Meter::of_bytes(client.screen(), &label, file_len)));
        let open = || {
            let mut file = File::open(self.path)?;
            file.seek(SeekFrom::Start(self.range.start))?;
            let counted =
                Counted { file: file.take(file_len), done: 0, len: file_len, meter: meter.clone() };
            let head = io::Cursor::new(form.head.clone().into_bytes());
            let tail = io::Cursor::new(form.tail.clone().into_bytes());
            Ok(Box::new(head.chain(counted).chain(tail)) as Box<dyn Read>)
        };
        let response = client.send_stream(PATH, &form.content_type, len, Patience::Long, open);
        if let Some(meter) = Arc::into_inner(meter) {
            meter.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
        }
        let response =
            response.with_context(|| format!("failed to upload `{}`", self.path.display()))?;
        let (_, file) = client.read_json::<FileView>(response)?;
        Ok(file.id)
    }
}

/// What stands around the bytes of the file. Text fields come first: the server then knows the limits in time.
struct Form {
    content_type: String,
    head: String,
    tail: String,
}

impl Form {
    fn new(is_large: bool, filename: Option<&str>) -> Self {
        let boundary = format!("overnight-{}", clock::new_id().simple());
        let field = |name: &str, value: &str| {
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let mut head = field("purpose", "batch");
        if is_large {
            head += &field("overnight[large]", "true");
        }
        let mut tail = format!("--{boundary}--\r\n");
        if let Some(filename) = filename {
            let filename = filename.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
            let place = format!("name=\"file\"; filename=\"{filename}\"");
            head = format!("{head}--{boundary}\r\nContent-Disposition: form-data; {place}\r\n");
            head += "Content-Type: application/octet-stream\r\n\r\n";
            tail.insert_str(0, "\r\n");
        }
        Self { content_type: format!("multipart/form-data; boundary={boundary}"), head, tail }
    }
}

struct Counted {
    file: io::Take<File>,
    done: u64,
    len: u64,
    meter: Arc<Mutex<Meter>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if read == 0 && self.done < self.len && !buffer.is_empty() {
            return Err(io::Error::other("the file became shorter while it was read"));
        }
        self.done += read as u64;
        let (done, len) = (self.done, self.len);
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.set(done, len, || format!("{} of {} MB", done / 1_000_000, len / 1_000_000));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_carries_its_fields_before_the_file() {
        let form = Form::new(true, Some("a\"b\n.jsonl"));
        let boundary = form.content_type.split_once("boundary=").unwrap().1;
        let text = form.head.clone() + "{}" + &form.tail;
        let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
        assert_eq!(parts.len(), 5, "{text}");
        assert!(parts[1].contains("name=\"purpose\"") && parts[1].ends_with("\r\n\r\nbatch\r\n"));
        assert!(parts[2].contains("name=\"overnight[large]\""));
        assert!(
            parts[3].contains("filename=\"a%22b%0A.jsonl\"") && parts[3].ends_with("\r\n\r\n{}\r\n")
        );
        assert_eq!(parts[4], "--\r\n");
    }
}
