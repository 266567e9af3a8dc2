//! NVIDIA's GPUs, through the library that comes with their driver, loaded while we run.

use std::ffi::OsStr;
use std::time::Instant;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use overnight_domain::gpu_health::{GpuFacts, GpuProcess};
use overnight_domain::limits::{GPU_DEVICES_MAX, GPU_PROCESSES_MAX, GPU_RETRY_EVERY};

use super::sampler::{Look, Unknown};

pub(super) struct Nvidia {
    library: String,
    state: State,
}

enum State {
    Open(Box<Nvml>),
    /// Tried again some time after it failed.
    Closed {
        since: Option<Instant>,
        why: Unknown,
    },
}

impl Nvidia {
    pub(super) fn new(library: String) -> Self {
        let why = Unknown::trouble(format!("`{library}` has not been tried yet"));
        Self { library, state: State::Closed { since: None, why } }
    }

    pub(super) fn look(&mut self) -> Look {
        if let State::Closed { since, why } = &self.state {
            if since.is_some_and(|since| since.elapsed() < GPU_RETRY_EVERY) {
                return Look { devices: Vec::new(), unknown: Some(why.clone()) };
            }
            match Nvml::builder().lib_path(OsStr::new(&self.library)).init() {
                Ok(nvml) => self.state = State::Open(Box::new(nvml)),
                Err(error) => return self.close(Vec::new(), &error),
            }
        }
        let State::Open(nvml) = &self.state else { return Look::default() };
        let count = match nvml.device_count() {
            Ok(count) => count.min(GPU_DEVICES_MAX),
            Err(error) => return self.close(Vec::new(), &error),
        };
        let mut trouble = None;
        let devices: Vec<GpuFacts> = (0..count).map(|index| facts(nvml, index, &mut trouble)).collect();
        let is_mute =
            |facts: &GpuFacts| facts.temperature_c.is_none() && facts.memory_used_bytes.is_none();
        match trouble {
            // A driver that was reloaded under us refuses everything until it is asked anew.
            Some(error) if devices.iter().all(is_mute) => self.close(devices, &error),
            Some(error) => Look { devices, unknown: Some(self.unknown(&error)) },
            None => Look { devices, unknown: (count == 0).then(none_here) },
        }
    }

    fn close(&mut self, devices: Vec<GpuFacts>, error: &NvmlError) -> Look {
        let why = self.unknown(error);
        self.state = State::Closed { since: Some(Instant::now()), why: why.clone() };
        Look { devices, unknown: Some(why) }
    }

    fn unknown(&self, error: &NvmlError) -> Unknown {
        let library = &self.library;
        match error {
            NvmlError::LibloadingError(error) => {
                let text = format!(
                    "no NVIDIA GPU is watched: `{library}` of their driver cannot be loaded (gpu.library): {error}"
                );
                // Most machines without it have no such GPU.
                let is_trouble = !text.contains("No such file");
                Unknown { text, is_trouble }
            }
            NvmlError::FailedToLoadSymbol(symbol) => Unknown::trouble(format!(
                "`{library}` is too old to tell all about the GPU: {symbol}; update the NVIDIA driver"
            )),
            NvmlError::LibRmVersionMismatch => Unknown::trouble(format!(
                "`{library}` is not of the version of the NVIDIA driver that runs, as after an update: restart the machine"
            )),
            NvmlError::DriverNotLoaded => Unknown::trouble(
                "the NVIDIA driver is installed but not loaded: `nvidia-smi` says more, and `modprobe nvidia` loads it",
            ),
            error => {
                Unknown::trouble(format!("the NVIDIA driver refuses to tell about the GPU: {error}"))
            }
        }
    }
}

fn none_here() -> Unknown {
    Unknown { text: "the NVIDIA driver knows of no GPU".to_owned(), is_trouble: false }
}

fn facts(nvml: &Nvml, index: u32, trouble: &mut Option<NvmlError>) -> GpuFacts {
    let mut facts = GpuFacts { index, ..GpuFacts::default() };
    match nvml.device_by_index(index) {
        Ok(device) => ask(&device, &mut facts, trouble),
        Err(error) => {
            facts.trouble = Some(error.to_string());
            trouble.get_or_insert(error);
        }
    }
    facts
}

fn ask(device: &Device<'_>, facts: &mut GpuFacts, trouble: &mut Option<NvmlError>) {
    let mut asking = Asking { told: &mut facts.trouble, trouble };
    facts.name = asking.keep("its name", device.name());
    facts.uuid = asking.keep("its id", device.uuid());
    facts.temperature_c = asking.keep("its temperature", device.temperature(TemperatureSensor::Gpu));
    let memory = asking.keep("its memory", device.memory_info());
    facts.memory_used_bytes = memory.as_ref().map(|memory| memory.used);
    facts.memory_total_bytes = memory.as_ref().map(|memory| memory.total);
    let milliwatts = asking.keep("its power", device.power_usage());
    facts.power_watts = milliwatts.map(|milliwatts| f64::from(milliwatts) / 1e3);
    let rates = asking.keep("its utilization", device.utilization_rates());
    facts.utilization_percent = rates.map(|rates| rates.gpu);
    let processes = asking.keep("its processes", device.running_compute_processes());
    facts.processes = processes.map(|processes| {
        let processes = processes.into_iter().take(GPU_PROCESSES_MAX).map(|process| GpuProcess {
            pid: process.pid,
            memory_bytes: match process.used_gpu_memory {
                UsedGpuMemory::Used(len) => Some(len),
                UsedGpuMemory::Unavailable => None,
            },
        });
        processes.collect()
    });
}

/// Keeps what is told, and the first refusal.
struct Asking<'a> {
    told: &'a mut Option<String>,
    trouble: &'a mut Option<NvmlError>,
}

impl Asking<'_> {
    fn keep<T>(&mut self, what: &str, answer: Result<T, NvmlError>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            // Such a GPU has no such figure: no power on some laptops, no memory of its own where it shares the machine's.
            Err(NvmlError::NotSupported | NvmlError::NoPermission) => None,
            Err(error) => {
                self.told.get_or_insert_with(|| format!("{what} is not told: {error}"));
                self.trouble.get_or_insert(error);
                None
            }
        }
    }
}
