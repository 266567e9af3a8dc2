//! The processes of the machine as a tree, read from `/proc`: who descends from whom, and what they hold in memory.

use std::collections::HashMap;
use std::io;

/// One look at all processes. They come and go while it is taken: whoever must be sure looks again.
#[derive(Debug)]
pub(super) struct Tree {
    children: HashMap<u32, Vec<u32>>,
}

impl Tree {
    pub(super) fn read() -> io::Result<Self> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            if let Some(parent) = parent(&stat) {
                children.entry(parent).or_default().push(process);
            }
        }
        Ok(Self { children })
    }

    /// Everything below a process, itself not included.
    pub(super) fn descendants(&self, root: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut open = vec![root];
        while let Some(process) = open.pop() {
            for child in self.children.get(&process).into_iter().flatten() {
                found.push(*child);
                open.push(*child);
            }
        }
        found
    }

    pub(super) fn memory_len(&self, root: u32) -> u64 {
        self.descendants(root)
            .into_iter()
            .filter_map(|process| std::fs::read_to_string(format!("/proc/{process}/status")).ok())
            .map(|status| anonymous_len(&status))
            .sum()
    }
}

/// The name stands in parentheses and may hold anything, parentheses too. A process that has ended and waits to be
/// reaped is one all the same.
fn parent(stat: &str) -> Option<u32> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(1)?.parse().ok()
}

fn anonymous_len(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib =
        line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(parent("42 (a) b) S 7 42 42 0"), Some(7));
        assert_eq!(parent(""), None);
        assert_eq!(anonymous_len("VmRSS:\t 900 kB\nRssAnon:\t     512 kB\n"), 512 * 1024);
        assert_eq!(anonymous_len("Name: kthread\n"), 0);
    }

    #[test]
    fn finds_children_of_children() {
        let tree = Tree { children: HashMap::from([(1, vec![2, 3]), (3, vec![4]), (9, vec![10])]) };
        let mut below = tree.descendants(1);
        below.sort_unstable();
        assert_eq!(below, [2, 3, 4]);
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        let parent = std::os::unix::process::parent_id();
        let tree = Tree::read().unwrap();
        assert!(tree.descendants(parent).contains(&std::process::id()));
        assert!(tree.memory_len(parent) > 100_000);
    }
}
