//! The one place that reads the process's environment. Everything else is given what was read here.

use std::collections::BTreeMap;

/// What begins the names of our variables.
pub(crate) const PREFIX: &str = "OVERNIGHT_";

/// Read by the client commands, no settings of a server.
pub(crate) const CLIENT_VARIABLES: [&str; 2] = ["OVERNIGHT_URL", "OVERNIGHT_API_KEY"];

/// Kubernetes gives every container such variables when a service happens to be called `overnight`.
const SERVICE_PREFIXES: [&str; 2] = ["OVERNIGHT_SERVICE_", "OVERNIGHT_PORT"];

/// The variables at the start of the process. Names and values that are no text are left out.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    #[expect(clippy::disallowed_methods, reason = "this is the place where the environment is read")]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os();
        Self(
            variables
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// With the variables of a service's file: one `NAME=value` a line, as systemd reads them. Those of the file win.
    pub(crate) fn with_lines(&self, text: &str) -> Self {
        let mut all = self.0.clone();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if let Some((name, value)) = line.split_once('=') {
                let value = value.trim();
                let unquoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
                let value = unquoted('"').or_else(|| unquoted('\'')).unwrap_or(value);
                all.insert(name.trim().to_owned(), value.to_owned());
            }
        }
        Self(all)
    }

    /// A variable that is set to nothing counts as not set.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Our variables that mean settings, in the order of their names.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        let ours = |name: &str| {
            name.starts_with(PREFIX)
                && !CLIENT_VARIABLES.contains(&name)
                && !SERVICE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        let pairs = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        pairs.filter(move |(name, value)| ours(name) && !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_file_win() {
        let environment = Environment::from_pairs([("A", "1"), ("B", "2")]);
        let with = environment.with_lines("# A=3\nB = 'four'\nno line\n;C=5\nC=\"six=6\"\n");
        assert_eq!(
            (with.get("A"), with.get("B"), with.get("C")),
            (Some("1"), Some("four"), Some("six=6"))
        );
    }

    #[test]
    fn only_settings_of_ours_are_listed() {
        let environment = Environment::from_pairs([
            ("HOME", "/root"),
            ("OVERNIGHT_URL", "http://a"),
            ("OVERNIGHT_SERVICE_HOST", "10.0.0.1"),
            ("OVERNIGHT_PORT_8642_TCP", "tcp://10.0.0.1:8642"),
            ("OVERNIGHT_DATA", ""),
            ("OVERNIGHT_PROFILE", "server"),
        ]);
        assert_eq!(environment.settings().collect::<Vec<_>>(), [("OVERNIGHT_PROFILE", "server")]);
        assert_eq!(environment.get("OVERNIGHT_URL"), Some("http://a"));
        assert_eq!(environment.get("OVERNIGHT_DATA"), None);
    }
}
