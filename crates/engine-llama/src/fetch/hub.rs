//! Which hub, whose token and which cache: by the variables that all tools of the hub know.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::error::FetchError;

const ENDPOINT: &str = "https://huggingface.co";
/// A token has some 40 characters.
const TOKEN_LEN_MAX: usize = 4_096;

#[derive(Debug, Clone)]
pub struct Hub {
    /// Without a slash at its end.
    pub(super) endpoint: String,
    pub(super) token: Option<Token>,
    pub(super) cache: PathBuf,
    pub(super) is_offline: bool,
    pub(super) patience: Patience,
}

/// A secret: shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// How long what may pass is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Before the first repetition; twice as long before each further one, at most a minute.
    pub pause: Duration,
    /// Repetitions without progress.
    pub repeats_max: u32,
    /// No byte for this long is a cut.
    pub silence_max: Duration,
    /// Another process holds the file without a byte more for this long.
    pub lock_silence_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            pause: Duration::from_secs(1),
            repeats_max: 6,
            silence_max: Duration::from_secs(60),
            lock_silence_max: Duration::from_secs(600),
        }
    }
}

impl Hub {
    /// `variable` gives a variable of the environment, none for one that is empty.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, FetchError> {
        let path = |name: &str| variable(name).map(|text| expand(&text, variable));
        let is_set = |name: &str| {
            variable(name).is_some_and(|value| {
                matches!(value.trim().to_lowercase().as_str(), "1" | "on" | "yes" | "true")
            })
        };
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let reason = format!("`{endpoint}` does not begin with `https://` or `http://`");
            return Err(FetchError::Variable { name: "HF_ENDPOINT", reason });
        }
        let home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(path("HOME")?.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home.as_ref()?.join("hub")))
            .ok_or_else(|| FetchError::Variable {
                name: "HF_HUB_CACHE",
                reason: "neither it nor `HOME` is set, so there is no place for models".to_owned(),
            })?;
        // Without a variable, what `hf auth login` has left; most people never did.
        let left = || {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")))?;
            Some(("HF_TOKEN_PATH", std::fs::read_to_string(file).ok()?))
        };
        let given = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
        let token = given.map(|text| ("HF_TOKEN", text)).or_else(left);
        let token = token.map(|(name, text)| Token::new(name, &text)).transpose()?.flatten();
        let is_offline = is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE");
        Ok(Self { endpoint, token, cache, is_offline, patience: Patience::default() })
    }

    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }
}

impl Token {
    /// None: there is nothing in it.
    fn new(name: &'static str, text: &str) -> Result<Option<Self>, FetchError> {
        let text = text.trim();
        if text.len() > TOKEN_LEN_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = "it has characters in it that no token has".to_owned();
            return Err(FetchError::Variable { name, reason });
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// `~/models`, as shells and Python understand it.
fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    match (text.strip_prefix('~'), variable("HOME")) {
        (Some(""), Some(home)) => PathBuf::from(home),
        (Some(rest), Some(home)) if rest.starts_with('/') => PathBuf::from(format!("{home}{rest}")),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(pairs: &[(&str, &str)]) -> Result<Hub, FetchError> {
        let find = |name: &str| {
            let found = pairs.iter().find(|(known, value)| *known == name && !value.is_empty());
            found.map(|(_, value)| (*value).to_owned())
        };
        Hub::from_variables(&find)
    }

    #[test]
    fn the_cache_is_where_other_tools_have_it() {
        let cache = |pairs: &[(&str, &str)]| hub(pairs).unwrap().cache.display().to_string();
        let home = ("HOME", "/h");
        assert_eq!(cache(&[home]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/m")]), "/h/m/hub");
        assert_eq!(cache(&[home, ("HF_HOME", "/m"), ("HF_HUB_CACHE", "/c")]), "/c");
        let error = hub(&[]).unwrap_err().to_string();
        assert!(error.contains("HF_HUB_CACHE"), "{error}");
    }

    #[test]
    fn endpoint_token_and_offline_are_read_and_the_token_is_not_shown() {
        let all = [
            ("HOME", "/h"),
            ("HF_ENDPOINT", "http://mirror.example:8080/"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_HUB_OFFLINE", "True"),
        ];
        let hub_of_all = hub(&all).unwrap();
        assert_eq!(hub_of_all.endpoint, "http://mirror.example:8080");
        assert_eq!(hub_of_all.token.as_ref().unwrap().header(), "Bearer hf_secret");
        assert!(hub_of_all.is_offline);
        assert!(!format!("{hub_of_all:?}").contains("secret"));
        let plain = hub(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).unwrap();
        assert_eq!((plain.endpoint.as_str(), plain.token, plain.is_offline), (ENDPOINT, None, false));
        assert!(hub(&[("HOME", "/h"), ("HF_ENDPOINT", "mirror.example")]).is_err());
        let error = hub(&[("HOME", "/h"), ("HF_TOKEN", "hf\u{e9} secret")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_token_that_a_login_left_is_used() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_of_login\n").unwrap();
        let hub = hub(&[("HF_HOME", folder.path().to_str().unwrap())]).unwrap();
        assert_eq!(hub.token.unwrap().header(), "Bearer hf_of_login");
    }
}
