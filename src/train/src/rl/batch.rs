//! Rollouts as tensors, and the two passes over them: measure (no graph) and improve (with the objective's gradient).

use super::Rollout;
use crate::loss::{chunked_backward, logprobs};
use crate::rows::{Batch, Encoded, collate};
use crate::{Result, loss};
use model::{Decoder, Pass, shim};
use record::params::RlParams;
use tch::{Kind, Tensor};

/// Numbers of one pass over an answer, per generated token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    pub logprobs: Vec<f64>,
    pub reference: Vec<f64>,
    pub values: Vec<f64>,
    pub entropy: Vec<f64>,
}

/// An answer that takes part in the update.
#[derive(Debug, Clone)]
pub struct Episode {
    pub row: Encoded,
    pub measured: Measured,
    pub advantages: Vec<f64>,
    pub returns: Vec<f64>,
}

/// Linear map from hidden state to value; starts at 0, so that the first advantages are the rewards. It reads the trunk
/// and does not train it: the value error's gradient is several times the policy's, and under Adam it would choose the
/// direction of every step.
#[derive(Debug)]
pub struct ValueHead {
    pub weight: Tensor,
    pub bias: Tensor,
}

impl ValueHead {
    pub fn new(decoder: &Decoder) -> Self {
        let options = (Kind::Float, decoder.device);
        Self {
            weight: Tensor::zeros([1, decoder.config.hidden], options).set_requires_grad(true),
            bias: Tensor::zeros([1], options).set_requires_grad(true),
        }
    }

    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        vec![
            ("value_head.weight".into(), self.weight.shallow_clone()),
            ("value_head.bias".into(), self.bias.shallow_clone()),
        ]
    }

    fn values(&self, hidden: &Tensor) -> Tensor {
        hidden.detach().to_kind(Kind::Float).linear(&self.weight, Some(&self.bias)).squeeze_dim(-1)
    }
}

/// The row of an answer: prompt and *generated* ids.
pub fn row(prompt: &[u32], rollout: &Rollout) -> Encoded {
    Encoded::answer(prompt.iter().chain(&rollout.tokens).copied().collect(), prompt.len())
}

fn hidden(decoder: &Decoder, batch: &Batch, pass: Pass) -> Result<Tensor> {
    Ok(decoder.trunk(&batch.ids, None, pass)?.index_select(0, &batch.at))
}

fn pieces(rows: &[Encoded], flat: &[f64]) -> Vec<Vec<f64>> {
    let mut at = 0;
    rows.iter()
        .map(|r| {
            let n = r.trained_tokens();
            at += n;
            flat[at - n..at].to_vec()
        })
        .collect()
}

/// Log-probabilities (at the sampling temperature) of the generated tokens under `decoder`, per row; entropies and
/// values with them.
pub fn measure(
    decoder: &Decoder,
    pass: Pass,
    head: Option<&ValueHead>,
    rows: &[Encoded],
    pad: u32,
    temperature: f64,
    at_once: usize,
) -> Result<Vec<Measured>> {
    let _guard = tch::no_grad_guard();
    let mut out = Vec::with_capacity(rows.len());
    for part in rows.chunks(at_once.max(1)) {
        let refs: Vec<&Encoded> = part.iter().collect();
        let batch = collate(&refs, pad, decoder.device);
        let h = hidden(decoder, &batch, pass)?;
        let (mut logp, mut entropy) = (Vec::new(), Vec::new());
        let total = h.size()[0];
        let mut at = 0;
        while at < total {
            let n = loss::CHUNK.min(total - at);
            let logits = decoder.logits(&h.narrow(0, at, n));
            let (l, e) = logprobs(&logits, &batch.labels.narrow(0, at, n), temperature);
            logp.extend(numbers(&l)?);
            entropy.extend(numbers(&e)?);
            at += n;
        }
        let values = match head {
            Some(v) => numbers(&v.values(&h))?,
            None => vec![0.0; logp.len()],
        };
        let (logp, entropy, values) = (pieces(part, &logp), pieces(part, &entropy), pieces(part, &values));
        out.extend(logp.into_iter().zip(entropy).zip(values).map(|((logprobs, entropy), values)| Measured {
            logprobs,
            reference: Vec::new(),
            values,
            entropy,
        }));
    }
    Ok(out)
}

fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::<f64>::try_from(t.to_kind(Kind::Double))?)
}

/// What a minibatch step saw, means over its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    pub loss: f64,
    pub policy: f64,
    pub value: f64,
    /// k3 to the reference.
    pub kl: f64,
    /// k3 estimate of KL(rollout policy || this one), over the rollouts' own tokens.
    pub drift: f64,
    /// Share of tokens whose ratio was clipped.
    pub clipped: f64,
    pub tokens: f64,
}

/// PPO's clipped surrogate per token, as a loss: the worse of what the ratio and the clipped ratio promise.
pub(super) fn surrogate(ratio: &Tensor, clipped: &Tensor, advantages: &Tensor) -> Tensor {
    -(ratio * advantages).minimum(&(clipped * advantages))
}

