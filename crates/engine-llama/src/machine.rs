//! The machine: whether its processor can run us, how many cores and how much memory it has left.

use std::collections::BTreeSet;
use std::fs;

/// Whether the build can compute on a GPU, where there is one.
pub(crate) const IS_FOR_GPUS: bool = cfg!(any(feature = "cuda", feature = "metal", feature = "vulkan"));

/// llama.cpp is compiled for these; without one of them the process would die of an illegal instruction.
#[cfg(target_arch = "x86_64")]
pub(crate) fn check_processor() -> Result<String, String> {
    let needed = [
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("FMA", std::arch::is_x86_feature_detected!("fma")),
        ("F16C", std::arch::is_x86_feature_detected!("f16c")),
        ("BMI2", std::arch::is_x86_feature_detected!("bmi2")),
    ];
    let missing: Vec<&str> = needed.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok("x86-64 with AVX2".to_owned());
    }
    Err(format!(
        "this processor lacks {}, which the built-in engine needs: use another machine, or an engine that was built for \
         this one, such as Ollama",
        missing.join(", ")
    ))
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn check_processor() -> Result<String, String> {
    Ok(std::env::consts::ARCH.to_owned())
}

/// All but one: threads that wait for each other stall when they share a core with anybody.
pub(crate) fn threads() -> u32 {
    let usable = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    physical_cores().unwrap_or(usable).min(usable).saturating_sub(1).max(1)
}

/// Two threads of one core name the same siblings.
fn physical_cores() -> Option<u32> {
    let mut cores = BTreeSet::new();
    for entry in fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        if let Ok(siblings) = fs::read_to_string(entry.path().join("topology/thread_siblings_list")) {
            cores.insert(siblings);
        }
    }
    u32::try_from(cores.len()).ok().filter(|count| *count > 0)
}

/// What is left of the machine's memory, and of the control group's, where they tell.
pub(crate) fn available_memory() -> Option<u64> {
    let of_machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let of_group = || {
        let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
        let used = read("memory.current").unwrap_or_default();
        left_of_group(&read("memory.max")?, &used, &read("memory.stat").unwrap_or_default())
    };
    of_machine.into_iter().chain(of_group()).min()
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the kernel keeps of files counts as used, though it goes as soon as somebody needs the room: after a model was
/// fetched that is most of it. None where the group has no bound.
fn left_of_group(max: &str, used: &str, stat: &str) -> Option<u64> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let of_files = |name: &str| {
        let values = stat.lines().filter_map(|line| line.split_once(' '));
        values.filter(|(key, _)| *key == name).find_map(|(_, value)| number(value)).unwrap_or(0)
    };
    let files = of_files("inactive_file").saturating_add(of_files("active_file"));
    Some(number(max)?.saturating_sub(number(used).unwrap_or(0).saturating_sub(files)))
}

/// When memory runs out, the engine is to go and not the database. Systems without such a wish do without.
pub(crate) fn offer_to_oom_killer() {
    const SCORE: &str = "800";
    if fs::write("/proc/self/oom_score_adj", SCORE).is_err() {
        tracing::debug!("the system takes no wish about whom to kill when memory runs out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_that_is_left_is_read() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    1024 kB\n"), Some(1_048_576));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
    }

    /// A container that had just fetched its model had no room for it: the file's pages counted as used.
    #[test]
    fn what_is_kept_of_files_counts_as_left_to_a_control_group() {
        let stat = "anon 300\nfile 650\nshmem 50\ninactive_file 400\nactive_file 200\n";
        assert_eq!(left_of_group("1000\n", "950\n", stat), Some(650));
        assert_eq!(left_of_group("1000\n", "950\n", ""), Some(50));
        assert_eq!(left_of_group("1000\n", "500\n", stat), Some(1_000), "the counts are of two moments");
        assert_eq!(left_of_group("900\n", "950\n", ""), Some(0));
        assert_eq!(left_of_group("max\n", "950\n", stat), None);
    }
}
