//! Whose request it is: by its API key, or by a header that an operator trusts.
//!
//! There is no account system: the configuration's table is all. The number of tenants is bounded, because each
//! has a line in every queue and a label in metrics. Keys are never logged, and compared in a time that does not depend on them.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use aya_config::{Secret, TenantConfig, TenantsConfig};
use aya_domain::{Priority, TenantId};
use aya_observe::metrics::Labels;
use aya_proxy::ApiError;
use aya_proxy::downstream::Fields;
use http::HeaderName;

/// A tenant and what it may.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) weight: u32,
    /// Empty: all.
    priorities: Vec<Priority>,
}

/// All tenants.
#[derive(Debug)]
pub(crate) struct Tenants {
    header: Option<HeaderName>,
    key_required: bool,
    by_name: BTreeMap<TenantId, Arc<Tenant>>,
    /// By a hash under a seed of this process, so that looking one up tells nothing of the keys.
    by_key: BTreeMap<u64, (Secret, Arc<Tenant>)>,
    hasher: RandomState,
    default: Arc<Tenant>,
    /// Names that a header brought, while there is room for more.
    names: Labels,
}

impl Tenants {
    /// A header name that is none is told as a problem.
    pub(crate) fn new(rules: &TenantsConfig, table: &[TenantConfig]) -> Result<Self, String> {
        let header = rules.header.as_deref().map(str::parse::<HeaderName>).transpose();
        let header = header.map_err(|_| "tenants.header is not the name of a header".to_owned())?;
        let (mut by_name, mut by_key, hasher) = (BTreeMap::new(), BTreeMap::new(), RandomState::new());
        let names = Labels::new(rules.tenants_max);
        for TenantConfig { name, weight, key, priorities } in table {
            let priorities = priorities.clone();
            let tenant = Arc::new(Tenant { id: name.clone(), weight: *weight, priorities });
            let _ = names.get(name.as_str());
            if let Some(key) = key {
                by_key.insert(hasher.hash_one(key.expose()), (key.clone(), Arc::clone(&tenant)));
            }
            by_name.insert(name.clone(), tenant);
        }
        let unnamed = |id: TenantId| Arc::new(Tenant { id, weight: 1, priorities: Vec::new() });
        let default = TenantId::default();
        let default = by_name.get(&default).cloned().unwrap_or_else(|| unnamed(default));
        Ok(Self { header, key_required: rules.key_required, by_name, by_key, hasher, default, names })
    }

    /// Whose request this is.
    pub(crate) fn identify(&self, fields: &Fields) -> Result<Arc<Tenant>, ApiError> {
        if let Some(tenant) = self.by_key(fields) {
            return Ok(tenant);
        }
        if self.key_required {
            let message = "an API key is required: Authorization: Bearer KEY";
            return Err(ApiError::new(401, "authentication_error", message)
                .code("invalid_api_key")
                .should_retry(false));
        }
        let Some(named) = self.header.as_ref().and_then(|name| fields.text(name.as_str())) else {
            return Ok(Arc::clone(&self.default));
        };
        let label = self.names.get(named.trim());
        let Ok(id) = TenantId::parse(&label) else { return Ok(Arc::clone(&self.default)) };
        let known = self.by_name.get(&id).cloned();
        Ok(known.unwrap_or_else(|| Arc::new(Tenant { id, weight: 1, priorities: Vec::new() })))
    }

    fn by_key(&self, fields: &Fields) -> Option<Arc<Tenant>> {
        if self.by_key.is_empty() {
            return None;
        }
        let bearer = fields.text("authorization").and_then(|value| value.split_once(' '));
        let key =
            bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
        let key = key.or_else(|| fields.text("x-api-key"))?;
        let (known, tenant) = self.by_key.get(&self.hasher.hash_one(key))?;
        same(known.expose().as_bytes(), key.as_bytes()).then(|| Arc::clone(tenant))
    }