/// PPO's clipped value loss per token: half the square of the worse of the value and the value that stays within `clip` of
/// the one that was said during the rollout.
pub(super) fn value_error(value: &Tensor, before: &Tensor, target: &Tensor, clip: f64) -> Tensor {
    let near = before + (value - before).clamp(-clip, clip);
    (value - target).square().maximum(&(near - target).square()) * 0.5
}

/// Back-propagates the objective over one minibatch: clipped ratios per token, value error, k3 KL to the reference, less
/// the entropy bonus; each the mean over the minibatch's tokens.
pub fn improve(
    decoder: &Decoder,
    head: Option<&ValueHead>,
    minibatch: &[&Episode],
    pad: u32,
    p: &RlParams,
    scale: f64,
) -> Result<Seen> {
    let device = decoder.device;
    let rows: Vec<&Encoded> = minibatch.iter().map(|e| &e.row).collect();
    let batch = collate(&rows, pad, device);
    let column = |f: fn(&Episode) -> &Vec<f64>| {
        let flat: Vec<f32> = minibatch.iter().flat_map(|e| f(e)).map(|&x| x as f32).collect();
        Tensor::from_slice(&flat).to_device(device)
    };
    let old = column(|e| &e.measured.logprobs);
    let reference = column(|e| &e.measured.reference);
    let old_values = column(|e| &e.measured.values);
    let advantages = column(|e| &e.advantages);
    let returns = column(|e| &e.returns);
    let tokens = old.size()[0] as f64;
    // no dropout: with it the ratio would differ from 1 before anything has changed
    let h = hidden(decoder, &batch, Pass { recompute: p.recompute, ..Pass::EVAL })?;
    let mut seen = Seen { tokens, ..Seen::default() };
    let mean = |t: &Tensor| t.sum(Kind::Float) / tokens;
    let number = |t: &Tensor| f64::try_from(t).unwrap_or(f64::NAN);
    seen.loss = chunked_backward(&h, loss::CHUNK, scale, |h, at, n| {
        let part = |t: &Tensor| t.narrow(0, at, n);
        let (logp, entropy) = logprobs(&decoder.logits(h), &part(&batch.labels), p.temperature);
        let difference = &logp - part(&old);
        let ratio = difference.exp();
        let a = part(&advantages);
        let clipped = ratio.clamp(1.0 - p.clip, 1.0 + p.clip);
        let policy = mean(&surrogate(&ratio, &clipped, &a));
        // k3 (Schulman 2020): unbiased, never negative
        let to_reference = part(&reference) - &logp;
        let kl = mean(&(to_reference.exp() - &to_reference - 1.0));
        let mut loss = &policy + &kl * p.kl_coef - mean(&entropy) * p.entropy_coef;
        if let Some(v) = head {
            let (value, before, target) = (v.values(h), part(&old_values), part(&returns));
            let error = mean(&value_error(&value, &before, &target, p.clip));
            seen.value += number(&error);
            loss += error * p.value_coef;
        }
        shim::no_grad(|| {
            seen.policy += number(&policy);
            seen.kl += number(&kl);
            let d = difference.detach();
            seen.drift += number(&mean(&(d.exp() - &d - 1.0)));
            seen.clipped += number(&mean(&ratio.ne_tensor(&clipped).to_kind(Kind::Float)));
        });
        loss
    })?;
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arithmetic of specs: securecoderl.md 22.
    #[test]
    fn the_clipped_surrogate_has_the_published_values_and_no_gradient_beyond_the_clip() {
        for (a, rho, want, gradient) in [
            (1.0_f32, 1.5_f32, -1.2, 0.0),
            (-1.0, 0.5, 0.8, 0.0),
            (-1.0, 1.5, 1.5, 1.0),
            (1.0, 0.5, -0.5, -1.0),
        ] {
            let ratio = Tensor::from_slice(&[rho]).set_requires_grad(true);
            let clipped = ratio.clamp(0.8, 1.2);
            let loss = surrogate(&ratio, &clipped, &Tensor::from_slice(&[a]));
            assert!((loss.double_value(&[0]) - want).abs() < 1e-6, "A {a}, ratio {rho}: {loss}");
            loss.sum(Kind::Float).backward();
            assert_eq!(ratio.grad().double_value(&[0]), gradient, "A {a}, ratio {rho}");
        }
    }

    #[test]
    fn a_value_that_ran_away_from_the_rollouts_is_not_rewarded_for_it() {
        // value, value before, target, loss, and its derivative by the value
        for (value, before, target, want, gradient) in [
            (0.1_f32, 0.0_f32, 1.0_f32, 0.405, -0.9), // within the clip: the plain square
            (0.5, 0.0, 1.0, 0.32, 0.0),               // nearer than the clip allows: no more to gain
            (1.0, 0.0, 0.0, 0.5, 1.0),                // run away the wrong way: back
            (-1.0, 0.0, 1.0, 2.0, -2.0),
        ] {
            let v = Tensor::from_slice(&[value]).set_requires_grad(true);
            let loss = value_error(&v, &Tensor::from_slice(&[before]), &Tensor::from_slice(&[target]), 0.2);
            assert!((loss.double_value(&[0]) - want).abs() < 1e-6, "{value} {before} {target}: {loss}");
            loss.sum(Kind::Float).backward();
            assert!((v.grad().double_value(&[0]) - gradient).abs() < 1e-6, "{value} {before} {target}");
        }
    }
}
