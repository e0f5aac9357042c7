//! Inputs of the measurements, made from a seed so that two runs time the same work.
#![expect(
    clippy::unwrap_used,
    reason = "every text is a literal here: a wrong one is a mistake of the bench"
)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{
    Aged, AgentHealth, BootId, Bytes, Celsius, EndpointId, EndpointIndex, EndpointInfo, EndpointUrl,
    EngineHealth, EngineKind, EngineReport, GpuInfo, GpuReport, GpuSample, GpuSourceKind, GpuUuid,
    Milliwatts, ModelId, MonoTime, NodeId, OwnLoad, PcieLink, Priority, Ratio, Report, ReportKind, Request,
    RequestId, RequestKind, ServedModel, Snapshot, TenantId, Tokens, splitmix64,
};
use aya_fleet::{Event, Fleet, Params};
use aya_placement::{Insights, Stream};

/// GPUs of a node, and engines beside them.
pub const GPUS: u32 = 8;
pub const ENGINES: u32 = 4;
/// What every engine serves.
pub const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";
/// The present of every snapshot here.
pub const NOW: MonoTime = MonoTime::from_millis(100_000);

const PERIOD: Duration = Duration::from_millis(250);
/// Products of a mixed farm, as NVML names them.
const PRODUCTS: [&str; 4] = ["NVIDIA L4", "NVIDIA A10G", "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"];

/// What a default agent says in its turn `sequence`: engines in every report, GPUs in every fourth, all of both in
/// the first.
#[must_use]
pub fn report(node: u32, sequence: u64) -> Report {
    let full = sequence == 1;
    let with_gpus = full || sequence.is_multiple_of(4);
    Report {
        node: NodeId::parse(&format!("gpu-{node:04}")).unwrap(),
        boot: BootId(u64::from(node) + 1),
        sequence,
        kind: if full { ReportKind::Full } else { ReportKind::Delta },
        agent: AgentHealth {
            version: "0.1.0".to_owned(),
            gpu_source: GpuSourceKind::Nvml,
            driver_version: Some("580.65.06".to_owned()),
            gpu_error: None,
            period: PERIOD,
        },
        gpus: (0..if with_gpus { GPUS } else { 0 }).map(|at| gpu(node, at, sequence)).collect(),
        engines: (0..ENGINES).map(|at| engine(node, at, sequence)).collect(),
    }
}

/// A report that names everything: 8 GPUs and 4 engines.
#[must_use]
pub fn whole_report(node: u32, sequence: u64) -> Report {
    let gpus = (0..GPUS).map(|at| gpu(node, at, sequence)).collect();
    Report { kind: ReportKind::Full, gpus, ..report(node, sequence) }
}

fn uuid(node: u32, at: u32) -> GpuUuid {
    GpuUuid::parse(&format!("GPU-{node:08x}-0000-4000-8000-{at:012x}")).unwrap()
}

fn gpu(node: u32, at: u32, sequence: u64) -> GpuReport {
    let noise = splitmix64(u64::from(node) << 32 | u64::from(at) ^ sequence.rotate_left(17));
    let used = 60 << 30 | (noise & 0xfff_ffff);
    let product = PRODUCTS.get(node as usize % PRODUCTS.len()).unwrap();
    GpuReport {
        info: GpuInfo {
            uuid: uuid(node, at),
            name: (*product).to_owned(),
            vram_total: Some(Bytes(80 << 30)),
            power_limit: Some(Milliwatts(700_000)),
            sm_clock_max_mhz: Some(1980),
            slowdown_margin: Some(Celsius(-2)),
            mig: None,
        },
        sample: Some(Aged::new(
            GpuSample {
                vram_used: Some(Bytes(used)),
                vram_free: Some(Bytes((80 << 30) - used)),
                busy: Some(Ratio::ONE),
                memory_busy: Some(Ratio::clamped(0.6)),
                temperature: Some(Celsius(61)),
                power: Some(Milliwatts(450_000 + noise % 100_000)),
                energy_millijoules: Some(noise),
                sm_clock_mhz: Some(1755),
                memory_clock_mhz: Some(2619),
                clock_event_reasons: Some(4),
                memory_temperature: Some(Celsius(68)),
                thermal_margin: Some(Celsius(26)),
                ecc_corrected: Some(0),
                ecc_uncorrected: Some(0),
                rows_remapped: Some(0),
                row_remap_pending: Some(false),
                row_remap_failed: Some(false),
                recovery_action: Some(0),
                xids: Some(0),
                last_xid: None,
                sm_active: Some(Ratio::clamped(0.9)),
                sm_occupancy: Some(Ratio::clamped(0.4)),
                tensor_active: Some(Ratio::clamped(0.3)),
                dram_active: Some(Ratio::clamped(0.6)),
                throttled_thermal: Some(Duration::ZERO),
                throttled_power: Some(Duration::from_secs(7)),
                pcie_tx_bytes_per_second: Some(noise % 900_000_000),
                pcie_rx_bytes_per_second: Some(noise % 1_200_000_000),
                nvlink_tx_bytes_per_second: Some(0),
                nvlink_rx_bytes_per_second: Some(0),
                pcie_replays: Some(0),
                pcie_link: Some(PcieLink { generation: 5, lanes: 16, generation_max: 5, lanes_max: 16 }),
                pages_retired: None,
                page_retirement_pending: None,
                nvlink_errors: Some(0),
                nvlinks_active: Some(18),
            },
            Duration::from_millis(noise % 900),
        )),
        processes: None,
    }
}

