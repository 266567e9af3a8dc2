//! The numbers that result frames carry for endpoints, and their names: given out once and kept with the data, so that
//! a frame still names its endpoint when the configuration has changed.

use std::path::Path;

use anyhow::Context as _;

use crate::whole::write_whole;

const FILE: &str = "endpoints.json";
/// Numbers fit into the frames' 16 bits, the last of which means none.
const NAMES_MAX: usize = u16::MAX as usize;

#[derive(Debug, Clone, Default)]
pub(crate) struct EndpointNames(Vec<String>);

impl EndpointNames {
    /// Reads the names that were given numbers, and gives the new ones theirs.
    pub(crate) fn open<'a>(
        data: &Path,
        configured: impl Iterator<Item = &'a str>,
    ) -> anyhow::Result<Self> {
        let path = data.join(FILE);
        let mut names: Vec<String> = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("`{}` is damaged: it is a JSON list of names", path.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("failed to read `{}`", path.display()));
            }
        };
        let known = names.len();
        for name in configured {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        anyhow::ensure!(names.len() < NAMES_MAX, "`{}` lists too many endpoints", path.display());
        if names.len() > known {
            let text = serde_json::to_vec_pretty(&names)?;
            write_whole(&path, |out| out.write_all(&text))?;
        }
        Ok(Self(names))
    }

    pub(crate) fn number(&self, name: &str) -> u16 {
        self.0.iter().position(|known| known == name).map_or(u16::MAX, |at| at as u16)
    }

    #[cfg(feature = "llama")]
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub(crate) fn name(&self, number: u16) -> Option<&str> {
        self.0.get(usize::from(number)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let names = EndpointNames::open(folder.path(), ["a", "b"].into_iter()).unwrap();
        assert_eq!((names.number("a"), names.number("b"), names.number("c")), (0, 1, u16::MAX));
        let names = EndpointNames::open(folder.path(), ["c", "b"].into_iter()).unwrap();
        assert_eq!((names.number("b"), names.number("c")), (1, 2));
        assert_eq!(names.name(0), Some("a"), "it is configured no more, but frames carry its number");
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(EndpointNames::open(folder.path(), std::iter::empty()).is_err());
    }
}
