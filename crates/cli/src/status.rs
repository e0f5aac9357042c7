//! The farm on one screen: how much of it works, what needs attention, then endpoints and nodes.

use crate::fleet::{EndpointJson, FleetJson, GpuJson, NodeJson, QueueJson};
use aya_trace::ConditionJson;

use crate::table::{Side, Table};
use crate::text::{Style, ago, counted, gib, ms, or_absent, percent, plain};

/// A line per GPU with `gpus`, else a line per node.
pub(crate) fn render(fleet: &FleetJson, gpus: bool, style: Style) -> String {
    let mut lines = vec![style.strong(&headline(fleet)), String::new()];
    let attention = attention(fleet);
    if !attention.is_empty() {
        lines.push("needs attention".to_owned());
        lines.extend(attention.iter().map(|line| style.bad(&format!("  {}", plain(line)))));
        lines.push(String::new());
    }
    if fleet.nodes.is_empty() {
        lines.push(
            "No agent has reported yet: run `aya agent --scheduler http://HOST:8082` on a GPU host."
                .to_owned(),
        );
        return lines.join("\n");
    }
    lines.extend(endpoints(&fleet.endpoints).lines());
    lines.push(String::new());
    if gpus && fleet.nodes.iter().all(|node| node.gpus.is_empty()) {
        lines.push("No node tells of a GPU; see AGENT in `aya status` and the agents' logs.".to_owned());
        return lines.join("\n");
    }
    lines.extend(if gpus { gpu_table(&fleet.nodes) } else { nodes(&fleet.nodes) }.lines());
    lines.join("\n")
}

fn headline(fleet: &FleetJson) -> String {
    let ready = fleet.endpoints.iter().filter(|e| e.is_ready()).count();
    let in_flight: u32 = fleet.endpoints.iter().map(|e| e.in_flight).sum();
    let gpus: usize = fleet.nodes.iter().map(|n| n.gpus.len()).sum();
    format!(
        "{}, {}, {} of {} ready, {in_flight} in flight ({}, snapshot {})",
        counted(fleet.nodes.len(), "node"),
        counted(gpus, "GPU"),
        ready,
        counted(fleet.endpoints.len(), "endpoint"),
        plain(&fleet.time),
        fleet.generation,
    )
}

/// Everything that is not as it should be, worst first.
fn attention(fleet: &FleetJson) -> Vec<String> {
    let because = |reason: &Option<String>| reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    let mut lines: Vec<String> =
        fleet.problems.iter().map(|problem| format!("scheduler: {problem}")).collect();
    lines.extend(fleet.queues.iter().map(|queue| queue_line(queue, &fleet.endpoints)));
    for node in &fleet.nodes {
        if node.freshness != "fresh" || !node.connected {
            let connection = if node.connected { "" } else { ", disconnected" };
            lines.push(format!("node {} last reported {}{connection}", node.id, ago(node.age_ms)));
        }
        if node.health != "healthy" {
            lines.push(format!("node {} is {}{}", node.id, node.health, because(&node.health_reason)));
        }
        for gpu in node.gpus.iter().filter(|gpu| gpu.health != "healthy" && gpu.health != "unknown") {
            let reason = because(&gpu.health_reason);
            lines.push(format!("GPU {} of node {} is {}{reason}", gpu.uuid, node.id, gpu.health));
        }
    }
    for endpoint in &fleet.endpoints {
        if let Some(other) = &endpoint.same_engine_as {
            let line =
                format!("endpoints {} and {other} are one engine: its load is counted twice", endpoint.id);
            lines.push(line);
        }
        if endpoint.health != "healthy" {
            let reason = because(&endpoint.health_reason);
            lines.push(format!("endpoint {} is {}{reason}", endpoint.id, endpoint.health));
        } else {
            lines.extend(unread(endpoint));
        }
        lines.extend(endpoint.conditions.iter().filter_map(|condition| condition_line(endpoint, condition)));
    }
    lines
}

