//! The chat template that a model carries, rendered as transformers does it with Jinja2.
//!
//! A template comes with the model, from anybody: it sees no file and no clock but the one it is given, and its work,
//! its depth and its text are bounded. What the dialect of Jinja here does not know is refused by name.

use std::collections::BTreeMap;
use std::io;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};
use overnight_domain::time::UnixTime;
use serde::Serialize as _;
use serde_json::ser::Formatter;

/// Instructions of one rendering. The largest template we know takes some thousand for each message.
const FUEL: u64 = 20_000_000;
/// Larger than any context.
const TEXT_LEN_MAX: usize = 16 * 1024 * 1024;
const TEMPLATE_LEN_MAX: usize = 1024 * 1024;
const RECURSION_MAX: usize = 64;
const NAME: &str = "chat_template";

/// A template that was compiled.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    start: String,
    end: String,
}

/// What a template is given.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    pub(crate) messages: &'a [Value],
    pub(crate) tools: &'a [Value],
    pub(crate) values: &'a BTreeMap<String, Value>,
    pub(crate) now: UnixTime,
}

impl Template {
    /// `start` and `end` are the texts of the model's own tokens for them.
    pub(crate) fn new(source: String, start: String, end: String) -> Result<Self, String> {
        if source.len() > TEMPLATE_LEN_MAX {
            return Err(format!("it has {} bytes, where {TEMPLATE_LEN_MAX} are allowed", source.len()));
        }
        let mut environment = Environment::new();
        let mut syntax = minijinja::syntax::SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(|error| error.to_string())?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(format_like_python);
        environment.add_test("iterable", is_iterable);
        environment.add_function("raise_exception", raise);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source).map_err(|error| told(&error))?;
        Ok(Self { environment, start, end })
    }

    /// Whether a rendered text begins with the start token.
    pub(crate) fn has_start(&self, text: &str) -> bool {
        !self.start.is_empty() && text.starts_with(&self.start)
    }

    /// The prompt, up to where the model's turn begins.
    pub(crate) fn render(&self, given: &Given<'_>) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|error| told(&error))?;
        let millis = i64::try_from(given.now.millis()).unwrap_or(i64::MAX);
        let now = jiff::Timestamp::from_millisecond(millis).map_err(|error| error.to_string())?;
        let now = now.to_zoned(jiff::tz::TimeZone::UTC);
        let strftime_now = move |format: String| -> Result<String, Error> {
            let printed = jiff::fmt::strtime::format(&format, &now);
            printed.map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
        };
        let mut values: BTreeMap<&str, Value> =
            given.values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        values.extend([
            ("messages", Value::from(given.messages.to_vec())),
            ("add_generation_prompt", Value::from(true)),
            ("bos_token", Value::from(self.start.as_str())),
            ("eos_token", Value::from(self.end.as_str())),
            ("strftime_now", Value::from_function(strftime_now)),
        ]);
        if !given.tools.is_empty() {
            values.insert("tools", Value::from(given.tools.to_vec()));
        }
        // transformers has these two always, and templates ask whether they are none.
        for absent in ["tools", "documents"] {
            values.entry(absent).or_insert(Value::from(()));
        }
        let mut text = Bounded(Vec::new());
        template
            .render_captured_to(Value::from_pairs(values), &mut text)
            .map_err(|error| told(&error))?;
        String::from_utf8(text.0).map_err(|_| "its text is no UTF-8".to_owned())
    }
}

/// The first message of which the text has nothing, with its role: there are templates that know no system, and leave it
/// out without a word.
pub(crate) fn left_out(messages: &[Value], text: &str) -> Option<(usize, String)> {
    let member = |message: &Value, name: &str| message.get_attr(name).unwrap_or_default();
    messages.iter().enumerate().find_map(|(at, message)| {
        let role = member(message, "role").to_string();
        let content = member(message, "content");
        // What was answered before may be cut: templates leave out what a model only thought.
        let content = content.as_str().map(str::trim).filter(|_| role != "assistant")?;
        let escaped = serde_json::to_string(content).unwrap_or_default();
        let is_there = text.contains(content) || text.contains(escaped.trim_matches('"'));
        (!is_there).then_some((at, role))
    })
}

/// The error with what caused it, on one line.
fn told(error: &Error) -> String {
    let place = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    format!("{what}{place}")
}

fn raise(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// What Python calls a value that is no text.
fn format_like_python(
    output: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => write!(output, "None").map_err(Error::from),
        ValueKind::Bool => {
            let text = if value.is_true() { "True" } else { "False" };
            write!(output, "{text}").map_err(Error::from)
        }
        _ => minijinja::escape_formatter(output, state, value),
    }
}

/// None is not, other than here by default: templates ask it before they count.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && !value.is_undefined() && value.try_iter().is_ok()
}

/// As Python's `json.dumps` writes it, which is not as Jinja2's own filter does: transformers replaces that.
#[expect(clippy::needless_pass_by_value, reason = "filters take their arguments by value")]
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let failed =
        |error: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let is_ascii: Option<bool> = options.get("ensure_ascii")?;
    let is_sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    if is_ascii == Some(true) || is_sorted == Some(true) || indent.is_some_and(|indent| indent > 16) {
        return Err(failed(&"`tojson` with `ensure_ascii`, `sort_keys` or so wide an `indent`"));
    }
    let (between, after_name) = match separators.as_deref() {
        Some([between, after_name]) => (between.clone(), after_name.clone()),
        Some(_) => return Err(failed(&"`separators` of `tojson` are two")),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let formatter = Python { between, after_name, indent, depth: 0, has_value: false };
    let mut text = Bounded(Vec::new());
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    value.serialize(&mut serializer).map_err(|error| failed(&error))?;
    String::from_utf8(text.0).map(Value::from).map_err(|error| failed(&error))
}

struct Python {
    between: String,
    after_name: String,
    indent: Option<usize>,
    depth: usize,
    has_value: bool,
}

impl Python {
    fn line<W: io::Write + ?Sized>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        writeln!(writer)?;
        write!(writer, "{:1$}", "", indent * self.depth)
    }

    fn open<W: io::Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        writer.write_all(bracket)
    }

    fn close<W: io::Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_value {
            self.line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn next<W: io::Write + ?Sized>(&self, writer: &mut W, is_first: bool) -> io::Result<()> {
        if !is_first {
            writer.write_all(self.between.as_bytes())?;
        }
        self.line(writer)
    }
}

impl Formatter for Python {
    fn begin_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.after_name.as_bytes())
    }

    fn end_object_value<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }
}

/// Text up to a length.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > TEXT_LEN_MAX {
            return Err(io::Error::other(format!("its text is longer than {TEXT_LEN_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
