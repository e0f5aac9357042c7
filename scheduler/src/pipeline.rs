//! The way of one inference request: scan, classify, place, relay, account.

mod account;
pub(crate) mod admit;
mod blame;
pub(crate) mod carried;
mod continuation;
mod failure;
pub(crate) mod inputs;
pub(crate) mod place;
mod refusal;
mod relay;
pub(crate) mod resolve;
mod sent;
mod stream;
mod whole;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{
    IdError, ModelId, MonoTime, Priority, PromptPrefix, Request, RequestId, RequestKind, TenantId, Tokens,
    UnknownPriority, WallTime,
};
use aya_estimate::TokenRatio;
use aya_placement::Policy;
use aya_proxy::downstream::{Fields, plain_text};
use aya_proxy::{ApiError, BodyView, ScanLimits, prompt_prefix, scan};
use bytes::Bytes;
use uuid::{ContextV7, Timestamp, Uuid};

pub(crate) use account::Account;

use self::failure::Pause;
use self::place::{NotPlaced, Unplaced};
use self::relay::AttemptEnd;
use self::sent::{Patience, Upstream};
use crate::http::answer::Answer;
use crate::http::respond;
use crate::models::{ModelState, Route};
use crate::shared::Shared;

/// A request as it came in.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) kind: RequestKind,
    pub(crate) body: Bytes,
    pub(crate) hints: Hints,
}

/// What headers ask for.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    pub(crate) policy: Option<Policy>,
    /// From arrival; nothing is dispatched later.
    deadline: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) tenant: TenantId,
    traceparent: Option<Box<str>>,
    authorization: Option<Box<str>>,
    /// Whether a stream that breaks off shall go on elsewhere; `None`: as the model is configured.
    continues: Option<bool>,
}

impl Hints {
    pub(crate) fn read(fields: &Fields, shared: &Shared) -> Result<Self, ApiError> {
        let bad = |name: &'static str, message: String| ApiError::invalid_request(message).param(name);
        let text = |name: &'static str| match fields.get(name).map(plain_text) {
            None => Ok(None),
            Some(Some(text)) => Ok(Some(text.trim())),
            Some(None) => Err(bad(name, format!("{name} is not plain text"))),
        };
        let policy = match text("x-aya-policy")? {
            Some(name) if shared.config.placement.allow_policy_header => {
                let found = shared.policies.get(name).cloned();
                let known: Vec<_> = shared.policies.keys().map(ToString::to_string).collect();
                let message = || bad("x-aya-policy", format!("unknown policy; known: {}", known.join(", ")));
                Some(found.ok_or_else(message)?)
            }
            Some(_) | None => None,
        };
        let deadline = match text("x-aya-deadline-ms")? {
            Some(ms) => {
                let message = "x-aya-deadline-ms is not a whole number of milliseconds, 1 or more";
                let ms: NonZeroU64 = ms.parse().map_err(|_| bad("x-aya-deadline-ms", message.to_owned()))?;
                Some(Duration::from_millis(ms.get()))
            }
            None => None,
        };
        let priority = match text("x-aya-priority")? {
            Some(name) => Some(
                name.parse().map_err(|error: UnknownPriority| bad("x-aya-priority", error.to_string()))?,
            ),
            None => None,
        };
        let continues = match text("x-aya-continue")? {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => {
                return Err(bad("x-aya-continue", "x-aya-continue is neither true nor false".to_owned()));
            }
        };
        let tenant = shared.tenants.identify(fields)?;
        let priority = tenant.class(priority)?;
        let forward = shared.config.upstream.forward_authorization;
        Ok(Self {
            policy,
            deadline,
            priority,
            tenant: tenant.id.clone(),
            traceparent: fields.text("traceparent").map(Box::from),
            authorization: fields.text("authorization").filter(|_| forward).map(Box::from),
            continues,
        })
    }
}

thread_local! {
    /// Keeps the ids of one millisecond in order.
    static ORDER: ContextV7 = const { ContextV7::new() };
}

/// A new id of our own making, ordered by this time.
pub(crate) fn fresh_id<T>(wall: WallTime, parse: impl Fn(&str) -> Result<T, IdError>) -> T {
    let mut buffer = Uuid::encode_buffer();
    let millis = u32::try_from(wall.as_unix_ms() % 1_000).unwrap_or(0);
    loop {
        let time = |order: &ContextV7| Timestamp::from_unix(order, wall.as_unix_s(), millis * 1_000_000);
        // A UUID is always a valid id, so the loop ends in its first round.
        if let Ok(id) = parse(Uuid::new_v7(ORDER.with(time)).hyphenated().encode_lower(&mut buffer)) {
            return id;
        }
    }
}