fn engine(node: u32, at: u32, sequence: u64) -> EngineReport {
    let noise = splitmix64(u64::from(node) << 32 | u64::from(at) ^ sequence.rotate_left(33));
    let age = Duration::from_millis(noise % 200);
    let port = 8000 + at;
    let id = ModelId::parse(MODEL).unwrap();
    let served = ServedModel { id, context_length: Some(Tokens(131_072)), parent: None };
    let small = |bits: u32| u32::try_from(noise >> bits & 0x1f).unwrap();
    EngineReport {
        id: EndpointId::parse(&format!("gpu-{node:04}/vllm-{port}")).unwrap(),
        kind: EngineKind::Vllm,
        url: EndpointUrl::parse(&format!("http://10.{}.{}.7:{port}", node >> 8, node & 0xff)).unwrap(),
        health: Aged::new(EngineHealth::Ready, age),
        version: Some("0.11.0".to_owned()),
        models: Some(Aged::new(vec![served], Duration::from_secs(7))),
        running: Some(Aged::new(small(0), age)),
        waiting: Some(Aged::new(small(5) / 16, age)),
        kv_used: Some(Aged::new(Ratio::clamped(f64::from(small(10)) / 40.0), age)),
        kv_capacity: Some(Aged::new(Tokens(448_000), Duration::from_secs(7))),
        max_sequences: Some(Aged::new(256, Duration::from_secs(7))),
        profile: None,
        prefix_cache: None,
        work: None,
        abort: None,
        signals: Vec::new(),
        kv_bytes_per_token: None,
        gpus: vec![uuid(node, 2 * at), uuid(node, 2 * at + 1)],
    }
}

/// A fleet that heard a whole report from each of so many nodes.
#[must_use]
pub fn fleet(nodes: u32) -> Fleet {
    let mut fleet = Fleet::new(Params::default());
    for node in 0..nodes {
        let report = Box::new(whole_report(node, 1));
        // What joins is of no interest here.
        let _ = fleet.apply(Event::Report { report, received_at: NOW }, NOW);
    }
    fleet
}

/// A mixed farm of so many endpoints, and what is in flight there: some idle, most busy, a few full.
#[must_use]
pub fn farm(endpoints: u32) -> (Snapshot, Vec<OwnLoad>) {
    let snapshot = fleet(endpoints.div_ceil(ENGINES)).snapshot(NOW);
    let loads = (0..snapshot.endpoints.len() as u64).map(load).collect();
    (snapshot, loads)
}

fn load(seed: u64) -> OwnLoad {
    let noise = splitmix64(seed);
    let small = |bits: u32, limit: u64| u32::try_from((noise >> bits) % limit).unwrap();
    let (prefilling, decoding) = (small(0, 4), small(8, 48));
    OwnLoad {
        in_flight: prefilling + decoding,
        prefilling,
        prefill_tokens: u64::from(prefilling) * 1_150,
        decoding,
        decode_kv_tokens: u64::from(decoding) * 1_400,
        prefill_rate: f64::from(small(16, 6_000)),
        response: None,
        cooling_until: noise.is_multiple_of(50).then(|| NOW.after(Duration::from_millis(200))),
    }
}

