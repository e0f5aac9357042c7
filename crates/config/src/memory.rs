//! What the scheduler gives up when its memory runs short.

use std::time::Duration;

use crate::reader::Reader;

/// Watermarks of memory, in percent of `max`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes of resident memory; `None`: the limit of the control group, if it has one.
    pub max: Option<u64>,
    /// From here on connections may be idle for `short_idle` only; also when the connections are used up.
    pub short_idle_percent: usize,
    /// From here on every answer closes its connection.
    pub no_keep_alive_percent: usize,
    /// From here on new requests are refused with 503.
    pub refuse_percent: usize,
    pub short_idle: Duration,
}

impl MemoryConfig {
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            max: r.size_if_set("max"),
            short_idle_percent: r.count("short_idle_percent", 85, 1..=100),
            no_keep_alive_percent: r.count("no_keep_alive_percent", 92, 1..=100),
            refuse_percent: r.count("refuse_percent", 95, 1..=100),
            short_idle: r.duration("short_idle", "2s", "10ms"..="1h"),
        }
    }

    /// What no single key can know.
    pub(crate) fn check(&self, r: &mut Reader<'_>) {
        let marks = [
            ("memory.short_idle_percent", self.short_idle_percent),
            ("memory.no_keep_alive_percent", self.no_keep_alive_percent),
            ("memory.refuse_percent", self.refuse_percent),
        ];
        for pair in marks.windows(2) {
            if let [(name, mark), (next_name, next)] = pair
                && mark > next
            {
                r.object_to_one_of(&[name, next_name], format!("{name} is above {next_name}"));
            }
        }
    }
}
