//! AMD's GPUs, as the kernel's driver shows them in sysfs.
//!
//! Absent on purpose: who uses the memory, which sysfs does not tell; and the small GPUs inside of processors, whose
//! temperature is that of the processor.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use overnight_domain::gpu_health::GpuFacts;
use overnight_domain::limits::GPU_DEVICES_MAX;

const VENDOR: &str = "0x1002";
/// Less memory of its own than any model needs.
const MEMORY_MIN: u64 = 2 << 30;

/// All that are there, numbered from `first` on in the order of the kernel's cards.
pub(super) fn look(sysfs: &Path, first: u32) -> Vec<GpuFacts> {
    let Ok(entries) = fs::read_dir(sysfs.join("class/drm")) else { return Vec::new() };
    let mut cards: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("card")?.parse().ok())
        .collect();
    cards.sort_unstable();
    let folders =
        cards.into_iter().map(|card| sysfs.join("class/drm").join(format!("card{card}/device")));
    let devices = folders.filter_map(|folder| facts(&folder));
    (first..GPU_DEVICES_MAX).zip(devices).map(|(index, facts)| GpuFacts { index, ..facts }).collect()
}

fn facts(folder: &Path) -> Option<GpuFacts> {
    if text(&folder.join("vendor"))? != VENDOR {
        return None;
    }
    let memory_total: u64 = number(&folder.join("mem_info_vram_total"))?;
    if memory_total < MEMORY_MIN {
        return None;
    }
    let sensors = sensors(folder);
    let sensor = |name: &str| sensors.as_ref().and_then(|folder| number::<u64>(&folder.join(name)));
    // Newer kernels and cards tell the power of the moment, others the average.
    let microwatts = sensor("power1_average").or_else(|| sensor("power1_input"));
    Some(GpuFacts {
        index: 0,
        name: Some(text(&folder.join("product_name")).unwrap_or_else(|| "AMD".to_owned())),
        uuid: text(&folder.join("unique_id")),
        memory_used_bytes: number(&folder.join("mem_info_vram_used")),
        memory_total_bytes: Some(memory_total),
        temperature_c: sensor("temp1_input").and_then(|millis| u32::try_from(millis / 1_000).ok()),
        power_watts: microwatts.map(|microwatts| microwatts as f64 / 1e6),
        utilization_percent: number(&folder.join("gpu_busy_percent")),
        processes: None,
        trouble: None,
    })
}

/// The card's own folder of sensors; its number changes from start to start.
fn sensors(folder: &Path) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(folder.join("hwmon")).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort_unstable();
    folders.into_iter().next()
}

/// None for what is not there, is empty or refuses, as a GPU that sleeps does.
fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn number<T: FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(sysfs: &Path, number: u32, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = sysfs.join(format!("class/drm/card{number}/device")).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{content}\n")).unwrap();
        }
    }

    /// The files as `amdgpu` of Linux 6.8 makes them for a Radeon RX 7900 XTX (Documentation/gpu/amdgpu/thermal.rst).
    #[test]
    fn a_card_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let sysfs = folder.path();
        card(sysfs, 0, &[("vendor", "0x10de")]);
        card(sysfs, 2, &[("vendor", "0x1002"), ("mem_info_vram_total", "536870912")]);
        card(
            sysfs,
            10,
            &[
                ("vendor", "0x1002"),
                ("mem_info_vram_total", "25753026560"),
                ("mem_info_vram_used", "12876513280"),
                ("gpu_busy_percent", "97"),
                ("unique_id", "a1b2c3"),
                ("product_name", "Radeon RX 7900 XTX"),
                ("hwmon/hwmon4/temp1_input", "86000"),
                ("hwmon/hwmon4/power1_average", "303000000"),
            ],
        );
        fs::create_dir_all(sysfs.join("class/drm/card10-DP-1")).unwrap();
        let found = look(sysfs, 1);
        assert_eq!(
            found,
            [GpuFacts {
                index: 1,
                name: Some("Radeon RX 7900 XTX".to_owned()),
                uuid: Some("a1b2c3".to_owned()),
                memory_used_bytes: Some(12_876_513_280),
                memory_total_bytes: Some(25_753_026_560),
                temperature_c: Some(86),
                power_watts: Some(303.0),
                utilization_percent: Some(97),
                processes: None,
                trouble: None,
            }]
        );
        assert_eq!(found[0].memory_percent(), Some(50.0));
    }

    #[test]
    fn garbage_and_sleep_are_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let sysfs = folder.path();
        assert!(look(sysfs, 0).is_empty());
        card(
            sysfs,
            0,
            &[
                ("vendor", "0x1002"),
                ("mem_info_vram_total", "17163091968"),
                ("mem_info_vram_used", "-1"),
                ("gpu_busy_percent", ""),
                ("hwmon/hwmon0/temp1_input", "-2000"),
                ("hwmon/hwmon0/power1_input", "9000000"),
            ],
        );
        let found = look(sysfs, 0);
        assert_eq!((found[0].temperature_c, found[0].memory_used_bytes), (None, None));
        assert_eq!((found[0].utilization_percent, found[0].power_watts), (None, Some(9.0)));
        assert_eq!(found[0].name.as_deref(), Some("AMD"));
    }
}
