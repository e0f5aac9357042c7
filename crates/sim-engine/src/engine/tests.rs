//! The rules of the simulated engine as short cases, and its conservation laws as properties.

use std::sync::Arc;

use aya_domain::{StepCost, Tokens};
use proptest::prelude::*;

use super::*;

/// A100 80 GB with an 8B model, the constants of the published calibration.
const A100: StepCost = StepCost {
    base_s: 10.3e-3,
    per_token_s: 69e-6,
    overhead_s: 2.5e-3,
    per_kv_token_s: 0.086e-6,
    attention_s: 3.4e-9,
};

/// An engine with this many KV blocks, batch tokens and sequences.
fn engine(blocks: u64, batch: u32, sequences: u32) -> Engine {
    let profile = EngineProfile {
        cost: A100,
        kv_capacity: Tokens(blocks * 16),
        max_batched_tokens: batch,
        max_sequences: sequences,
    };
    Engine::new(profile, 100)
}

fn request(id: u64, prompt: u32, output: u32) -> SimRequest {
    SimRequest { id, prompt_tokens: prompt, prefix: Arc::from([]), output_tokens: output }
}

/// A request whose prompt blocks are the first of a shared document.
fn of_document(id: u64, document: u64, prompt: u32, output: u32) -> SimRequest {
    let prefix = (0..u64::from(prompt / 16)).map(|block| document * 1000 + block).collect();
    SimRequest { prefix, ..request(id, prompt, output) }
}

/// One word per token: `id.ordinal`, a final one with `!`; steps are separated by `|`, preemptions show as `-id`.
fn run(engine: &mut Engine, steps: usize) -> String {
    let mut words = Vec::new();
    for _ in 0..steps {
        let step = engine.step();
        let preempted = step.preempted.iter().map(|id| format!("-{id}"));
        let tokens = step.emissions.iter().map(|e| {
            let end = if e.finished { "!" } else { "" };
            format!("{}.{}{end}", e.id, e.token)
        });
        words.push(preempted.chain(tokens).collect::<Vec<_>>().join(" "));
        assert_eq!(invariants::full(engine), Ok(()));
    }
    words.join(" | ")
}

#[test]
fn the_first_token_comes_out_of_the_step_that_ends_the_prefill() {
    let mut engine = engine(100, 64, 8);
    engine.submit(request(1, 100, 3)).unwrap();
    assert_eq!(run(&mut engine, 5), " | 1.1 | 1.2 | 1.3! | ");
    assert!(engine.is_idle());
    assert_eq!(engine.counters().prompt_tokens, 100);
    assert_eq!(engine.counters().generation_tokens, 3);
}

#[test]
fn decoders_go_first_and_the_rest_of_the_budget_is_one_more_chunk() {
    let mut engine = engine(100, 10, 8);
    engine.submit(request(1, 4, 9)).unwrap();
    engine.submit(request(2, 20, 9)).unwrap();
    // Tokens of the batch: 4+6, 1+9, 1+5, then two decoders.
    let batch: Vec<_> = (0..4).map(|_| engine.step()).map(|s| (s.decode_tokens, s.prefill_tokens)).collect();
    assert_eq!(batch, [(0, 10), (1, 9), (1, 5), (2, 0)]);
}

#[test]
fn sequences_beyond_the_limit_wait_in_order() {
    let mut engine = engine(100, 64, 2);
    for id in 1..=4 {
        engine.submit(request(id, 8, 2)).unwrap();
    }
    assert_eq!(run(&mut engine, 4), "1.1 2.1 | 1.2! 2.2! | 3.1 4.1 | 3.2! 4.2!");
}

#[test]
fn a_prompt_is_admitted_whole_or_not_at_all() {
    let mut engine = engine(10, 1000, 8);
    engine.submit(request(1, 96, 20)).unwrap();
    engine.submit(request(2, 64, 1)).unwrap();
    engine.submit(request(3, 1, 1)).unwrap();
    // 6 blocks are taken, 9 may be: the second prompt needs 4 and the third does not overtake it.
    assert_eq!(run(&mut engine, 2), "1.1 | 1.2");
    assert_eq!((engine.running(), engine.waiting(), engine.kv_blocks_used()), (1, 2, 7));
}

#[test]
fn an_exhausted_pool_preempts_the_last_admitted_which_is_recomputed() {
    let mut engine = engine(4, 1000, 8);
    engine.submit(request(1, 16, 30)).unwrap();
    engine.submit(request(2, 16, 18)).unwrap();
    // Admission leaves one block of the four, so both run; at 32 tokens each both want a third block.
    let words = run(&mut engine, 16);
    assert!(words.ends_with("1.16 2.16"), "{words}");
    assert_eq!(run(&mut engine, 2), "1.17 2.17 | -2 1.18");
    let words = run(&mut engine, 14);
    assert!(words.starts_with("1.19") && words.ends_with("1.30! | 2.18! | "), "{words}");
    assert_eq!(engine.counters().preemptions, 1);
    assert_eq!(engine.kv_blocks_used(), 0);
}

