//! Reads an exposition page as far as tests ask about it.

/// The samples of one page.
#[derive(Debug, Clone)]
pub struct Metrics {
    samples: Vec<(String, String, f64)>,
}

impl Metrics {
    /// # Panics
    /// If a line is neither a comment nor a sample.
    #[must_use]
    pub fn parse(page: &str) -> Self {
        let samples = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            (name.to_owned(), labels.trim_end_matches('}').to_owned(), value)
        });
        Self { samples: samples.collect() }
    }

    /// The sum over all series of this name.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    /// The sum over the series of this name that have this label, such as `outcome="completed"`.
    #[must_use]
    pub fn with(&self, name: &str, label: &str) -> f64 {
        self.of(name)
            .filter(|(labels, _)| labels.split(',').any(|l| l == label))
            .map(|(_, value)| value)
            .sum()
    }

    /// Every series of this name with its labels.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.samples.iter().filter(move |(n, _, _)| n == name).map(|(_, labels, value)| (&**labels, *value))
    }
}
