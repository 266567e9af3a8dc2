//! Little-endian values out of a head whose every byte may lie.

use std::io::{self, BufRead, Read as _};

use overnight_domain::limits::GGUF_HEADER_LEN_MAX;

use super::error::Flaw;

pub(super) struct Reader<'a> {
    source: &'a mut dyn BufRead,
    at: u64,
    /// No head goes further: the end of the file, or of what we read of one.
    end: u64,
    file_len: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a mut dyn BufRead, end: u64, file_len: u64) -> Self {
        Self { source, at: 0, end, file_len }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// A file too short for a magic is none.
    pub(super) fn magic(&mut self) -> Result<[u8; 4], Flaw> {
        if self.file_len < 4 {
            return Err(Flaw::NotGguf(if self.file_len == 0 {
                ": it is empty"
            } else {
                ": it does not begin with `GGUF`"
            }));
        }
        self.bytes()
    }

    pub(super) fn u32(&mut self) -> Result<u32, Flaw> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Flaw> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// How many of something follow, each of which takes `len_min` bytes at least.
    pub(super) fn count(&mut self, of: &str, max: u64, len_min: u64) -> Result<u64, Flaw> {
        let count = self.u64()?;
        if count > max {
            return Err(Flaw::Broken(format!("it claims to have {count} {of}; {max} is the most")));
        }
        self.reserve(count.saturating_mul(len_min))?;
        Ok(count)
    }

    /// What is not UTF-8 is replaced: a message or a template may still be of use.
    pub(super) fn text(&mut self, of: &str, len_max: u64) -> Result<String, Flaw> {
        let len = self.u64()?;
        if len > len_max {
            return Err(Flaw::Broken(format!("{of} is {len} bytes long; {len_max} is the most")));
        }
        self.reserve(len)?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn skip(&mut self, len: u64) -> Result<(), Flaw> {
        self.reserve(len)?;
        let skipped =
            io::copy(&mut (&mut *self.source).take(len), &mut io::sink()).map_err(Flaw::Read)?;
        self.at += skipped;
        if skipped < len { Err(self.cut()) } else { Ok(()) }
    }

    /// Fails unless so many bytes can follow.
    pub(super) fn reserve(&self, len: u64) -> Result<(), Flaw> {
        if len <= self.end - self.at {
            Ok(())
        } else if self.end < self.file_len {
            Err(Flaw::Broken(format!("its head is longer than {GGUF_HEADER_LEN_MAX} bytes")))
        } else {
            Err(self.cut())
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Flaw> {
        self.reserve(bytes.len() as u64)?;
        self.source.read_exact(bytes).map_err(|error| match error.kind() {
            // Somebody cut the file while we read it.
            io::ErrorKind::UnexpectedEof => self.cut(),
            _ => Flaw::Read(error),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn cut(&self) -> Flaw {
        Flaw::HeadCut { len: self.file_len }
    }
}
