//! Causes that many GPUs share must not empty a pool: a hot aisle or a sick driver release is no reason to serve nobody.

use aya_domain::Ratio;

/// The speed of an endpoint that a rule wants out and the brake keeps in.
pub(crate) const BRAKED_SPEED: f64 = 0.5;

/// One endpoint as the brake sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    /// Positions of its pools.
    pub(crate) pools: Vec<usize>,
    /// A shared cause wants it out, since this many nanoseconds; the longest out stays out.
    pub(crate) wanted_out: Option<u64>,
    /// It is out, or not in, for another reason.
    pub(crate) out: bool,
}

/// Which of those that a shared cause wants out may go, by position: of each pool at most `max(1, share)`, and never the
/// last one that is in.
pub(crate) fn let_go(members: &[Member], pools: usize, share: Ratio) -> Vec<bool> {
    let mut sizes = vec![0_u32; pools];
    let mut inside = vec![0_u32; pools];
    let count = |of: &mut Vec<u32>, pool: usize, by: i64| {
        if let Some(count) = of.get_mut(pool) {
            *count = u32::try_from(i64::from(*count) + by).unwrap_or(0);
        }
    };
    for member in members {
        for pool in &member.pools {
            count(&mut sizes, *pool, 1);
            if !member.out {
                count(&mut inside, *pool, 1);
            }
        }
    }
    let mut taken = vec![0_u32; pools];
    let mut order: Vec<(u64, usize)> =
        members.iter().enumerate().filter_map(|(at, m)| m.wanted_out.map(|since| (since, at))).collect();
    order.sort_unstable();
    let mut gone = vec![false; members.len()];
    for (_, at) in order {
        let Some(member) = members.get(at) else { continue };
        let fits = member.pools.iter().all(|pool| {
            let of = |counts: &[u32]| counts.get(*pool).copied().unwrap_or(0);
            let most = (f64::from(of(&sizes)) * share.get()).floor().max(1.0);
            f64::from(of(&taken)) + 1.0 <= most && (member.out || of(&inside) > 1)
        });
        if fits {
            for pool in &member.pools {
                count(&mut taken, *pool, 1);
                count(&mut inside, *pool, if member.out { 0 } else { -1 });
            }
            if let Some(gone) = gone.get_mut(at) {
                *gone = true;
            }
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool in a word per endpoint: `.` in, `o` out otherwise, a digit wanted out since then; upper case the answer.
    #[track_caller]
    fn check(pool: &str, share: f64, expect: &str) {
        let member =
            |c: char| Member { pools: vec![0], wanted_out: c.to_digit(10).map(u64::from), out: c == 'o' };
        let members: Vec<Member> = pool.chars().map(member).collect();
        let gone = let_go(&members, 1, Ratio::clamped(share));
        let shown: String =
            gone.iter().zip(pool.chars()).map(|(gone, c)| if *gone { 'X' } else { c }).collect();
        assert_eq!(shown, expect, "{pool} at {share}");
    }

    #[test]
    fn a_shared_cause_takes_a_fifth_or_one_and_never_the_last() {
        check("..........", 0.2, "..........");
        check("1.........", 0.2, "X.........");
        check("12........", 0.2, "XX........");
        check("3124......", 0.2, "3XX4......");
        check("1111111111", 0.2, "XX11111111");
        check("12..", 0.2, "X2..");
        check("1", 0.2, "1");
        check("12", 0.2, "X2");
        check("1o", 0.2, "1o");
        check("1oo.", 0.2, "Xoo.");
        check("12", 0.0, "X2");
    }

    #[test]
    fn an_endpoint_of_two_pools_needs_room_in_both() {
        let wanted = |pools: Vec<usize>, since| Member { pools, wanted_out: Some(since), out: false };
        let stays = |pools| Member { pools, wanted_out: None, out: false };
        let members = [wanted(vec![0, 1], 1), stays(vec![0]), stays(vec![0])];
        assert_eq!(let_go(&members, 2, Ratio::clamped(0.2)), [false; 3], "it is the last of pool 1");
        let members = [wanted(vec![0, 1], 1), stays(vec![0]), stays(vec![1])];
        assert_eq!(let_go(&members, 2, Ratio::clamped(0.2)), [true, false, false]);
    }
}