/// Who waits for a model, and how many of its endpoints could take somebody.
fn queue_line(queue: &QueueJson, endpoints: &[EndpointJson]) -> String {
    let serves = |endpoint: &&EndpointJson| endpoint.models.iter().any(|model| model.id == queue.model);
    let serving: Vec<_> = endpoints.iter().filter(serves).collect();
    let ready = match serving.iter().filter(|endpoint| endpoint.is_ready()).count() {
        _ if serving.is_empty() => "no endpoint serves it".to_owned(),
        ready => format!("{ready} of {} ready", counted(serving.len(), "endpoint")),
    };
    let oldest = ms(queue.oldest_waited_ms);
    format!("model {}: {ready}, {} waiting, the oldest for {oldest}", queue.model, queue.waiting)
}

/// What a rule does to an endpoint, where it is more than a note; a power limit that is reached is no news.
fn condition_line(endpoint: &EndpointJson, condition: &ConditionJson) -> Option<String> {
    if condition.action == "note" || condition.rule == "power_cap" {
        return None;
    }
    let mut action = condition.action.clone();
    if let Some(speed) = condition.speed_ratio {
        action.push_str(&format!(" to {}", percent(speed)));
    }
    let gpu = condition.gpu.as_ref().map(|gpu| format!(" on GPU {gpu}")).unwrap_or_default();
    let recovering = if condition.recovering { ", recovering" } else { "" };
    let braked = condition.braked.as_ref().map(|wanted| format!(" (the brake holds back: {wanted})"));
    let braked = braked.unwrap_or_default();
    Some(format!("endpoint {}: {action}{braked}: {}{gpu}{recovering}", endpoint.id, condition.cause))
}

/// What a healthy engine should tell and does not, a line per reason.
fn unread(endpoint: &EndpointJson) -> Vec<String> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for told in &endpoint.signals {
        let reason = match told.state.as_str() {
            "missing" => told.reason.as_deref().unwrap_or("no reason told"),
            "stale" => "its page no longer answers in time",
            _ => continue,
        };
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, signals)) => signals.push(&told.signal),
            None => reasons.push((reason, vec![&told.signal])),
        }
    }
    let line = |(reason, signals): (&str, Vec<&str>)| {
        format!("endpoint {} does not tell {}: {reason}", endpoint.id, signals.join(", "))
    };
    reasons.into_iter().map(line).collect()
}

fn endpoints(endpoints: &[EndpointJson]) -> Table {
    let mut table = Table::new(&[
        ("ENDPOINT", Side::Left),
        ("NODE", Side::Left),
        ("ENGINE", Side::Left),
        ("STATE", Side::Left),
        ("IN FLIGHT", Side::Right),
        ("RUNNING", Side::Right),
        ("WAITING", Side::Right),
        ("KV USED", Side::Right),
        ("READ", Side::Right),
        ("MODELS", Side::Left),
    ]);
    for endpoint in endpoints {
        let running = or_absent(endpoint.running, |running| match endpoint.max_sequences {
            Some(max) => format!("{running}/{max}"),
            None => running.to_string(),
        });
        let models: Vec<&str> = endpoint.models.iter().map(|m| m.id.as_str()).collect();
        table.row(&[
            endpoint.id.clone(),
            endpoint.node.clone(),
            endpoint.engine.clone(),
            endpoint_state(endpoint),
            endpoint.in_flight.to_string(),
            running,
            or_absent(endpoint.waiting, |n| n.to_string()),
            or_absent(endpoint.kv_used_ratio, percent),
            endpoint.age_ms.map_or_else(|| "never".to_owned(), ago),
            models.join(","),
        ]);
    }
    table
}

/// One word for two axes and an age: what keeps requests away comes first.
fn endpoint_state(endpoint: &EndpointJson) -> String {
    let state = if endpoint.phase != "serving" {
        endpoint.phase.clone()
    } else if let Some(breaker) = endpoint.breaker() {
        breaker.replace('_', "-")
    } else if let Some(condition) = endpoint.excluded_by() {
        condition.action.clone()
    } else if !endpoint.is_ready() {
        endpoint.health.clone()
    } else if let Some(left) = endpoint.cooling_ms.filter(|left| *left > 0.0) {
        format!("pauses {}", ms(left))
    } else if endpoint.health == "degraded" {
        endpoint.health.clone()
    } else if let Some(speed) = endpoint.speed_ratio.filter(|speed| *speed < 1.0) {
        format!("ready at {}", percent(speed))
    } else {
        "ready".to_owned()
    };
    if endpoint.freshness == "fresh" { state } else { format!("{state}, {}", endpoint.freshness) }
}

