//! The command line of an engine: taken apart as a shell would, and the memory share that is added where it says none.

use std::fmt;
use std::path::Path;

/// What an engine of ours may take of a GPU when its command does not say: the desktop, and what the measuring of the
/// engine itself misses, need the rest.
const MEMORY_SHARE: &str = "0.85";

/// As the first word of a command it is this very program, wherever that lies and whatever else is called so.
pub(super) const OUR_NAME: &str = "overnight";

/// Why a command cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("is empty: write what a terminal would start, as in `vllm serve MODEL`")]
    Empty,
    #[error("cannot be taken apart: a quote is not closed, or it ends with a backslash")]
    Quotes,
    #[error("holds a zero byte")]
    Zero,
}

/// A program with its arguments and what is added to our environment for it.
#[derive(Clone, PartialEq, Eq)]
pub struct ChildCommand {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// The flag that we added.
    added: Option<String>,
}

impl ChildCommand {
    /// Splits words and quotes as a POSIX shell does. Nothing else of a shell is known: no variables, no pipes, no `~`.
    pub fn parse(text: &str) -> Result<Self, CommandError> {
        if text.contains('\0') {
            return Err(CommandError::Zero);
        }
        let mut arguments = shlex::split(text).ok_or(CommandError::Quotes)?;
        if arguments.first().is_none_or(String::is_empty) {
            return Err(CommandError::Empty);
        }
        let added = memory_share(&arguments);
        arguments.extend(added.iter().flat_map(|flag| [(*flag).to_owned(), MEMORY_SHARE.to_owned()]));
        let added = added.map(|flag| format!("{flag} {MEMORY_SHARE}"));
        Ok(Self { arguments, environment: Vec::new(), added })
    }

    /// What stands later wins.
    #[must_use]
    pub fn with_environment(mut self, environment: Vec<(String, String)>) -> Self {
        self.environment.extend(environment);
        self
    }

    /// Shows the engine this GPU only, counted as the driver's own library counts them; AMD's runtime reads the same
    /// variable. A command that chooses devices itself must see them all.
    #[must_use]
    pub fn on_gpu(self, number: u32) -> Self {
        if self.arguments.iter().any(|argument| chooses_devices(argument)) {
            return self;
        }
        self.with_environment(vec![
            ("CUDA_DEVICE_ORDER".to_owned(), "PCI_BUS_ID".to_owned()),
            ("CUDA_VISIBLE_DEVICES".to_owned(), number.to_string()),
        ])
    }

    /// Whether it is the built-in engine.
    pub fn is_builtin(&self) -> bool {
        self.arguments[0] == OUR_NAME && self.arguments.get(1).is_some_and(|verb| verb == "engine")
    }

    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// What was added to what was written, to be said.
    pub fn added(&self) -> Option<&str> {
        self.added.as_deref()
    }
}

/// The environment may hold secrets.
impl fmt::Debug for ChildCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChildCommand").field(&self.arguments).finish()
    }
}

/// Flags with which vLLM, SGLang and llama.cpp are given devices, or several of them.
const DEVICE_FLAGS: [&str; 15] = [
    "--tensor-parallel-size",
    "-tp",
    "--tp-size",
    "--tp",
    "--pipeline-parallel-size",
    "-pp",
    "--data-parallel-size",
    "-dp",
    "--base-gpu-id",
    "--main-gpu",
    "-mg",
    "--tensor-split",
    "-ts",
    "--device",
    "-dev",
];

/// A script is taken apart, too: what stands in it counts.
fn chooses_devices(argument: &str) -> bool {
    let is_flag = |word: &str| {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        DEVICE_FLAGS.contains(&name.replace('_', "-").as_str()) || name.ends_with("_VISIBLE_DEVICES")
    };
    argument.split_whitespace().any(is_flag)
}

