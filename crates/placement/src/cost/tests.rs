//! The price of a request: goldens from a separate evaluation of the formulas, and what must make it dearer.

use super::*;
use crate::testkit::{Fleet, fleet, request};

/// Terms of the only endpoint of a fleet.
fn terms_of(fleet: &Fleet, request: &Request) -> Terms {
    let policy = Policy::named("aya").unwrap();
    let newcomer = Newcomer::of(request, &policy);
    let outline = &fleet.snapshot.endpoints.outlines()[0];
    Site::on(outline, &fleet.loads[0], &newcomer).terms(&newcomer, &policy, 0.0)
}

#[test]
fn the_terms_are_those_of_the_formulas() {
    let check = |text: &str, (prompt, output, residual): (u64, f64, f64), expect: [f64; 6]| {
        let request =
            Request { expected_output: output, expected_residual: residual, ..request(prompt, None) };
        let t = terms_of(&fleet(text), &request);
        let got = [t.predicted_ttft_s, t.predicted_tpot_s, t.decode_s, t.harm_s, t.slo_s, total_s(&t)];
        for (got, expect) in got.iter().zip(expect) {
            assert!((got - expect).abs() <= 1e-9 * expect.max(1.0), "{text}: {t:?}, expected {expect}");
        }
    };
    check(
        "idle: a100",
        (1000, 200.0, 200.0),
        [
            0.073_964_532_536_239_34,
            0.013_121_171_319_167_6,
            2.624_234_263_833_520_3,
            0.0,
            0.0,
            2.920_092_393_978_477_8,
        ],
    );
    check(
        "busy: a100 n=16 P=3000 nd=14 K=20000 rho=500",
        (1200, 200.0, 150.0),
        [
            0.311_013_238_378_904_66,
            0.015_830_204_802_007_8,
            3.166_040_960_401_560_2,
            0.500_166_327_921_526,
            0.0,
            4.910_260_241_838_705,
        ],
    );
    check(
        "short: l4 nd=10 K=30000",
        (4000, 200.0, 200.0),
        [
            2.874_773_546_778_628_4,
            0.109_090_650_361_563_14,
            21.818_130_072_312_627,
            5.021_541_619_080_627,
            30.0,
            68.338_765_878_507_78,
        ],
    );
    check(
        "several: h100 n=46 P=12000 nd=40 K=60000 rho=3000",
        (9000, 300.0, 400.0),
        [
            0.570_103_666_851_313,
            0.014_214_207_234_375_829,
            4.264_262_170_312_748,
            5.869_838_481_829_245,
            0.0,
            12.414_515_319_547_245,
        ],
    );
}

#[test]
fn foreign_requests_weigh_like_our_own() {
    let same = |a: &str, b: &str| {
        let (a, b) = (terms_of(&fleet(a), &request(500, None)), terms_of(&fleet(b), &request(500, None)));
        assert_eq!(a, b);
    };
    same("a: a100 nd=5 K=9000", "a: a100 fr=5 fk=9000");
    same("a: a100 np=2 P=2048", "a: a100 fw=2");
    same("a: a100 nd=5 K=9000", "a: a100 nd=2 K=4000 fr=3 fk=5000");
}

/// Else a burst of tiny prompts goes where none has its first token yet: up to 77 of 100 to one of four engines.
#[test]
fn who_waits_for_a_first_token_weighs_like_who_streams() {
    let total = |text: &str| total_s(&terms_of(&fleet(text), &request(20, None)));
    let (streaming, waiting) = (total("a: a100 nd=24 K=480"), total("a: a100 np=24 P=480"));
    assert!((waiting / streaming - 1.0).abs() < 0.1, "{waiting} beside {streaming}");
}

/// Else a burst of tiny prompts prefers engines whose prompts are still in prefill.
#[test]
fn whatever_runs_somewhere_half_an_iteration_is_waited_for() {
    let ttft = |text: &str| terms_of(&fleet(text), &request(20, None)).predicted_ttft_s;
    let idle = ttft("a: a100");
    for busy in ["a: a100 np=1 P=20", "a: a100 nd=1 K=20", "a: a100 np=1"] {
        assert!((0.005..0.008).contains(&(ttft(busy) - idle)), "{busy}: {} after {idle}", ttft(busy));
    }
}

#[test]
fn an_embedding_has_no_answer_to_decode() {
    let embedding = Request { kind: RequestKind::Embedding, ..request(1000, None) };
    let terms = terms_of(&fleet("a: a100 nd=5 K=9000"), &embedding);
    assert!(terms.decode_s.abs() < 1e-12 && terms.harm_s > 0.0, "{terms:?}");
}

#[test]
fn only_old_telemetry_raises_doubt_and_never_beyond_its_bound() {
    let age = |secs| Some(Duration::from_secs(secs));
    for (freshness, age, expect) in [
        (Freshness::Fresh, age(5), 0.0),
        (Freshness::Fresh, None, 0.0),
        (Freshness::Stale, age(1), 0.02),
        (Freshness::Suspect, age(10), 0.2),
        (Freshness::Suspect, age(3600), 0.5),
        (Freshness::Suspect, None, 0.5),
    ] {
        assert!((doubt_s(freshness, age) - expect).abs() < 1e-12, "{freshness:?} {age:?}");
    }
}

#[test]
fn absurd_coefficients_rank_last_instead_of_breaking_the_order() {
    let terms = Terms { ttft_s: f64::NAN, ..Terms::default() };
    assert!((total_s(&terms) - f64::MAX).abs() < f64::EPSILON);
}

#[test]
fn nobody_waits_for_kv_that_is_not_held() {
    // More than the pool's headroom: on an idle endpoint the formula's deficit would never be released.
    let whole_pool = request(30_990, None);
    let ttft = |text: &str| terms_of(&fleet(text), &whole_pool).predicted_ttft_s;
    let prefill_alone = 16.0 * 0.52 + 8.7e-9 * 30_990.0 * 30_990.0 / 2.0;
    assert!((ttft("a: l4") / prefill_alone - 1.0).abs() < 0.1, "{}", ttft("a: l4"));
    // One resident: its expected rest of 200 tokens at some 63 ms is waited for, not more.
    let wait = ttft("a: l4 nd=1 K=500") - ttft("a: l4");
    assert!((12.0..14.0).contains(&wait), "{wait}");
}