/// A request that passed every check that needs no endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) request: Request,
    /// What was learned about its model.
    pub(crate) state: Arc<ModelState>,
    pub(crate) scanned: BodyView,
    pub(crate) body: Bytes,
    /// The name to write into the body, if the client used an alias.
    pub(crate) renamed: Option<ModelId>,
    pub(crate) traceparent: Option<Box<str>>,
    pub(crate) authorization: Option<Box<str>>,
    /// If its stream breaks off it may go on from another engine, which this policy chooses.
    pub(crate) continues: Option<Box<Policy>>,
}

impl Prepared {
    /// Answers asked for; each needs its own finish reason.
    fn choices(&self) -> u32 {
        let prompts = match self.request.kind {
            RequestKind::Completion => self.scanned.prompts.unwrap_or(1).max(1),
            RequestKind::Chat | RequestKind::Embedding => 1,
        };
        self.choices_per_prompt().saturating_mul(prompts)
    }

    fn choices_per_prompt(&self) -> u32 {
        self.scanned.n.unwrap_or(1).max(1)
    }
}

/// Relays one request and accounts for it, whatever happens.
pub(crate) async fn run(shared: &Arc<Shared>, mut account: Account, ask: Ask) -> Answer {
    let policy = ask.hints.policy.clone();
    let deadline = ask.hints.deadline;
    let mut prepared = match prepare(shared, account.request_id(), account.arrived_at(), ask) {
        Ok(prepared) => prepared,
        Err(error) => {
            account.refuse(&error);
            return respond::error(&error);
        }
    };
    account.classified(&prepared);
    let policy = policy.as_ref().unwrap_or_else(|| shared.policy_of(&prepared.request.model));
    let wait = deadline.map_or(shared.config.queue.wait_max, |d| d.min(shared.config.queue.wait_max));
    let arrived_at = prepared.request.arrived_at;
    let total_until = sent::total_until(shared, &prepared);
    let until = Until {
        wait: arrived_at.after(wait),
        dispatch: deadline.map_or(total_until, |d| arrived_at.after(d).min(total_until)),
    };
    attempts(shared, account, &mut prepared, policy, until).await
}

/// How often engines may push one request back as long as its wait lasts; each time it waits for room anew. A pause
/// takes a second at least, so this is more than the default wait needs, and bounds the attempts of a record.
const PUSHBACKS_MAX: usize = 64;

/// The last instants of a request's steps.
#[derive(Debug, Clone, Copy)]
struct Until {
    /// It waits for room no longer.
    wait: MonoTime,
    /// It is sent to no further engine.
    dispatch: MonoTime,
}

/// Attempt after attempt, until something can be told to the client.
async fn attempts(
    shared: &Arc<Shared>,
    mut account: Account,
    prepared: &mut Prepared,
    policy: &Policy,
    until: Until,
) -> Answer {
    let mut failures = 0;
    let mut pushbacks = 0;
    loop {
        let wait = place::Wait {
            until: until.wait,
            newcomer: failures + pushbacks == 0,
            account: &mut account,
            elsewhere: false,
        };
        let placed = place::place(shared, &prepared.request, policy, wait).await;
        let placed = match placed {
            Ok(placed) => placed,
            Err(unplaced) => return not_placed(shared, account, prepared, unplaced),
        };
        let endpoint = placed.endpoint.id.clone();
        let patience = Patience {
            failures_left: shared.config.retry.attempts_max.saturating_sub(failures + 1),
            pushbacks_left: PUSHBACKS_MAX - pushbacks,
            wait_until: until.wait,
            dispatch_until: until.dispatch,
        };
        let upstream = Upstream { shared, prepared, patience };
        let (returned, why) = match relay::attempt(upstream, account, placed).await {
            AttemptEnd::Answered(answer) => return answer,
            AttemptEnd::Retry(returned, why) => (returned, why),
        };
        account = *returned;
        shared.metrics.retries.inc();
        match why {
            Pause::Failed => {
                failures += 1;
                prepared.request.tried.push(endpoint);
            }
            // Full is not broken: it may come back here when the pause that the engine asked for is over.
            Pause::PushedBack(_) => pushbacks += 1,
            Pause::Over => {}
        }
    }
}

