//! `hf:org/repo[@revision]/file.gguf`, as people write it, and the names of the parts of a model in several files.

use std::fmt;
use std::str::FromStr;

use overnight_domain::limits::MODEL_PARTS_MAX;

const SCHEME: &str = "hf:";
const REVISION: &str = "main";
/// The longest that the hub has, and that folders have room for.
const NAME_LEN_MAX: usize = 96;
const PATH_LEN_MAX: usize = 512;

/// A file on the hub. Its parts are safe as parts of a path and of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `org/repo`.
    pub(super) repo: String,
    pub(super) revision: String,
    pub(super) file: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` names no model: {reason}; write `hf:org/repo/file.gguf` or `hf:org/repo@revision/file.gguf`"
)]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl Address {
    /// None: the text is no address of this kind but a path.
    pub fn from_model(text: &str) -> Option<Result<Self, AddressError>> {
        text.starts_with(SCHEME).then(|| text.parse())
    }

    /// The file, and all parts of it when it is one part of several.
    pub fn files(&self) -> Vec<String> {
        let (folder, name) = self.file.rsplit_once('/').unwrap_or(("", &self.file));
        let within = |name: String| if folder.is_empty() { name } else { format!("{folder}/{name}") };
        split_parts(name)
            .map_or_else(|| vec![self.file.clone()], |names| names.into_iter().map(within).collect())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let failed = |reason| AddressError { text: text.to_owned(), reason };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| failed("it does not begin with `hf:`"))?;
        let mut parts = rest.splitn(3, '/');
        let (org, repo, mut file) = match (parts.next(), parts.next(), parts.next()) {
            (Some(org), Some(repo), Some(file)) if !file.is_empty() => (org, repo, file),
            _ => return Err(failed("organisation, repository and file are all needed")),
        };
        let (repo, mut revision) = match repo.split_once('@') {
            Some((repo, revision)) => (repo, revision.to_owned()),
            None => (repo, REVISION.to_owned()),
        };
        // `refs/pr/1`: the only revisions of the hub itself that have slashes in them.
        if revision == "refs" {
            let mut parts = file.splitn(3, '/');
            if let (Some(kind), Some(name), Some(rest)) = (parts.next(), parts.next(), parts.next()) {
                revision = format!("refs/{kind}/{name}");
                file = rest;
            }
        }
        if !is_name(org) || !is_name(repo) {
            return Err(failed(
                "the organisation or the repository has a name that the hub does not allow",
            ));
        }
        if !is_safe_path(&revision) {
            return Err(failed("the revision is no branch, tag or commit"));
        }
        if !is_safe_path(file) {
            return Err(failed("the file's name cannot be one in a repository"));
        }
        if !has_suffix(file) {
            return Err(failed("only files that end in `.gguf` can be loaded"));
        }
        Ok(Self { repo: format!("{org}/{repo}"), revision, file: file.to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repo, revision, file } = self;
        match revision.as_str() {
            REVISION => write!(f, "{SCHEME}{repo}/{file}"),
            _ => write!(f, "{SCHEME}{repo}@{revision}/{file}"),
        }
    }
}

/// The names of all parts when `NAME-00002-of-00003.gguf` is that of one.
pub fn split_parts(name: &str) -> Option<Vec<String>> {
    let stem = name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| match text.len() {
        5 if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse::<u32>().ok(),
        _ => None,
    };
    let (number, count) = (digits(number)?, digits(count)?);
    if number == 0 || number > count || count > MODEL_PARTS_MAX {
        return None;
    }
    Some((1..=count).map(|number| format!("{prefix}-{number:05}-of-{count:05}.gguf")).collect())
}

pub(super) fn has_suffix(file: &str) -> bool {
    file.rsplit_once('.').is_some_and(|(stem, suffix)| !stem.is_empty() && suffix == "gguf")
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: char| matches!(c, '-' | '.');
    (1..=NAME_LEN_MAX).contains(&text.len())
        && text.chars().all(allowed)
        && !text.starts_with(edge)
        && !text.ends_with(edge)
        && !text.contains("..")
        && !text.contains("--")
}

/// Whether it stays below the folder that it is joined to, on any system.
pub(super) fn is_safe_path(text: &str) -> bool {
    let allowed =
        |c: char| !c.is_control() && !matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    text.len() <= PATH_LEN_MAX
        && text.chars().all(allowed)
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with("..") && part != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> [String; 3] {
        let Address { repo, revision, file } = text.parse().expect("an address");
        [repo, revision, file]
    }

    #[test]
    fn an_address_has_repository_revision_and_file() {
        assert_eq!(parsed("hf:org/repo/a.gguf"), ["org/repo", "main", "a.gguf"]);
        assert_eq!(parsed("hf:org/repo@v1.0/b/a b.gguf"), ["org/repo", "v1.0", "b/a b.gguf"]);
        assert_eq!(parsed("hf:org/repo@refs/pr/7/a.gguf"), ["org/repo", "refs/pr/7", "a.gguf"]);
        for text in ["hf:org/repo/a.gguf", "hf:org/repo@refs/pr/7/b/a.gguf"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert!(Address::from_model("models/a.gguf").is_none());
    }

    #[test]
    fn what_could_leave_the_cache_or_is_no_model_is_refused_with_the_form() {
        let long = format!("hf:{}/repo/a.gguf", "o".repeat(97));
        let wrong = [
            "hf:",
            "hf:org",
            "hf:org/repo",
            "hf:org/repo/",
            "hf:/repo/a.gguf",
            "hf:../repo/a.gguf",
            "hf:org/..@main/a.gguf",
            "hf:org/repo@/a.gguf",
            "hf:org/repo@../a.gguf",
            "hf:org/repo@refs/../../a.gguf",
            "hf:org/repo/../a.gguf",
            "hf:org/repo/b//a.gguf",
            "hf:org/repo/b\\a.gguf",
            "hf:org/repo/a\n.gguf",
            "hf:org/repo/a.bin",
            "hf:org/repo/.gguf",
            "hf:org/re--po/a.gguf",
            "org/repo/a.gguf",
            &long,
        ];
        for text in wrong {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains("hf:org/repo/file.gguf"), "{error}");
        }
    }

    #[test]
    fn any_part_stands_for_all_of_them() {
        let files = |text: &str| text.parse::<Address>().unwrap().files();
        assert_eq!(
            files("hf:o/r/q4/m-00002-of-00003.gguf"),
            ["q4/m-00001-of-00003.gguf", "q4/m-00002-of-00003.gguf", "q4/m-00003-of-00003.gguf"]
        );
        assert_eq!(files("hf:o/r/m-00001-of-00001.gguf"), ["m-00001-of-00001.gguf"]);
        for single in ["m.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-1-of-3.gguf"] {
            assert_eq!(files(&format!("hf:o/r/{single}")), [single]);
        }
        assert_eq!(split_parts("m-00001-of-99999.gguf"), None);
    }
}
