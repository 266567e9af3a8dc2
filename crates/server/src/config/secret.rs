//! Values that must never be shown: they are named in the configuration, and read from somewhere else.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::Secret;
use super::environment::Environment;

/// Longer is no key, but a wrong file.
const SECRET_LEN_MAX: usize = 64 * 1024;

/// Reads `env:NAME` or `file:PATH`.
pub(super) fn read(reference: &str, environment: &Environment) -> Result<Secret, String> {
    let value = match reference.split_once(':') {
        Some(("env", name)) => environment
            .get(name)
            .ok_or_else(|| format!("names the variable `{name}`, which is not set"))?
            .to_owned(),
        Some(("file", path)) => read_file(Path::new(path))
            .map_err(|error| format!("names the file `{path}`, which cannot be read: {error}"))?,
        // The text itself may be the secret: it is not repeated.
        _ => return Err("must be `env:NAME` or `file:PATH`, never the secret itself".to_owned()),
    };
    let value = value.trim();
    if value.is_empty() {
        return Err(format!("`{reference}` is empty"));
    }
    if value.len() > SECRET_LEN_MAX || value.contains(['\n', '\r', '\0']) {
        return Err(format!("`{reference}` is no key: it must be one line of text"));
    }
    Ok(Secret::new(value))
}

/// The value of a header, given as it is or by reference.
pub(super) fn header(name: &str, text: String, environment: &Environment) -> Result<Secret, String> {
    let value = if is_reference(&text) { read(&text, environment)? } else { Secret::new(text) };
    if http::HeaderName::try_from(name).is_err() || http::HeaderValue::try_from(value.expose()).is_err()
    {
        return Err("is no header that HTTP could carry".to_owned());
    }
    Ok(value)
}

/// A little more than a key at most, so that a wrong file is seen as one without being read to its end.
fn read_file(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SECRET_LEN_MAX as u64 * 2).read_to_string(&mut text)?;
    Ok(text)
}

/// Whether the text names a secret rather than being one.
pub(crate) fn is_reference(text: &str) -> bool {
    text.starts_with("env:") || text.starts_with("file:")
}
