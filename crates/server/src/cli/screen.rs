//! Where words go: results to standard output, everything else to standard error.

use std::io::{self, BufWriter, IsTerminal as _, Write};

/// Standard output, or a file that stands in for it.
pub(super) type Out = BufWriter<Box<dyn Write>>;

/// Enough for a few result lines at a time.
const BUFFER_LEN: usize = 64 * 1024;

#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    pub(super) is_json: bool,
    /// Standard error is where progress is drawn.
    pub(super) is_terminal: bool,
}

impl Screen {
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_json, is_terminal: io::stderr().is_terminal() }
    }

    /// A line for people. It is lost when nobody can read it.
    #[expect(clippy::unused_self, reason = "a screen is needed to write on it")]
    pub(super) fn note(self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    #[expect(clippy::unused_self, reason = "a screen is needed to write on it")]
    pub(super) fn out(self) -> Out {
        BufWriter::with_capacity(BUFFER_LEN, Box::new(io::stdout()))
    }

    /// One line of result.
    pub(super) fn print(self, text: &str) -> io::Result<()> {
        let mut out = self.out();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// A table with its columns aligned; the last column is as long as it is.
    pub(super) fn print_table(self, head: &[&str], lines: &[Vec<String>]) -> io::Result<()> {
        let mut widths: Vec<usize> = head.iter().map(|name| name.len()).collect();
        for line in lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = self.out();
        let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
        for line in [&head].into_iter().chain(lines) {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                text = format!("{text}{cell:<width$}  ");
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        out.flush()
    }
}
