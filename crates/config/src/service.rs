//! Who shares the farm, and what each class of requests is promised.

use std::collections::BTreeSet;
use std::time::Duration;

use aya_domain::{Priority, TenantId};

use crate::Secret;
use crate::reader::Reader;
use crate::source::Origin;

/// The most tenants that are told apart; their names are labels of metrics.
const TENANTS_MAX: usize = 1_000;

/// What the classes are promised.
#[derive(Debug, Clone, PartialEq)]
pub struct SloConfig {
    pub critical: ClassConfig,
    pub standard: ClassConfig,
    pub batch: ClassConfig,
}

/// What one class is promised. An objective that is not set is the policy's.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassConfig {
    /// Time to the first token.
    pub ttft: Option<Duration>,
    /// Time per further token.
    pub tpot: Option<Duration>,
    /// A request that is predicted to lose about so much time to others is refused; `None`: it waits.
    pub shed_above: Option<Duration>,
    /// Requests are refused around so many predicted misses per request of the model; `None`: however many miss.
    pub shed_misses: Option<f64>,
}

/// Longest name of a header, in bytes.
const HEADER_NAME_MAX: usize = 256;

/// How tenants are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantsConfig {
    /// The header that names the tenant of a request without a known key; `None`: no header is believed.
    pub header: Option<String>,
    /// Whether a request without a known key is refused with 401.
    pub key_required: bool,
    /// Tenants that are told apart, those of the table included; the others share `other`.
    pub tenants_max: usize,
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantConfig {
    pub name: TenantId,
    /// Its share of a queue compared with others'.
    pub weight: u32,
    /// The API key by which it is known.
    pub key: Option<Secret>,
    /// The classes it may ask for; the most urgent of them replaces a class it may not ask for. Empty: all.
    pub priorities: Vec<Priority>,
}

impl SloConfig {
    /// The promise to one class.
    #[must_use]
    pub const fn of(&self, class: Priority) -> &ClassConfig {
        match class {
            Priority::Critical => &self.critical,
            Priority::Standard => &self.standard,
            Priority::Batch => &self.batch,
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            critical: r.section("critical", ClassConfig::read),
            standard: r.section("standard", ClassConfig::read),
            batch: r.section("batch", ClassConfig::read),
        }
    }
}

impl ClassConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            ttft: r.duration_if_set("ttft", "1ms"..="1h"),
            tpot: r.duration_if_set("tpot", "1ms"..="1m"),
            shed_above: r.duration_if_set("shed_above", "1ms"..="1h"),
            shed_misses: r.fraction_if_set("shed_misses", 0.001..=4.0),
        }
    }
}

impl TenantsConfig {
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            header: r.text_if_set("header").map(|name| name.to_ascii_lowercase()),
            key_required: r.switch("key_required", false),
            tenants_max: r.count("tenants_max", 100, 1..=TENANTS_MAX),
        }
    }
}

impl TenantConfig {
    /// `name` or `name=weight`
    pub(crate) fn from_word(word: &str) -> Result<Vec<(&'static str, String)>, String> {
        let (name, weight) = word.split_once('=').unwrap_or((word, "1"));
        Ok(vec![("name", name.to_owned()), ("weight", weight.to_owned())])
    }

    pub(crate) fn read(r: &mut Reader<'_>, origin: &Origin) -> Option<Self> {
        let name = r.required("name", origin);
        let weight = u32::try_from(r.count("weight", 1, 1..=1_000)).unwrap_or(1);
        let key = r.secret("key", "key_file");
        let priorities = r.list("priorities");
        Some(Self { name: name?, weight, key, priorities })
    }
}

/// What no single tenant can know: names and keys are unique, and there are not too many.
pub(crate) fn check(r: &mut Reader<'_>, tenants: &[TenantConfig], rules: &TenantsConfig) {
    let (mut names, mut keys) = (BTreeSet::new(), Vec::new());
    for (at, tenant) in tenants.iter().enumerate() {
        if !names.insert(&tenant.name) {
            r.object(&format!("tenant[{at}].name"), format!("{} is a tenant already", tenant.name));
        }
        let Some(key) = &tenant.key else { continue };
        if keys.contains(&key) {
            r.object(&format!("tenant[{at}].key_file"), "another tenant has the same key".to_owned());
        }
        keys.push(key);
    }
    if rules.header.as_deref().is_some_and(|name| !is_header_name(name)) {
        r.object("tenants.header", "is not the name of a header, such as \"x-team\"".to_owned());
    }
    if tenants.len() > rules.tenants_max {
        let message = format!("{} tenants are configured, {} allowed", tenants.len(), rules.tenants_max);
        r.object("tenants.tenants_max", message);
    }
    if rules.key_required && keys.is_empty() {
        r.object("tenants.key_required", "is set, but no tenant has a key".to_owned());
    }
}

/// A token of RFC 9110, of a length that nobody needs.
fn is_header_name(name: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=HEADER_NAME_MAX).contains(&name.len()) && name.bytes().all(is_token)
}