fn not_placed(shared: &Shared, mut account: Account, prepared: &Prepared, unplaced: Unplaced) -> Answer {
    let error = refusal::error(shared, &prepared.request, &unplaced.reason);
    account.undecided(unplaced.decided);
    if let NotPlaced::Shed(shed) = unplaced.reason {
        account.shed(shed);
    }
    let mut answer = respond::error(&error);
    account.head(&mut answer.fields);
    match unplaced.reason {
        NotPlaced::Refused(_) if error.status < 500 => account.refuse(&error),
        NotPlaced::Refused(_)
        | NotPlaced::WaitedOut(_)
        | NotPlaced::DeadlineExceeded(_)
        | NotPlaced::QueueFull { .. }
        | NotPlaced::Displaced
        | NotPlaced::Shed(_) => account.fail(&error),
    }
    answer
}

/// Reads and classifies a request; also what a dry run does.
pub(crate) fn prepare(
    shared: &Shared,
    id: &RequestId,
    arrived_at: MonoTime,
    ask: Ask,
) -> Result<Prepared, ApiError> {
    let scanned = scan(&ask.body, ScanLimits::DEFAULT)?;
    let required = match ask.kind {
        RequestKind::Chat => ("messages", scanned.messages.is_some()),
        RequestKind::Completion => ("prompt", scanned.prompts.is_some()),
        RequestKind::Embedding => ("input", scanned.prompts.is_some()),
    };
    if !required.1 {
        return Err(ApiError::invalid_request(format!("`{}` is required", required.0)).param(required.0));
    }
    let name = scanned.model(&ask.body).ok_or_else(|| {
        ApiError::invalid_request("`model` is required; see GET /v1/models")
            .param("model")
            .code("model_required")
    })?;
    let asked = ModelId::parse(&name).map_err(|error| {
        ApiError::invalid_request(format!("`model` is not a model name: {error}")).param("model")
    })?;
    let renamed = shared.aliases.get(&asked).cloned();
    let model = renamed.clone().unwrap_or(asked);
    let state =
        shared.view.load().models.get(&model).map_or_else(|| Arc::clone(&shared.unknown_model), Arc::clone);
    let messages = scanned.messages.unwrap_or(0);
    let prompt_bytes = scanned.prompt_bytes.saturating_add(scanned.tools_bytes);
    let ids = Tokens(scanned.prompt_token_ids);
    let max_tokens = scanned.output_limit().map(|limit| Tokens(u64::from(limit)));
    let tenant = ask.hints.tenant.clone();
    let (expected, residual) =
        state.output(Route { tenant: &tenant, kind: ask.kind, stream: scanned.wants_stream() });
    let choices = f64::from(scanned.n.unwrap_or(1).max(1));
    let prefix = match ask.kind {
        RequestKind::Chat | RequestKind::Completion if shared.config.placement.prefix_blocks_max > 0 => {
            prompt_prefix(&ask.body, &scanned, model.as_str(), shared.prefix_key)
        }
        RequestKind::Chat | RequestKind::Completion | RequestKind::Embedding => PromptPrefix::default(),
    };
    let request = Request {
        id: id.clone(),
        sequence: state.next_sequence(),
        model,
        kind: ask.kind,
        stream: scanned.wants_stream(),
        prompt_bytes,
        prompt_tokens: state.prompt_tokens(prompt_bytes, messages).plus(ids),
        prompt_tokens_min: TokenRatio::lower_bound(prompt_bytes).plus(ids),
        max_tokens,
        expected_output: match ask.kind {
            RequestKind::Embedding => 1.0,
            RequestKind::Chat | RequestKind::Completion => {
                max_tokens.map_or(expected, |max| expected.min(max.as_f64())) * choices
            }
        },
        expected_residual: residual,
        arrived_at,
        priority: ask.hints.priority,
        tenant,
        deadline: ask.hints.deadline.map(|deadline| arrived_at.after(deadline)),
        slo: shared.promises.slo(ask.hints.priority),
        prefix,
        tried: Vec::new(),
    };
    let Hints { traceparent, authorization, policy, continues, .. } = ask.hints;
    let continues = continues.unwrap_or_else(|| shared.config.retry.continues(&request.model));
    let continues = (continues && request.stream)
        .then(|| Box::new(policy.unwrap_or_else(|| shared.policy_of(&request.model).clone())));
    let body = ask.body;
    Ok(Prepared { request, state, scanned, body, renamed, traceparent, authorization, continues })
}