/// Makes all endpoints alike: the farm on which totals are closest to each other.
pub fn level(snapshot: &mut Snapshot, loads: &mut [OwnLoad]) {
    let first = snapshot.endpoints.last().unwrap().clone();
    // So little prefill that none of them is too busy: they are to compete.
    let load = OwnLoad { cooling_until: None, prefilling: 1, prefill_tokens: 300, ..*loads.first().unwrap() };
    for endpoint in &mut snapshot.endpoints {
        endpoint.info = Arc::new(EndpointInfo {
            profile: first.info.profile,
            id: endpoint.info.id.clone(),
            ..EndpointInfo::clone(&first.info)
        });
        endpoint.foreign = first.foreign;
    }
    loads.fill(load);
}

/// So many streams on every endpoint, some ahead of their objective and some behind, two prompts that wait, and on every
/// eighth endpoint half of the prompt.
#[derive(Debug)]
pub struct Residents {
    streams: Vec<Vec<Stream>>,
}

impl Residents {
    /// Makes the ledger agree with them; `mixed`: each endpoint has others.
    #[must_use]
    pub fn new(loads: &mut [OwnLoad], streams: u32, mixed: bool) -> Self {
        let of = |(at, load): (usize, &mut OwnLoad)| {
            load.decoding = streams;
            load.in_flight = streams + load.prefilling;
            let stream = |nth: u32| {
                let noise = splitmix64(splitmix64(if mixed { at as u64 } else { 0 }) ^ u64::from(nth));
                let tokens = u32::try_from(noise % 400).unwrap() + 1;
                let pace_ms = u32::try_from(noise >> 32 & 63).unwrap() + 15;
                Stream { tokens, since_first_ms: tokens * pace_ms }
            };
            (0..streams).map(stream).collect()
        };
        Self { streams: loads.iter_mut().enumerate().map(of).collect() }
    }
}

impl Insights for Residents {
    fn cached(&self, endpoint: EndpointIndex) -> Tokens {
        Tokens(if endpoint.0.is_multiple_of(8) { 512 } else { 0 })
    }

    fn prompts_in_flight(&self, _: EndpointIndex) -> Option<Tokens> {
        None
    }

    fn residents(&self, endpoint: EndpointIndex, pending: &mut Vec<u32>, streams: &mut Vec<Stream>) {
        pending.extend([300, 900]);
        streams.extend_from_slice(self.streams.get(endpoint.get()).map_or(&[], Vec::as_slice));
    }
}

/// A chat request of ordinary size.
#[must_use]
pub fn request() -> Request {
    Request {
        id: RequestId::parse("0199a3b4-0000-7000-8000-000000000001").unwrap(),
        sequence: 7,
        model: ModelId::parse(MODEL).unwrap(),
        kind: RequestKind::Chat,
        stream: true,
        prompt_bytes: 4_600,
        prompt_tokens: Tokens(1_150),
        prompt_tokens_min: Tokens(575),
        max_tokens: Some(Tokens(512)),
        expected_output: 230.0,
        expected_residual: 260.0,
        arrived_at: NOW,
        priority: Priority::default(),
        tenant: TenantId::default(),
        deadline: None,
        slo: None,
        prefix: aya_domain::PromptPrefix::default(),
        tried: Vec::new(),
    }
}

/// A chat body of about so many bytes: turns with a line break and a quotation every 80 bytes, as people write.
#[must_use]
pub fn chat_body(bytes: usize) -> Vec<u8> {
    let mut body =
        format!(r#"{{"model":"{MODEL}","stream":true,"max_tokens":512,"temperature":0.7,"messages":["#);
    let mut turn = 0;
    while body.len() < bytes.saturating_sub(200) {
        let role = if turn % 2 == 0 { "user" } else { "assistant" };
        let comma = if turn == 0 { "" } else { "," };
        write!(body, r#"{comma}{{"role":"{role}","content":""#).unwrap();
        let end = (body.len() + 2_000).min(bytes.saturating_sub(100));
        while body.len() < end {
            body.push_str(r#"The quick brown fox said \"hello\" and jumped over the lazy dog, twice.\n"#);
        }
        body.push_str("\"}");
        turn += 1;
    }
    body.push_str("]}");
    body.into_bytes()
}

/// One token's event, as vLLM writes it.
pub const TOKEN_EVENT: &[u8] = b"data: {\"id\":\"chatcmpl-0199a3b400007000\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"meta-llama/Llama-3.1-8B-Instruct\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
