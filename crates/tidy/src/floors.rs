//! Floors: which crate may import which, and which parts of one crate keep away from each other.
//!
//! `domain <- {store, segment, engine, documents, sim} <- server`; siblings never import each other, except that the
//! stand-in engine of the tests, which never ships, may import the engine and the store.

use crate::Violation;
use crate::source::{Source, line_at};

struct Floor {
    name: &'static str,
    imports: &'static [&'static str],
    test_imports: &'static [&'static str],
}

const FLOORS: [Floor; 9] = [
    Floor { name: "domain", imports: &[], test_imports: &[] },
    Floor { name: "store", imports: &["domain"], test_imports: &["sim"] },
    Floor { name: "segment", imports: &["domain"], test_imports: &["sim"] },
    Floor { name: "engine", imports: &["domain"], test_imports: &["sim"] },
    Floor { name: "documents", imports: &["domain"], test_imports: &["sim"] },
    Floor { name: "engine-llama", imports: &["domain"], test_imports: &["engine", "sim"] },
    Floor { name: "sim", imports: &["domain", "engine", "store"], test_imports: &[] },
    Floor {
        name: "server",
        imports: &["domain", "store", "segment", "engine", "engine-llama", "documents"],
        test_imports: &["sim"],
    },
    Floor { name: "tidy", imports: &[], test_imports: &[] },
];

/// Parts that never meet: a folder or file, what it must not name, and why.
const APART: [(&str, &[&str], &str); 3] = [
    (
        "crates/server/src/api",
        &["crate::dispatch", "super::dispatch"],
        "`api` and `dispatch` meet in the store and in one `Notify`",
    ),
    (
        "crates/server/src/dispatch",
        &["crate::api", "super::api"],
        "`api` and `dispatch` meet in the store and in one `Notify`",
    ),
    (
        "crates/domain/src",
        &[
            "std::fs",
            "std::net",
            "std::thread",
            "std::env",
            "tokio::",
            "Instant::now",
            "SystemTime",
            "async fn",
        ],
        "the domain does no I/O, does not wait and reads no clock",
    ),
];

pub(crate) fn check_manifest(path: &str, text: &str, violations: &mut Vec<Violation>) {
    let Some(folder) = path.strip_prefix("crates/").and_then(|rest| rest.strip_suffix("/Cargo.toml"))
    else {
        return;
    };
    let mut broken =
        |line: usize, detail: String| violations.push(Violation::new(path, line, "floor", detail));
    let Some(floor) = FLOORS.iter().find(|floor| floor.name == folder) else {
        broken(
            1,
            format!("`{folder}` has no floor: add it to the list in `tidy`, with what it may import"),
        );
        return;
    };
    let manifest: toml::Table = match text.parse() {
        Ok(manifest) => manifest,
        Err(err) => return broken(1, format!("cannot be read: {err}")),
    };
    let line_of = |name: &str| text.lines().position(|line| line.contains(name)).unwrap_or_default() + 1;
    for (name, is_test) in dependencies(&manifest) {
        let Some(ours) = name.strip_prefix("overnight-") else { continue };
        let allowed = floor.imports.contains(&ours) || (is_test && floor.test_imports.contains(&ours));
        if !allowed && ours != folder {
            let tests = if is_test { " even in tests" } else { "" };
            broken(line_of(&name), format!("`{folder}` must not import `{ours}`{tests}"));
        }
    }
}

pub(crate) fn check_imports(source: &Source, violations: &mut Vec<Violation>) {
    for (prefix, names, reason) in APART {
        let below = source.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['/', '.']));
        for (offset, name) in
            names.iter().filter(|_| below).flat_map(|name| source.code.match_indices(name))
        {
            let line = line_at(&source.code, offset);
            if !source.is_test_line(line) {
                let detail = format!("must not name `{name}`: {reason}");
                violations.push(Violation::new(&source.path, line, "floor", detail));
            }
        }
    }
}

/// The packages a manifest names, each with whether only its tests use it.
fn dependencies(manifest: &toml::Table) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = targets.into_iter().flat_map(toml::Table::values).filter_map(toml::Value::as_table);
    for table in tables.chain([manifest]) {
        for (kind, is_test) in
            [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)]
        {
            let Some(entries) = table.get(kind).and_then(toml::Value::as_table) else { continue };
            for (name, value) in entries {
                let renamed = value.get("package").and_then(toml::Value::as_str);
                found.push((renamed.unwrap_or(name).to_owned(), is_test));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations_of(folder: &str, manifest: &str) -> Vec<Violation> {
        let mut violations = Vec::new();
        check_manifest(&format!("crates/{folder}/Cargo.toml"), manifest, &mut violations);
        violations
    }

    #[test]
    fn siblings_must_not_import_each_other() {
        let found = violations_of(
            "store",
            "[dependencies]\nserde = \"1\"\novernight-segment.workspace = true\n",
        );
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].rule), (3, "floor"));
        assert_eq!(violations_of("domain", "[dependencies]\novernight-store = {}\n").len(), 1);
        assert_eq!(
            violations_of("store", "[dependencies.s]\npackage = \"overnight-engine\"\n").len(),
            1
        );
        assert_eq!(
            violations_of("store", "[target.'cfg(unix)'.dependencies]\novernight-engine = {}\n").len(),
            1
        );
    }

    #[test]
    fn the_stand_in_engine_is_for_tests_only() {
        assert_eq!(violations_of("server", "[dev-dependencies]\novernight-sim = {}\n"), []);
        assert_eq!(violations_of("server", "[dependencies]\novernight-sim = {}\n").len(), 1);
    }

    #[test]
    fn a_crate_without_a_floor_fails() {
        assert_eq!(violations_of("attic", "[dependencies]\n").len(), 1);
    }

    #[test]
    fn parts_that_stay_apart_are_seen() {
        let lines_of = |path: &str, text: &str| {
            let mut violations = Vec::new();
            check_imports(&Source::new(path, text), &mut violations);
            violations.iter().map(|violation| violation.line).collect::<Vec<_>>()
        };
        assert_eq!(lines_of("crates/server/src/api/files.rs", "\nuse crate::dispatch::Window;"), [2]);
        assert_eq!(lines_of("crates/server/src/dispatch.rs", "use crate::api::error;"), [1]);
        assert_eq!(lines_of("crates/domain/src/plan.rs", "let a = std::time::Instant::now();"), [1]);
        assert!(
            lines_of(
                "crates/server/src/run.rs",
                "use crate::{api, dispatch}; use crate::dispatch::run;"
            )
            .is_empty()
        );
        assert!(
            lines_of("crates/domain/src/plan.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n}")
                .is_empty()
        );
    }
}