/// The flag for the share of the GPU's memory of an engine that has one, where the command does not give it.
fn memory_share(arguments: &[String]) -> Option<&'static str> {
    let program = Path::new(&arguments[0]).file_name()?.to_str()?;
    let module =
        |name: &str| arguments.windows(2).any(|pair| pair[0] == "-m" && pair[1].starts_with(name));
    let serves = arguments.get(1).is_some_and(|verb| verb == "serve");
    let flag = if (program == "vllm" && serves) || module("vllm.entrypoints") {
        "--gpu-memory-utilization"
    } else if (program == "sglang" && serves) || module("sglang.launch_server") {
        "--mem-fraction-static"
    } else {
        return None;
    };
    // Both take underscores as well.
    let is_given = arguments.iter().any(|argument| {
        let name = argument.split_once('=').map_or(argument.as_str(), |(name, _)| name);
        name.replace('_', "-") == flag
    });
    (!is_given).then_some(flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_a_shell_does() {
        let command = ChildCommand::parse(r#"sh -c 'exec a "b c"' d\ e"#).unwrap();
        assert_eq!(command.arguments(), ["sh", "-c", r#"exec a "b c""#, "d e"]);
        assert_eq!(command.added(), None);
        assert_eq!(ChildCommand::parse("  "), Err(CommandError::Empty));
        assert_eq!(ChildCommand::parse("''"), Err(CommandError::Empty));
        assert_eq!(ChildCommand::parse("a 'b"), Err(CommandError::Quotes));
        assert_eq!(ChildCommand::parse("a\0b"), Err(CommandError::Zero));
    }

    #[test]
    fn the_built_in_engine_is_known_by_its_name() {
        for (text, is_builtin) in [
            ("overnight engine --model a.gguf", true),
            ("overnight serve", false),
            ("overnight", false),
            ("/opt/bin/overnight engine --model a.gguf", false),
        ] {
            assert_eq!(ChildCommand::parse(text).unwrap().is_builtin(), is_builtin, "{text}");
        }
    }

    #[test]
    fn an_engine_sees_its_gpu_unless_it_was_told_another() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let told = pair("CUDA_VISIBLE_DEVICES", "3");
        let command = ChildCommand::parse("a").unwrap().on_gpu(1).with_environment(vec![told.clone()]);
        assert_eq!(
            command.environment(),
            [pair("CUDA_DEVICE_ORDER", "PCI_BUS_ID"), pair("CUDA_VISIBLE_DEVICES", "1"), told]
        );
        for text in [
            "vllm serve a --tensor-parallel-size 2",
            "vllm serve a --tensor_parallel_size=2",
            "llama-server -m a.gguf -mg 1",
            "sh -c 'CUDA_VISIBLE_DEVICES=1 exec vllm serve a'",
            "env HIP_VISIBLE_DEVICES=1 vllm serve a",
        ] {
            let command = ChildCommand::parse(text).unwrap().on_gpu(0);
            assert_eq!(command.environment(), [], "{text}");
        }
    }

    #[test]
    fn engines_that_fill_the_gpu_get_a_share_of_it_unless_they_name_one() {
        for (text, added) in [
            ("vllm serve Qwen/Qwen3-8B", Some("--gpu-memory-utilization 0.85")),
            ("/opt/bin/vllm serve a", Some("--gpu-memory-utilization 0.85")),
            (
                "python3 -m vllm.entrypoints.openai.api_server --model a",
                Some("--gpu-memory-utilization 0.85"),
            ),
            ("vllm serve a --gpu-memory-utilization 0.9", None),
            ("vllm serve a --gpu-memory-utilization=0.9", None),
            ("vllm serve a --gpu_memory_utilization=0.9", None),
            ("vllm bench a", None),
            ("python -m sglang.launch_server --model-path a", Some("--mem-fraction-static 0.85")),
            ("sglang serve --model-path a", Some("--mem-fraction-static 0.85")),
            ("python -m sglang.launch_server --mem-fraction-static 0.7", None),
            ("llama-server -m a.gguf", None),
            ("sh -c 'vllm serve a'", None),
        ] {
            let command = ChildCommand::parse(text).unwrap();
            assert_eq!(command.added(), added, "{text}");
            let ends = added.is_some_and(|added| command.arguments().join(" ").ends_with(added));
            assert_eq!(ends, added.is_some(), "{text}");
        }
    }
}
