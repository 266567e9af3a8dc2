//! What the durations of answers show: how many calls Ollama works on at once, and how often it loads a model.

use std::collections::VecDeque;
use std::time::Duration;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    /// Our calls that were with it when this one was sent, itself included.
    pub(super) in_flight: u32,
    /// From sending to the answer.
    pub(super) wall: Duration,
    /// As Ollama says.
    pub(super) load: Duration,
    pub(super) busy: Duration,
    /// The model and the options that it is loaded with.
    pub(super) loaded_as: String,
}

/// The latest answers.
#[derive(Debug, Default)]
pub(super) struct Habits(VecDeque<Sample>);

/// Enough to tell a habit from a hiccup, few enough to see a change of settings within minutes.
const SAMPLES_MAX: usize = 64;
/// Fewer calls at once say nothing about how many there could be.
const SAMPLES_MIN: usize = 16;
/// A call to a loaded model spends some milliseconds on finding it.
const LOAD_MIN: Duration = Duration::from_millis(500);
/// A model is loaded at the beginning, and perhaps once more after a pause.
const LOADS_MIN: usize = 4;

impl Habits {
    pub(super) fn note(&mut self, sample: Sample) {
        if self.0.len() >= SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// How many calls it works on at once, where more than that were there.
    ///
    /// A call is worked on for a part of its wall time; with so many in flight, that part of them is at work at any
    /// moment.
    pub(super) fn at_once(&self) -> Option<f64> {
        let crowded: Vec<&Sample> =
            self.0.iter().filter(|sample| sample.in_flight >= 2 && sample.load < LOAD_MIN).collect();
        if crowded.len() < SAMPLES_MIN {
            return None;
        }
        let at_work: f64 = crowded
            .iter()
            .map(|sample| {
                let part = sample.busy.as_secs_f64() / sample.wall.as_secs_f64().max(1e-6);
                part.min(1.0) * f64::from(sample.in_flight)
            })
            .sum();
        Some(at_work / crowded.len() as f64)
    }

    pub(super) fn serves_one_at_a_time(&self) -> bool {
        self.at_once().is_some_and(|count| count < 1.3)
    }

    pub(super) fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        if self.serves_one_at_a_time() {
            let most = self.0.iter().map(|sample| sample.in_flight).max().unwrap_or(0);
            notices.push(format!(
                "{most} calls were with Ollama at once and it answered them one after another: OLLAMA_NUM_PARALLEL is 1 \
                 (its default), or it forces this for the model; set OLLAMA_NUM_PARALLEL=4 where Ollama is started, and \
                 mind that it takes memory for four contexts"
            ));
        }
        notices.extend(self.reload_notice());
        notices
    }

    fn reload_notice(&self) -> Option<String> {
        let loads: Vec<&Sample> = self.0.iter().filter(|sample| sample.load >= LOAD_MIN).collect();
        if loads.len() < LOADS_MIN {
            return None;
        }
        let spent: Duration = loads.iter().map(|sample| sample.load).sum();
        let mut kinds: Vec<&str> = self.0.iter().map(|sample| sample.loaded_as.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let why = if kinds.len() > 1 {
            format!(
                "the requests ask for {} ways to load it ({}): give them the same options, or set `num_ctx` for the engine",
                kinds.len(),
                kinds.iter().take(3).map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ")
            )
        } else {
            "ours all ask for the same, so somebody else uses it with other options or another model: let them send the \
             same `num_ctx` and `shift`, or set OLLAMA_MAX_LOADED_MODELS higher"
                .to_owned()
        };
        Some(format!(
            "Ollama waited for a model to be loaded in {} of its last {} answers, {:.0} s in all; {why}",
            loads.len(),
            self.0.len(),
            spent.as_secs_f64()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(in_flight: u32, wall: u64, busy: u64, load: u64, loaded_as: &str) -> Sample {
        let ms = Duration::from_millis;
        Sample {
            in_flight,
            wall: ms(wall),
            busy: ms(busy),
            load: ms(load),
            loaded_as: loaded_as.to_owned(),
        }
    }

    fn of(samples: impl IntoIterator<Item = Sample>) -> Habits {
        let mut habits = Habits::default();
        samples.into_iter().for_each(|sample| habits.note(sample));
        habits
    }

    #[test]
    fn one_after_another_is_seen() {
        let serial = of((0..32).map(|_| sample(8, 800, 100, 5, "m")));
        assert!(serial.serves_one_at_a_time());
        assert!(serial.notices()[0].contains("OLLAMA_NUM_PARALLEL=4"));
        let parallel = of((0..32).map(|_| sample(8, 200, 100, 5, "m")));
        assert_eq!(parallel.notices(), [""; 0]);
        assert!(
            of((0..32).map(|_| sample(1, 100, 100, 5, "m"))).notices().is_empty(),
            "one proves nothing"
        );
    }

    #[test]
    fn loads_again_and_again_are_explained() {
        let ours = of((0..20)
            .map(|at| sample(1, 3000, 100, 2500, if at % 2 == 0 { "m" } else { "m num_ctx=8192" })));
        let told = &ours.notices()[0];
        assert!(told.contains("20 of its last 20") && told.contains("`m num_ctx=8192`"), "{told}");
        let theirs = of((0..20).map(|at| sample(1, 900, 100, if at % 3 == 0 { 700 } else { 5 }, "m")));
        assert!(theirs.notices()[0].contains("somebody else"), "{:?}", theirs.notices());
        assert!(
            of((0..20).map(|at| sample(1, 900, 100, if at == 0 { 9000 } else { 5 }, "m")))
                .notices()
                .is_empty()
        );
    }
}
