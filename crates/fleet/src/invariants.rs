//! What holds of every snapshot: checked by the fleet itself in debug builds, and by property tests.

use aya_domain::{Phase, Snapshot};

/// A rule that a snapshot breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

/// Checks one snapshot.
///
/// # Errors
/// The first [`Violation`].
pub fn check(snapshot: &Snapshot) -> Result<(), Violation> {
    directory_names_the_endpoints_in_order(snapshot)?;
    nodes_are_in_order_and_own_every_endpoint(snapshot)?;
    pools_agree_with_the_endpoints(snapshot)
}

/// Checks that `next` may follow `previous`.
///
/// # Errors
/// The first [`Violation`].
pub fn check_succession(previous: &Snapshot, next: &Snapshot) -> Result<(), Violation> {
    ensure(next.generation == previous.generation + 1, || {
        format!("generation {} follows {}", next.generation, previous.generation)
    })?;
    ensure(next.taken_at >= previous.taken_at, || "time goes back".to_owned())
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(otherwise())) }
}

fn directory_names_the_endpoints_in_order(snapshot: &Snapshot) -> Result<(), Violation> {
    let ids = snapshot.endpoints.iter().map(|endpoint| &endpoint.info.id);
    ensure(ids.eq(snapshot.directory.iter()), || {
        "the directory is not parallel to the endpoints".to_owned()
    })?;
    ensure(snapshot.directory.is_sorted_by(|a, b| a < b), || "the endpoints are not in order".to_owned())
}

fn nodes_are_in_order_and_own_every_endpoint(snapshot: &Snapshot) -> Result<(), Violation> {
    ensure(snapshot.nodes.is_sorted_by(|a, b| a.id < b.id), || "the nodes are not in order".to_owned())?;
    for endpoint in &snapshot.endpoints {
        let node = snapshot.nodes.binary_search_by(|node| node.id.cmp(&endpoint.info.node)).ok();
        let fresh = node.and_then(|at| snapshot.nodes.get(at)).map(|node| node.freshness);
        ensure(fresh == Some(endpoint.freshness), || {
            format!("endpoint {} has no node or another freshness than it", endpoint.info.id)
        })?;
    }
    Ok(())
}

fn pools_agree_with_the_endpoints(snapshot: &Snapshot) -> Result<(), Violation> {
    for (model, pool) in &snapshot.models {
        ensure(pool.members.is_sorted_by(|a, b| a.0 < b.0), || {
            format!("the pool of {model} is not in order")
        })?;
        for (index, context) in &pool.members {
            let serves = snapshot.endpoint(*index).is_some_and(|endpoint| {
                let served = endpoint.info.models.iter().find(|served| served.id == *model);
                endpoint.phase != Phase::Gone
                    && served.is_some_and(|served| served.context_length == *context)
            });
            ensure(serves, || format!("the pool of {model} names an endpoint that does not serve it"))?;
        }
    }
    Ok(())
}
