//! Advantages: generalised advantage estimation over tokens, group baselines over answers. Plain numbers.

/// Least spread that advantages are divided by: with nearly equal rewards the noise must not be blown up to full size.
pub const STD_FLOOR: f64 = 0.1;

/// GAE (Schulman et al. 2016) of one answer whose only reward comes at its end. `values[t]` is the value before token t.
/// Gives `(advantages, returns)` per token.
#[must_use]
pub fn gae(reward: f64, values: &[f64], gamma: f64, lambda: f64) -> (Vec<f64>, Vec<f64>) {
    let n = values.len();
    let mut advantages = vec![0.0; n];
    let mut next = 0.0;
    for t in (0..n).rev() {
        let after = values.get(t + 1).copied().unwrap_or(0.0);
        let r = if t + 1 == n { reward } else { 0.0 };
        let delta = r + gamma * after - values[t];
        next = delta + gamma * lambda * next;
        advantages[t] = next;
    }
    let returns = advantages.iter().zip(values).map(|(a, v)| a + v).collect();
    (advantages, returns)
}

/// k3 (Schulman 2020), an estimate of KL(policy || reference) from one token's log-probabilities: unbiased, never negative.
#[must_use]
pub fn k3(logprob: f64, reference: f64) -> f64 {
    let apart = reference - logprob;
    apart.exp() - apart - 1.0
}

/// Shifts to mean 0 and divides by the standard deviation, but not by less than [`STD_FLOOR`].
pub fn whiten(values: &mut [Vec<f64>]) {
    let n = values.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    let mean = values.iter().flatten().sum::<f64>() / n;
    let variance = values.iter().flatten().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let std = variance.sqrt().max(STD_FLOOR);
    values.iter_mut().flatten().for_each(|v| *v = (*v - mean) / std);
}

/// GRPO: each answer against the mean of its prompt's answers, over their spread. Answers that stand alone have no
/// baseline: `None`.
#[must_use]
pub fn group(prompts: &[usize], rewards: &[f64]) -> Vec<Option<f64>> {
    prompts
        .iter()
        .zip(rewards)
        .map(|(p, r)| {
            let own: Vec<f64> =
                prompts.iter().zip(rewards).filter(|(q, _)| *q == p).map(|(_, r)| *r).collect();
            let n = own.len() as f64;
            let mean = own.iter().sum::<f64>() / n;
            let std = (own.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
            (own.len() > 1).then(|| (r - mean) / std.max(STD_FLOOR))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gae_equals_the_sum_written_out() {
        let values = [0.5, 0.25, 1.0];
        let (gamma, lambda) = (0.9, 0.8);
        let (a, r) = gae(2.0, &values, gamma, lambda);
        let d = [0.9 * 0.25 - 0.5, 0.9 * 1.0 - 0.25, 2.0 - 1.0];
        let gl: f64 = gamma * lambda;
        let want = [d[0] + gl * d[1] + gl * gl * d[2], d[1] + gl * d[2], d[2]];
        for t in 0..3 {
            assert!((a[t] - want[t]).abs() < 1e-12 && (r[t] - want[t] - values[t]).abs() < 1e-12);
        }
        // lambda 1, gamma 1: the advantage is the reward less the value
        let (a, r) = gae(2.0, &values, 1.0, 1.0);
        assert!((a[0] - 1.5).abs() < 1e-12 && r.iter().all(|x| (x - 2.0).abs() < 1e-12));
    }

    #[test]
    fn whitening_has_mean_0_and_std_1_and_does_not_blow_noise_up() {
        let mut v = vec![vec![1.0, 3.0], vec![5.0]];
        whiten(&mut v);
        let flat: Vec<f64> = v.concat();
        assert!(flat.iter().sum::<f64>().abs() < 1e-12);
        assert!((flat.iter().map(|x| x * x).sum::<f64>() / 3.0 - 1.0).abs() < 1e-12);
        let mut noise = vec![vec![1.0, 1.0 + 1e-6]];
        whiten(&mut noise);
        assert!(noise[0][1].abs() < 1e-4);
    }

    #[test]
    fn groups_are_judged_among_themselves_and_loners_not_at_all() {
        let a = group(&[0, 0, 1, 1, 2], &[1.0, 0.0, 0.5, 0.5, 1.0]);
        assert_eq!(a, [Some(1.0), Some(-1.0), Some(0.0), Some(0.0), None]);
    }

    /// specs: securecoderl.md 22: two rewards become a plus and a minus of equal size, a tie says nothing.
    #[test]
    fn the_published_advantages_of_a_pair() {
        let close = |got: Vec<Option<f64>>, want: [f64; 2]| {
            assert!(got.iter().zip(want).all(|(g, w)| (g.expect("a pair") - w).abs() < 1e-6), "{got:?}");
        };
        close(group(&[0, 0], &[0.52, 0.76]), [-1.0, 1.0]);
        close(group(&[0, 0], &[0.64, 0.64]), [0.0, 0.0]);
    }
}
