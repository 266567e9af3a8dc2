//! Reading the bytes of a stored file, across broken connections and restarts: what was read already is not asked for
//! again.

use std::io::{self, Read};

use ureq::BodyReader;

use super::client::{Call, Client, Patience};

/// Without progress in between, a file that breaks so often is given up.
const BREAKS_MAX: u32 = 10;

pub(super) struct Download {
    client: Client,
    path: String,
    reader: Option<BodyReader<'static>>,
    offset: u64,
    breaks: u32,
    /// For its beginning. In the midst of a file there is always time.
    patience: Patience,
}

impl Download {
    /// The content of a file of the server.
    pub(super) fn of_file(client: &Client, id: &str) -> Self {
        let path = format!("/v1/files/{id}/content");
        let patience = Patience::Brief;
        Self { client: client.clone(), path, reader: None, offset: 0, breaks: 0, patience }
    }

    /// For a server that was there a moment ago: it is waited for from the beginning.
    pub(super) fn patient(mut self) -> Self {
        self.patience = Patience::Long;
        self
    }

    pub(super) fn call(&self) -> Call {
        let call = Call::get(&self.path).from(self.offset);
        if self.offset > 0 || self.patience == Patience::Long { call.patient() } else { call }
    }

    fn open(&mut self) -> io::Result<BodyReader<'static>> {
        let response = self.client.send(&self.call()).map_err(io::Error::other)?;
        let is_partial = response.status() == http::StatusCode::PARTIAL_CONTENT;
        let mut reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        if !is_partial && self.offset > 0 {
            let skipped = io::copy(&mut (&mut reader).take(self.offset), &mut io::sink())?;
            if skipped < self.offset {
                return Err(io::Error::other("the file became shorter while it was read"));
            }
        }
        Ok(reader)
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut reader = match self.reader.take() {
                Some(reader) => reader,
                None => self.open()?,
            };
            match reader.read(buffer) {
                Ok(read) => {
                    self.offset += read as u64;
                    if read > 0 {
                        self.breaks = 0;
                    }
                    self.reader = Some(reader);
                    return Ok(read);
                }
                Err(error) => {
                    self.breaks += 1;
                    if self.breaks > BREAKS_MAX {
                        return Err(error);
                    }
                }
            }
        }
    }
}