fn nodes(nodes: &[NodeJson]) -> Table {
    let mut table = Table::new(&[
        ("NODE", Side::Left),
        ("STATE", Side::Left),
        ("REPORTED", Side::Right),
        ("GPUS", Side::Left),
        ("VRAM USED", Side::Right),
        ("BUSY", Side::Right),
        ("HOTTEST", Side::Right),
        ("POWER", Side::Right),
        ("AGENT", Side::Left),
    ]);
    for node in nodes {
        let sum = |pick: fn(&GpuJson) -> Option<u64>| node.gpus.iter().map(pick).sum::<Option<u64>>();
        let known = !node.gpus.is_empty();
        let vram = sum(|g| g.vram_used_bytes).zip(sum(|g| g.vram_total_bytes)).filter(|_| known);
        table.row(&[
            node.id.clone(),
            node_state(node),
            ago(node.age_ms),
            gpu_names(node),
            or_absent(vram, |(used, total)| used_of(used, total)),
            or_absent(mean_busy(&node.gpus), percent),
            or_absent(node.gpus.iter().filter_map(|g| g.temperature_celsius).max(), |c| format!("{c} C")),
            or_absent(sum(|g| g.power_milliwatts).filter(|_| known), |mw| format!("{} W", mw / 1_000)),
            format!("{} ({})", node.agent_version, node.gpu_source),
        ]);
    }
    table
}

fn node_state(node: &NodeJson) -> String {
    let state = if node.phase == "serving" { &node.health } else { &node.phase };
    if node.freshness == "fresh" { state.clone() } else { format!("{state}, {}", node.freshness) }
}

/// `8x NVIDIA H100 80GB HBM3`, kinds in the order of the node.
fn gpu_names(node: &NodeJson) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for gpu in &node.gpus {
        match kinds.iter_mut().find(|(name, _)| *name == gpu.name) {
            Some((_, count)) => *count += 1,
            None => kinds.push((&gpu.name, 1)),
        }
    }
    let kinds: Vec<String> = kinds.iter().map(|(name, count)| format!("{count}x {name}")).collect();
    if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") }
}

/// `None` if any of them is unread: a mean over the rest would read as one over all.
#[expect(clippy::cast_precision_loss, reason = "a node has at most a few dozen GPUs")]
fn mean_busy(gpus: &[GpuJson]) -> Option<f64> {
    let sum: f64 = gpus.iter().map(|gpu| gpu.busy_ratio).sum::<Option<f64>>()?;
    (!gpus.is_empty()).then(|| sum / gpus.len() as f64)
}

fn used_of(used: u64, total: u64) -> String {
    format!("{:.1} of {:.1} GiB", gib(used), gib(total))
}

fn gpu_table(nodes: &[NodeJson]) -> Table {
    let mut table = Table::new(&[
        ("NODE", Side::Left),
        ("GPU", Side::Left),
        ("NAME", Side::Left),
        ("HEALTH", Side::Left),
        ("VRAM USED", Side::Right),
        ("BUSY", Side::Right),
        ("TEMP", Side::Right),
        ("POWER", Side::Right),
        ("READ", Side::Right),
    ]);
    for (node, gpu) in nodes.iter().flat_map(|node| node.gpus.iter().map(move |gpu| (node, gpu))) {
        let vram = gpu.vram_used_bytes.zip(gpu.vram_total_bytes);
        table.row(&[
            node.id.clone(),
            gpu.uuid.clone(),
            gpu.name.clone(),
            gpu.health.clone(),
            or_absent(vram, |(used, total)| used_of(used, total)),
            or_absent(gpu.busy_ratio, percent),
            or_absent(gpu.temperature_celsius, |c| format!("{c} C")),
            or_absent(gpu.power_milliwatts, |mw| format!("{} W", mw / 1_000)),
            gpu.age_ms.map_or_else(|| "never".to_owned(), ago),
        ]);
    }
    table
}

#[cfg(test)]
mod tests;