#[test]
fn a_shared_prefix_is_computed_once_and_survives_its_request() {
    let mut engine = engine(100, 1000, 8);
    engine.submit(of_document(1, 7, 64, 1)).unwrap();
    let first = engine.step();
    assert_eq!((first.prefill_tokens, first.emissions[0].cached_tokens), (64, 0));
    assert_eq!(engine.kv_blocks_used(), 0, "cached blocks count as free");

    // 80 tokens of the same document: four blocks are cached, sixteen tokens remain.
    engine.submit(of_document(2, 7, 80, 1)).unwrap();
    let second = engine.step();
    assert_eq!((second.prefill_tokens, second.emissions[0].cached_tokens), (16, 64));

    // The very same prompt again: its last block is computed anew, for there must be something to sample from.
    engine.submit(of_document(3, 7, 80, 1)).unwrap();
    assert_eq!(engine.step().prefill_tokens, 16);
    assert_eq!((engine.counters().prefix_queries, engine.counters().prefix_hits), (224, 128));
}

#[test]
fn a_prefix_cache_may_count_by_several_blocks_at_once() {
    let profile = EngineProfile { kv_capacity: Tokens(64 * 16), ..*engine(64, 4096, 8).profile() };
    let mut engine = Engine::with_prefix_blocks(profile, 100, 4);
    let asked = |id| SimRequest { id, prompt_tokens: 200, prefix: [7, 8, 9].into(), output_tokens: 2 };
    engine.submit(asked(1)).unwrap();
    while !engine.is_idle() {
        engine.step();
        assert_eq!(invariants::full(&engine), Ok(()));
    }
    engine.submit(asked(2)).unwrap();
    assert_eq!(
        engine.begin_step().unwrap().prefill_tokens,
        200 - 3 * 64,
        "three hashes of four blocks are found"
    );
    assert_eq!(engine.kv_blocks_used(), 13);
    while !engine.is_idle() {
        engine.step();
    }
    assert_eq!((engine.kv_blocks_used(), invariants::full(&engine)), (0, Ok(())));
}

#[test]
fn the_least_recently_used_prefix_is_evicted_first() {
    let mut engine = engine(9, 1000, 8);
    for (id, document) in [(1, 1), (2, 2), (3, 1)] {
        engine.submit(of_document(id, document, 64, 1)).unwrap();
        engine.step();
    }
    // Four blocks of each document are cached, one is free. Three new blocks cost two of document 2.
    engine.submit(request(4, 48, 1)).unwrap();
    engine.step();
    engine.submit(of_document(5, 1, 65, 1)).unwrap();
    assert_eq!(engine.step().prefill_tokens, 1);
    engine.submit(of_document(6, 2, 65, 1)).unwrap();
    assert_eq!(engine.step().prefill_tokens, 65 - 2 * 16);
}

#[test]
fn twins_computed_side_by_side_end_up_sharing() {
    let mut engine = engine(100, 1000, 8);
    engine.submit(of_document(1, 7, 64, 9)).unwrap();
    engine.submit(of_document(2, 7, 64, 9)).unwrap();
    engine.step();
    assert_eq!(engine.kv_blocks_used(), 4);
    assert_eq!(invariants::full(&engine), Ok(()));
}

#[test]
fn a_request_that_fits_nowhere_is_refused_with_the_numbers() {
    let mut engine = engine(10, 1000, 8);
    assert_eq!(engine.submit(request(1, 100, 53)), Err(SubmitError::TooLarge { need: 161, capacity: 160 }));
    assert_eq!(engine.submit(request(1, 100, 52)), Ok(()));
    assert_eq!(engine.submit(request(2, 0, 5)), Err(SubmitError::EmptyPrompt));
}

#[test]
fn the_largest_request_that_fits_runs_alone_into_the_headroom() {
    let mut engine = engine(10, 1000, 8);
    engine.submit(request(1, 151, 1)).unwrap();
    assert_eq!(run(&mut engine, 1), "1.1!");
}

#[test]
fn the_queue_has_a_limit() {
    let profile = *engine(100, 64, 1).profile();
    let mut engine = Engine::new(profile, 2);
    engine.submit(request(1, 8, 2)).unwrap();
    engine.submit(request(2, 8, 2)).unwrap();
    assert_eq!(engine.submit(request(3, 8, 2)), Err(SubmitError::QueueFull { limit: 2 }));
}

#[test]
fn a_request_without_an_answer_ends_with_its_prompt() {
    let mut engine = engine(100, 64, 8);
    engine.submit(request(1, 65, 0)).unwrap();
    assert_eq!(run(&mut engine, 3), " | 1.0! | ");
}