    /// A tenant's share of a queue.
    pub(crate) fn weight(&self, tenant: &TenantId) -> u32 {
        self.by_name.get(tenant).map_or(1, |tenant| tenant.weight)
    }
}

impl Tenant {
    /// The class of a request that asks for this one, or for none.
    pub(crate) fn class(&self, asked: Option<Priority>) -> Result<Priority, ApiError> {
        let allowed = |class: Priority| self.priorities.is_empty() || self.priorities.contains(&class);
        match asked {
            Some(asked) if allowed(asked) => Ok(asked),
            Some(asked) => {
                let names: Vec<&str> = self.priorities.iter().map(|class| class.as_str()).collect();
                let message = format!("{} requests may be {}, not {asked}", self.id, names.join(", "));
                Err(ApiError::new(403, "permission_error", message)
                    .param("x-aya-priority")
                    .code("priority_not_allowed")
                    .should_retry(false))
            }
            None if allowed(Priority::default()) => Ok(Priority::default()),
            None => Ok(self.priorities.iter().copied().min().unwrap_or_default()),
        }
    }
}

/// Whether two texts are equal, in a time that depends on their lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn tenants(key_required: bool) -> Tenants {
        let tenant = |name: &str, key: Option<&str>, priorities: &[Priority]| TenantConfig {
            name: TenantId::parse(name).unwrap(),
            weight: 3,
            key: key.map(|key| Secret::new(key).unwrap()),
            priorities: priorities.to_vec(),
        };
        let rules = TenantsConfig { header: Some("x-team".to_owned()), key_required, tenants_max: 3 };
        let table = [tenant("a", Some("sk-a"), &[]), tenant("b", Some("sk-b"), &[Priority::Batch])];
        Tenants::new(&rules, &table).unwrap()
    }

    fn fields(pairs: &[(&'static str, &str)]) -> Fields {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        Fields::from(&pairs.iter().map(pair).collect::<HeaderMap>())
    }

    #[test]
    fn a_key_says_more_than_a_header_and_names_are_bounded() {
        let tenants = tenants(false);
        for (pairs, expect) in [
            (&[("authorization", "Bearer sk-a")][..], "a"),
            (&[("authorization", "bearer sk-b"), ("x-team", "a")], "b"),
            (&[("x-api-key", "sk-a")], "a"),
            (&[("authorization", "Bearer sk-c"), ("x-team", "b")], "b"),
            (&[("authorization", "Bearer sk-c")], "default"),
            (&[("authorization", "sk-a")], "default"),
            (&[("x-team", "third")], "third"),
            (&[("x-team", "fourth")], "other"),
            (&[("x-team", "a b")], "other"),
            (&[], "default"),
        ] {
            assert_eq!(tenants.identify(&fields(pairs)).unwrap().id.as_str(), expect, "{pairs:?}");
        }
        assert_eq!(
            (tenants.weight(&TenantId::parse("a").unwrap()), tenants.weight(&TenantId::default())),
            (3, 1)
        );
    }

    #[test]
    fn where_keys_are_required_everybody_else_is_refused() {
        let tenants = tenants(true);
        let refused = tenants.identify(&fields(&[("x-team", "a")])).unwrap_err();
        assert_eq!((refused.status, refused.code), (401, Some("invalid_api_key")));
        assert!(tenants.identify(&fields(&[("x-api-key", "sk-a")])).is_ok());
    }

    #[test]
    fn a_class_that_is_not_allowed_is_refused_if_asked_for_and_replaced_if_not() {
        let tenants = tenants(false);
        let class = |key: &str, asked| {
            let tenant = tenants.identify(&fields(&[("x-api-key", key)])).unwrap();
            tenant.class(asked).map_err(|error| error.status)
        };
        assert_eq!(class("sk-a", Some(Priority::Critical)), Ok(Priority::Critical));
        assert_eq!(class("sk-a", None), Ok(Priority::Standard));
        assert_eq!(class("sk-b", None), Ok(Priority::Batch));
        assert_eq!(class("sk-b", Some(Priority::Standard)), Err(403));
    }
}
