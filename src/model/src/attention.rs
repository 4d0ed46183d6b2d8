//! Scaled dot-product attention with windows and soft caps.

use crate::config::Config;
use crate::spec::soft_cap;
use tch::{Device, Kind, Tensor};

/// How scores are made of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scores {
    /// `None`: 1 / sqrt(head_dim).
    pub scale: Option<f64>,
    pub cap: Option<f64>,
}

impl Scores {
    pub fn of(config: &Config) -> Self {
        Self { scale: config.spec.query_scalar.map(|s| s.powf(-0.5)), cap: config.spec.attention_cap }
    }
}

/// Attention of `q` `[rows, heads, n, head_dim]` over `k`, `v` `[rows, kv_heads, length, head_dim]`. `mask` is added to the
/// scores and must broadcast to `[rows, kv_heads, n, length]`; without one, `causal` hides what comes later.
pub(crate) fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    causal: bool,
    s: Scores,
) -> Tensor {
    let (heads, kv_heads) = (q.size()[1], k.size()[1]);
    let Some(cap) = s.cap else {
        let causal = causal && mask.is_none();
        return Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, s.scale, heads != kv_heads);
    };
    // no fused kernel knows soft caps: the scores are made in full, the heads of one key side by side
    let (rows, n, width) = (q.size()[0], q.size()[2], q.size()[3]);
    let length = k.size()[2];
    let grouped = q.reshape([rows, kv_heads, heads / kv_heads * n, width]);
    let scale = s.scale.unwrap_or_else(|| (width as f64).powf(-0.5));
    let scores = grouped.matmul(&k.transpose(-2, -1)) * scale;
    let scores = soft_cap(&scores, cap).view([rows, kv_heads, heads / kv_heads, n, length]);
    let hidden = match mask {
        Some(m) => Some(m.unsqueeze(2)),
        None if causal => Some(causal_mask(n, None, q.kind(), q.device())),
        None => None,
    };
    let scores = match hidden {
        Some(m) => scores + m,
        None => scores,
    };
    let p = scores.softmax(-1, Kind::Float).to_kind(q.kind());
    let out = p.view([rows, kv_heads, heads / kv_heads * n, length]).matmul(v);
    out.view([rows, heads, n, width])
}

/// `[1, 1, length, length]`: 0 where the column may be seen from the row, minus infinity elsewhere.
pub(crate) fn causal_mask(length: i64, window: Option<i64>, kind: Kind, device: Device) -> Tensor {
    let all = Tensor::full([length, length], f64::NEG_INFINITY, (kind, device));
    let later = all.triu(1);
    let mask = match window {
        Some(w) => later + all.tril(-w),
        None => later,
    };
    mask.view([1, 1, length, length])
}

/// The masks of one pass: layers with the same window share theirs.
#[derive(Debug)]
pub(crate) struct Masks {
    /// For texts longer than the window only; shorter ones need none.
    by_window: Vec<(i64, Tensor)>,
}

impl Masks {
    /// Masks for texts of up to `length` tokens.
    pub fn new(config: &Config, length: i64, kind: Kind, device: Device) -> Self {
        let mut windows: Vec<i64> =
            config.spec.windows.iter().flatten().copied().filter(|w| *w < length).collect();
        windows.sort_unstable();
        windows.dedup();
        let by_window =
            windows.into_iter().map(|w| (w, causal_mask(length, Some(w), kind, device))).collect();
        Self { by_window }
    }

    /// The mask of a text of `length` tokens under `window`; `None`: plain causal attention.
    pub fn of(&self, window: Option<i64>, length: i64) -> Option<Tensor> {
        let window = window.filter(|w| *w < length)?;
        let (_, mask) = self.by_window.iter().find(|(w, _)| *w == window)?;
        Some(mask.narrow(2, 0, length).narrow(3, 0, length))
    }
}
