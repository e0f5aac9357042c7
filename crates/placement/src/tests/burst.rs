//! Many decisions between two reports: the ledger alone has to spread them.

use proptest::prelude::*;
use proptest::sample::select;

use aya_domain::{MonoTime, Request, splitmix64};
use aya_estimate::DecayedRate;

use crate::testkit::{Fleet, NOW, fleet, request};

/// Policies that count what they sent. The others spread by chance (`random`, `p2c` and what draws like it), by key
/// (`chbl`, `ip-hash`), in proportion with an error of their own (`wrr`), or see nothing but what is scraped (`gie`),
/// which stays as it is until the next report.
const COUNTING: [&str; 12] = [
    "aya",
    "rr",
    "lc",
    "wlc",
    "lot",
    "wlot",
    "sticky",
    "kv-cost",
    "expected-wait",
    "cache-aware",
    "least-response-time",
    "least-predicted-ttft",
];

struct Burst {
    farm: Fleet,
    rates: Vec<DecayedRate>,
    placed: Vec<u32>,
}

impl Burst {
    fn over(endpoints: usize, gpu: &str) -> Self {
        let names: Vec<String> = (0..endpoints).map(|at| format!("e{at:02}: {gpu}")).collect();
        let rates = vec![DecayedRate::from_parts(0.0, MonoTime::ZERO); endpoints];
        Self { farm: fleet(&names.join("|")), rates, placed: vec![0; endpoints] }
    }

    /// Decides and claims as the live scheduler does; `None`: the request has to wait.
    fn place(&mut self, request: &Request, policy: &str, seed: u64) -> Option<usize> {
        let decision = self.farm.decide(request, policy, seed);
        let at = decision.chosen()?.endpoint.get();
        let (own, rate) = (&mut self.farm.loads[at], &mut self.rates[at]);
        rate.add(NOW, request.prompt_tokens);
        own.in_flight += 1;
        own.prefilling += 1;
        own.prefill_tokens += request.prompt_tokens.get();
        own.prefill_rate = rate.read(NOW);
        self.placed[at] += 1;
        Some(at)
    }

    fn first_token(&mut self, at: usize, prompt: u64) {
        let own = &mut self.farm.loads[at];
        own.prefilling -= 1;
        own.prefill_tokens -= prompt;
        own.decoding += 1;
        own.decode_kv_tokens += prompt;
    }

    fn spread(&self) -> (u32, u32) {
        (self.placed.iter().copied().min().unwrap(), self.placed.iter().copied().max().unwrap())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// After every single one of them, not only after the last.
    #[test]
    fn a_hundred_decisions_within_one_report_are_spread_within_one_of_fair(
        endpoints in select(vec![4_usize, 7, 16]),
        gpu in select(vec!["l4", "a10g", "a100", "h100", "h100x4"]),
        prompt in prop_oneof![Just(1_u64), 1..40_u64, 40..600_u64, 600..6000_u64],
        policy in select(COUNTING.to_vec()),
        seed: u64,
    ) {
        let mut burst = Burst::over(endpoints, gpu);
        for sequence in 0..100 {
            let request = Request { sequence, ..request(prompt, None) };
            // Who has to wait waits for all of them alike.
            let Some(_) = burst.place(&request, policy, splitmix64(seed ^ sequence)) else { break };
            let (least, most) = burst.spread();
            prop_assert!(most - least <= 1, "{policy}, after {sequence}: {:?}", burst.placed);
        }
        prop_assert!(prompt >= 40 || burst.placed.iter().sum::<u32>() == 100, "{policy}: {:?}", burst.placed);
    }

    /// Requests of a few tokens cost so little that what an endpoint does already decides, and some begin to decode while
    /// others still compute their first prompts. An iteration is under way at both: where only the former were charged
    /// for it, one of four got 11 of 100 requests. Decoding and computing weigh otherwise, so this is no exact balance.
    #[test]
    fn tiny_prompts_do_not_herd_while_some_requests_already_decode(
        endpoints in select(vec![4_u32, 7, 16]),
        gpu in select(vec!["l4", "a10g", "a100", "h100", "h100x4"]),
        prompt in 1..30_u64,
        policy in select(vec!["aya", "lc", "wlc", "lot", "wlot", "kv-cost"]),
        seed: u64,
    ) {
        let mut burst = Burst::over(endpoints as usize, gpu);
        let mut prefilling = Vec::new();
        for sequence in 0..100 {
            let request = Request { sequence, ..request(prompt, None) };
            let drawn = splitmix64(seed ^ sequence);
            prefilling.extend(burst.place(&request, policy, drawn));
            while !splitmix64(drawn ^ prefilling.len() as u64).is_multiple_of(3) && !prefilling.is_empty() {
                let at = prefilling.swap_remove(usize::try_from(drawn).unwrap() % prefilling.len());
                burst.first_token(at, prompt);
            }
        }
        let (least, most) = burst.spread();
        let fair = 100 / endpoints;
        prop_assert!(2 * least >= fair - 1 && most <= 2 * fair, "{policy}, {gpu}, {prompt} tokens: {:?}", burst.placed);
    }
}
