//! Token losses without the whole table of logits: the head runs on pieces of the wanted positions, each piece goes
//! back through the head at once, and the trunk gets one backward pass in the end.

use crate::Result;
use model::{Decoder, fused, shim};
use tch::{Kind, Tensor};

/// Positions per piece; at a vocabulary of 32,000 that is 32 MB of fp32 logits.
pub const CHUNK: i64 = 256;

/// Calls `f(hidden piece, first row, rows)` for each piece of `hidden` `[rows, width]`; back-propagates what it returns,
/// and then the sum of the pieces' gradients through the trunk. Gives the sum of the returned losses, unscaled.
///
/// # Errors
/// libtorch's words.
pub fn chunked_backward(
    hidden: &Tensor,
    chunk: i64,
    scale: f64,
    mut f: impl FnMut(&Tensor, i64, i64) -> Tensor,
) -> Result<f64> {
    let rows = hidden.size()[0];
    if rows == 0 {
        return Ok(0.0);
    }
    let leaf = hidden.detach().set_requires_grad(true);
    let (mut at, mut sum) = (0, 0.0);
    while at < rows {
        let n = chunk.min(rows - at);
        let loss = f(&leaf.narrow(0, at, n), at, n);
        sum += f64::try_from(&loss)?;
        (loss * scale).backward();
        at += n;
    }
    shim::backward(hidden, &leaf.grad())?;
    Ok(sum)
}

/// Cross-entropy of `labels` `[rows]` under `hidden` `[rows, width]`, summed, times `weight`, with its backward pass
/// (scaled by `scale`). Gives the weighted sum, unscaled.
///
/// The derivative by the logits is written down (softmax minus one at the label) instead of recorded: half the passes over
/// what is by far the largest tensor of a step.
///
/// # Errors
/// libtorch's words.
pub fn cross_entropy_backward(
    decoder: &Decoder,
    hidden: &Tensor,
    labels: &Tensor,
    weight: f64,
    scale: f64,
    chunk: i64,
) -> Result<f64> {
    let rows = hidden.size()[0];
    if rows == 0 {
        return Ok(0.0);
    }
    let (mut at, mut sum, mut grads) = (0, 0.0, Vec::new());
    while at < rows {
        let n = chunk.min(rows - at);
        let piece = hidden.detach().narrow(0, at, n).set_requires_grad(true);
        let logits = decoder.logits(&piece);
        let factor = weight * scale;
        let (loss, derivative) = shim::no_grad(|| {
            derivative_of(&logits.detach(), &labels.narrow(0, at, n), factor, decoder.config.spec.logit_cap)
        })?;
        sum += loss;
        shim::backward(&logits, &derivative)?;
        grads.push(piece.grad());
        at += n;
    }
    shim::backward(hidden, &Tensor::cat(&grads, 0))?;
    Ok(sum * weight)
}

/// Sum of the cross-entropies of `labels`, and `factor` times its derivative by `logits` `[rows, vocab]`. Nobody looks at
/// the logits again, unless they were capped: then the cap's own derivative does.
fn derivative_of(logits: &Tensor, labels: &Tensor, factor: f64, cap: Option<f64>) -> Result<(f64, Tensor)> {
    if cap.is_none()
        && let Some(loss) = fused::softmax_loss(logits, labels, factor)?
    {
        return Ok((loss, logits.shallow_clone()));
    }
    let (loss, mut derivative) = softmax_loss(logits, labels);
    let _ = derivative.g_mul_scalar_(factor);
    Ok((loss, derivative))
}

/// Sum of the cross-entropies of `labels`, and its derivative by `logits` `[rows, vocab]`.
fn softmax_loss(logits: &Tensor, labels: &Tensor) -> (f64, Tensor) {
    let labels = labels.unsqueeze(-1);
    let mut p = logits.softmax(-1, Kind::Float);
    let said = p.gather(-1, &labels, false);
    // so unlikely that fp32 has lost digits of it: once more in logarithms
    let loss = if said.min().double_value(&[]) > 1e-30 {
        -said.log()
    } else {
        -logits.log_softmax(-1, Kind::Float).gather(-1, &labels, false)
    };
    let ones = Tensor::full_like(&said, -1.0);
    let _ = p.scatter_add_(-1, &labels, &ones);
    (loss.sum(Kind::Double).double_value(&[]), p)
}

/// Cross-entropy of `labels` `[rows]` under `hidden` `[rows, width]`, summed; call it under `no_grad`.
///
/// # Errors
/// libtorch's words.
pub fn cross_entropy(decoder: &Decoder, hidden: &Tensor, labels: &Tensor, chunk: i64) -> Result<f64> {
    let rows = hidden.size()[0];
    let (mut at, mut sum) = (0, 0.0);
    while at < rows {
        let n = chunk.min(rows - at);
        let all = decoder.logits(&hidden.narrow(0, at, n)).log_softmax(-1, Kind::Float);
        let said = all.gather(-1, &labels.narrow(0, at, n).unsqueeze(-1), false);
        sum -= said.sum(Kind::Double).double_value(&[]);
        at += n;
    }
    Ok(sum)
}

/// Log-probability of `labels` under `logits / temperature`, `[rows]`, and the entropy of that distribution.
pub fn logprobs(logits: &Tensor, labels: &Tensor, temperature: f64) -> (Tensor, Tensor) {
    let all = if temperature == 1.0 { logits.shallow_clone() } else { logits / temperature };
    let all = all.log_softmax(-1, Kind::Float);
    let entropy = -(all.exp() * &all).sum_dim_intlist(-1, false, Kind::Float);
    (all.gather(-1, &labels.unsqueeze(-1), false).squeeze_dim(-1), entropy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Reduction};

    #[test]
    fn the_written_derivative_is_that_of_libtorchs_cross_entropy_even_where_a_label_is_next_to_impossible() {
        let labels = Tensor::from_slice(&[3i64, 0, 4]);
        for height in [1.0, 300.0] {
            let logits = (Tensor::arange(15, (Kind::Float, Device::Cpu)).sin() * height).view([3, 5]);
            let leaf = logits.set_requires_grad(true);
            let want = leaf.cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Sum, -100, 0.0);
            want.backward();
            let want = want.double_value(&[]);
            for cap in [None, Some(30.0)] {
                // in place where there is no cap
                let logits = leaf.detach().copy();
                let (loss, derivative) = shim::no_grad(|| derivative_of(&logits, &labels, 0.5, cap)).unwrap();
                assert!((loss - want).abs() < 1e-5 * want.max(1.0), "{loss} {want}");
                assert!((derivative * 2.0 - leaf.grad()).abs().max().double_value(&[]) < 1e-6);
                assert_eq!(logits.equal(&leaf), cap.is_some());
            }
        }
        let logits = Tensor::zeros([1, 5], (Kind::Float, Device::Cpu));
        assert!(derivative_of(&logits, &Tensor::from_slice(&[5i64]), 1.0, None).is_err());
        for rows in [1, 700] {
            // long rows, as of a real vocabulary
            let logits =
                (Tensor::arange(rows * 3001, (Kind::Double, Device::Cpu)) * 12.9898).sin().view([rows, 3001]);
            let labels = Tensor::arange(rows, (Kind::Int64, Device::Cpu)) * 3;
            let (want, by_logits) = softmax_loss(&logits.to_kind(Kind::Float), &labels);
            let (got, derivative) = derivative_of(&logits.to_kind(Kind::Float), &labels, 1.0, None).unwrap();
            assert!((got - want).abs() < 1e-5 * want, "{got} {want}");
            assert!((derivative - by_logits).abs().max().double_value(&[]) < 1e-6);
        }
    }
}