#[test]
fn an_abort_frees_at_once_even_between_the_halves_of_a_step() {
    let mut engine = engine(100, 64, 8);
    engine.submit(request(1, 32, 5)).unwrap();
    engine.submit(request(2, 32, 5)).unwrap();
    engine.begin_step();
    assert!(engine.abort(1));
    assert!(!engine.abort(1));
    assert_eq!(engine.kv_blocks_used(), 2);
    let mut result = StepResult::default();
    engine.end_step(&mut result);
    assert_eq!(result.emissions.iter().map(|e| e.id).collect::<Vec<_>>(), [2]);
    assert!(engine.abort(2));
    assert_eq!(engine.kv_blocks_used(), 0);
    assert_eq!(engine.counters().aborted, 2);
}

#[test]
fn durations_equal_the_cost_model_computed_by_hand() {
    let close = |seconds: f64, expected: f64| {
        assert!((seconds - expected).abs() < 1e-12, "{seconds} is not {expected}");
    };
    let mut prompt_1000 = engine(27_500, 2048, 256);
    prompt_1000.submit(request(1, 1000, 20)).unwrap();
    // sqrt(10.3^2 + 69^2) + 2.5 + 3.4e-6 * 1000 * 500 milliseconds.
    close(prompt_1000.step().duration_s, 0.073_964_532_536_239_34);
    // One token reads the 1000 of the prompt and itself.
    close(prompt_1000.step().duration_s, 0.012_886_317_113_911_961);
    close(prompt_1000.step().duration_s, 0.012_886_403_113_911_96);
    let rest: f64 = (0..17).map(|_| prompt_1000.step().duration_s).sum();
    assert!(prompt_1000.is_idle());
    close(
        rest + 0.073_964_532_536_239_34 + 0.012_886_317_113_911_961 + 0.012_886_403_113_911_96,
        0.318_819_263_700_566_57,
    );

    let mut chunked = engine(27_500, 2048, 256);
    chunked.submit(request(1, 3000, 1)).unwrap();
    close(chunked.step().duration_s, 0.151_317_194_611_602_6);
    close(chunked.step().duration_s, 0.077_160_309_185_923_76);
}

#[test]
fn an_idle_engine_takes_no_time() {
    let step = engine(10, 64, 8).step();
    assert_eq!((step.busy, step.duration_s.to_bits()), (false, 0.0_f64.to_bits()));
}

#[derive(Debug, Clone)]
enum Action {
    Submit { document: u64, prompt: u32, output: u32 },
    Abort { nth: u64 },
    Begin,
    Step,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0_u64..4, 1_u32..120, 0_u32..60)
            .prop_map(|(document, prompt, output)| Action::Submit { document, prompt, output }),
        1 => (0_u64..60).prop_map(|nth| Action::Abort { nth }),
        1 => Just(Action::Begin),
        8 => Just(Action::Step),
    ]
}

proptest! {
    /// Whatever comes in whatever order: nothing is lost, every answer has its length, the end is empty.
    #[test]
    fn blocks_references_and_requests_are_conserved(
        actions in prop::collection::vec(action(), 1..120),
        blocks in 12_u64..40, batch in 1_u32..80, sequences in 1_u32..6,
    ) {
        let mut engine = engine(blocks, batch, sequences);
        let mut expected = std::collections::BTreeMap::new();
        let mut emitted = std::collections::BTreeMap::<u64, u32>::new();
        let mut collect = |step: &StepResult| -> Result<(), TestCaseError> {
            prop_assert!(step.prefill_tokens + step.decode_tokens <= batch);
            for e in &step.emissions {
                let last = emitted.insert(e.id, e.token).unwrap_or(0);
                prop_assert!(e.token == last + 1 || (e.token == 0 && e.finished));
            }
            Ok(())
        };
        for (id, action) in (0_u64..).zip(actions) {
            match action {
                Action::Submit { document, prompt, output } => {
                    if engine.submit(of_document(id, document, prompt, output)).is_ok() {
                        expected.insert(id, output);
                    }
                }
                Action::Abort { nth } => if engine.abort(nth) { expected.remove(&nth); },
                Action::Begin => { engine.begin_step(); }
                Action::Step => collect(&engine.step())?,
            }
            prop_assert_eq!(invariants::full(&engine), Ok(()));
        }
        let mut steps = 0;
        while !engine.is_idle() {
            collect(&engine.step())?;
            prop_assert_eq!(invariants::full(&engine), Ok(()));
            steps += 1;
            prop_assert!(steps < 100_000, "no progress");
        }
        prop_assert_eq!(engine.kv_blocks_used(), 0);
        for (id, output) in expected {
            prop_assert_eq!(emitted.get(&id), Some(&output));
        }
    }
}
