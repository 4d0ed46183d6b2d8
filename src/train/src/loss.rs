//! Token losses without the whole table of logits: the head runs on pieces of the wanted positions, each piece goes
//! back through the head at once, and the trunk gets one backward pass in the end.

use crate::Result;
use model::{Decoder, shim};
use tch::{Kind, Reduction, Tensor};

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
    chunked_backward(hidden, chunk, scale, |h, at, n| {
        decoder.logits(h).cross_entropy_loss(
            &labels.narrow(0, at, n),
            None::<&Tensor>,
            Reduction::Sum,
            -100,
            0.0,
        ) * weight
    })
}

/// Log-probability of `labels` under `logits / temperature`, `[rows]`, and the entropy of that distribution.
pub fn logprobs(logits: &Tensor, labels: &Tensor, temperature: f64) -> (Tensor, Tensor) {
    let all = if temperature == 1.0 { logits.shallow_clone() } else { logits / temperature };
    let all = all.log_softmax(-1, Kind::Float);
    let entropy = -(all.exp() * &all).sum_dim_intlist(-1, false, Kind::Float);
    (all.gather(-1, &labels.unsqueeze(-1), false).squeeze_dim(-1), entropy)
}
