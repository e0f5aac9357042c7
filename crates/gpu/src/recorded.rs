//! Plays a recording of a real machine, from its beginning, over and over.

use std::path::PathBuf;

use aya_domain::{GpuInfo, GpuSample, GpuSourceKind, GpuUuid, MonoTime};

use crate::{Collected, GpuError, GpuSource, Recording};

/// GPUs as a file tells of them. The tick is chosen by the time since the first reading, not by the number of readings.
#[derive(Debug)]
pub struct RecordedSource {
    path: PathBuf,
    recording: Option<Recording>,
    began_at: Option<MonoTime>,
}

impl RecordedSource {
    /// A source that plays this file; it is read at the first discovery.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, recording: None, began_at: None }
    }
}

impl GpuSource for RecordedSource {
    fn kind(&self) -> GpuSourceKind {
        GpuSourceKind::Recorded
    }

    fn driver_version(&self) -> Option<String> {
        self.recording.as_ref().and_then(|recording| recording.driver_version.clone())
    }

    fn discover(&mut self) -> Result<Collected<GpuInfo>, GpuError> {
        if self.recording.is_none() {
            self.recording = Some(Recording::read(&self.path)?);
        }
        Ok(Collected::all(self.recording.iter().flat_map(|recording| recording.gpus.clone()).collect()))
    }

    fn sample(&mut self, now: MonoTime) -> Result<Collected<(GpuUuid, GpuSample)>, GpuError> {
        let recording = self.recording.as_ref().ok_or(GpuError::NoGpus)?;
        let passed = now.since(*self.began_at.get_or_insert(now));
        let count = u128::try_from(recording.ticks.len()).unwrap_or(1).max(1);
        let at = passed.as_nanos() / recording.period.as_nanos().max(1) % count;
        let tick = usize::try_from(at).ok().and_then(|at| recording.ticks.get(at));
        Ok(Collected::all(tick.cloned().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aya_domain::{Bytes, Celsius, MigSlice, Milliwatts, PcieLink, Ratio};
    use serde_json::json;

    use super::*;

    fn uuid(text: &str) -> GpuUuid {
        GpuUuid::parse(text).unwrap()
    }

    fn recording() -> Recording {
        let info = |name: &str| GpuInfo {
            uuid: uuid(name),
            name: "NVIDIA H100".to_owned(),
            vram_total: Some(Bytes(80 << 30)),
            power_limit: Some(Milliwatts(700_000)),
            sm_clock_max_mhz: None,
            slowdown_margin: Some(Celsius(-2)),
            mig: (name == "b").then(|| MigSlice { parent: uuid("p"), gpu_instance: 5, compute_instance: 0 }),
        };
        let sample = |used: u64| GpuSample {
            vram_used: Some(Bytes(used)),
            busy: Ratio::new(0.25).ok(),
            thermal_margin: Some(Celsius(-3)),
            row_remap_pending: Some(false),
            throttled_power: Some(Duration::from_nanos(5)),
            pcie_link: Some(PcieLink { generation: 5, lanes: 16, generation_max: 5, lanes_max: 16 }),
            energy_millijoules: Some(u64::MAX),
            ..GpuSample::default()
        };
        Recording {
            about: json!({"machine": "a test"}),
            driver_version: Some("590.48.01".to_owned()),
            gpus: vec![info("a"), info("b")],
            period: Duration::from_secs(1),
            ticks: vec![vec![(uuid("a"), sample(1)), (uuid("b"), sample(2))], vec![(uuid("a"), sample(3))]],
        }
    }

    #[test]
    fn a_recording_survives_its_file_and_is_played_over_and_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        std::fs::write(&path, recording().to_json()).unwrap();
        assert_eq!(Recording::parse(&recording().to_json()), Ok(recording()));
        let mut source = RecordedSource::new(path);
        assert_eq!(source.discover().unwrap().items, recording().gpus);
        let used = |source: &mut RecordedSource, ms: u64| -> Vec<u64> {
            let tick = source.sample(MonoTime::from_millis(ms)).unwrap().items;
            tick.iter().map(|(_, sample)| sample.vram_used.unwrap().get()).collect()
        };
        for (ms, expect) in [(500, vec![1, 2]), (1_400, vec![1, 2]), (1_600, vec![3]), (2_600, vec![1, 2])] {
            assert_eq!(used(&mut source, ms), expect, "{ms} ms");
        }
    }

    #[test]
    fn uuids_are_made_anonymous_and_still_fit_together() {
        let anonymous = recording().anonymous();
        let text = anonymous.to_json();
        assert_eq!(anonymous.ticks[0][1].0, anonymous.gpus[1].uuid);
        assert!(!text.contains("\"a\"") && !text.contains("\"p\""), "{text}");
    }

    #[test]
    fn a_file_that_is_no_recording_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        let check = |text: &str, expect: &str| {
            std::fs::write(&path, text).unwrap();
            let error = RecordedSource::new(path.clone()).discover().unwrap_err().to_string();
            assert!(error.contains("r.json") && error.ends_with(expect), "{error}");
        };
        let whole = recording().to_json();
        check("{}", "gpus: is not there or no list");
        check(&whole.replace("0.25", "1.25"), "ticks[0].busy: has no value of its kind");
        check(&whole.replace("\"busy\"", "\"bussy\""), "ticks[0].bussy: is not known");
        check(&whole.replace("1000", "0"), "period_ms: is not a number above 0");
        std::fs::remove_file(&path).unwrap();
        let error = RecordedSource::new(path.clone()).discover().unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
