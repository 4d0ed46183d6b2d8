//! Which rows a step takes, and how they are laid into passes through the model.

use super::Plan;
use model::sampler::{bits, permutation};

/// Steps of one pass over `rows` rows; the last step of an epoch may be smaller. (Older versions of transformers left the
/// rest of an epoch out: SecureCodeRL's 3,588 rows of 4 x 4 made 224 steps there, and make 225 here.)
#[must_use]
pub fn steps_per_epoch(rows: usize, batch: usize, accumulation: usize) -> u64 {
    rows.div_ceil((batch * accumulation).max(1)) as u64
}

/// Rows of step `step`: each epoch is a new permutation, a pure function of seed and epoch.
pub(super) fn rows_of_step(plan: &Plan, rows: usize, step: u64) -> Vec<usize> {
    let per_epoch = steps_per_epoch(rows, plan.batch, plan.accumulation);
    let (epoch, at) = (step / per_epoch, (step % per_epoch) as usize);
    let order = permutation(rows, bits(plan.seed, epoch));
    let size = plan.batch * plan.accumulation;
    order[at * size..rows.min((at + 1) * size)].to_vec()
}

/// Splits rows of `lengths` tokens into passes of at most `budget` tokens each (a longer row goes alone). Packed, a pass
/// takes the sum of its rows; padded, it takes at most `batch` rows of the longest one's length. Deterministic.
pub(super) fn passes(lengths: &[usize], batch: usize, budget: usize, packing: bool) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // equal lengths side by side: less padding, and the sum over the step does not care
    order.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    if packing { packed(&order, lengths, budget) } else { padded(&order, lengths, batch, budget) }
}

fn padded(order: &[usize], lengths: &[usize], batch: usize, budget: usize) -> Vec<Vec<usize>> {
    let mut out: Vec<Vec<usize>> = Vec::new();
    for &i in order {
        match out.last_mut() {
            // the first of a pass is its longest
            Some(pass) if pass.len() < batch && (pass.len() + 1) * lengths[pass[0]] <= budget => pass.push(i),
            _ => out.push(vec![i]),
        }
    }
    out
}

/// Best fit of decreasing lengths gives the number of passes; if the same number can be filled evenly, it is: the fullest
/// pass decides how much memory is needed.
fn packed(order: &[usize], lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut tight: Vec<(usize, Vec<usize>)> = Vec::new();
    for &i in order {
        let fitting = tight.iter_mut().filter(|(used, _)| used + lengths[i] <= budget);
        match fitting.max_by_key(|(used, _)| *used) {
            Some((used, pass)) => {
                *used += lengths[i];
                pass.push(i);
            }
            None => tight.push((lengths[i], vec![i])),
        }
    }
    let mut even: Vec<(usize, Vec<usize>)> = vec![(0, Vec::new()); tight.len()];
    for &i in order {
        if let Some((used, pass)) = even.iter_mut().min_by_key(|(used, _)| *used) {
            *used += lengths[i];
            pass.push(i);
        }
    }
    let fullest = |passes: &[(usize, Vec<usize>)]| passes.iter().map(|(used, _)| *used).max();
    let chosen = if fullest(&even) <= fullest(&tight) { even } else { tight };
    chosen.into_iter().map(|(_, pass)| pass).collect()
}

/// Tokens that a pass computes, padding included.
pub(super) fn size(pass: &[usize], lengths: &[usize], packing: bool) -> usize {
    let of = |i: &usize| lengths[*i];
    if packing { pass.iter().map(of).sum() } else { pass.len() * pass.iter().map(of).max().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_sees_every_row_once_in_another_order() {
        let plan = Plan { seed: 3, batch: 2, accumulation: 2, ..Plan::default() };
        let epoch =
            |e: u64| -> Vec<usize> { (0..3).flat_map(|s| rows_of_step(&plan, 10, 3 * e + s)).collect() };
        assert_ne!(epoch(0), epoch(1));
        for e in [0, 1] {
            let mut rows = epoch(e);
            rows.sort_unstable();
            assert_eq!(rows, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn passes_keep_their_budget_and_every_row_once() {
        let lengths: Vec<usize> = (0..57).map(|i| 1 + (i * 7919) % 90).collect();
        for packing in [false, true] {
            for budget in [64, 100, 400, 100_000] {
                let all = passes(&lengths, 8, budget, packing);
                for pass in &all {
                    assert!(pass.len() == 1 || size(pass, &lengths, packing) <= budget, "{pass:?}");
                    assert!(packing || pass.len() <= 8);
                }
                let mut rows: Vec<usize> = all.concat();
                rows.sort_unstable();
                assert_eq!(rows, (0..57).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn packing_needs_the_fewest_passes_and_fills_them_evenly() {
        let lengths = [60, 50, 40, 30, 30, 20, 10];
        let sizes: Vec<usize> =
            passes(&lengths, 1, 100, true).iter().map(|p| size(p, &lengths, true)).collect();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|&n| (70..=90).contains(&n)), "{sizes:?}");
    }
}
