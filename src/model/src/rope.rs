//! Rotary position embedding: the table of cosines and sines, and its application.

use crate::config::{Config, RopeScaling};
use crate::fused;
use std::cell::RefCell;
use tch::{Device, Kind, Tensor};

/// Cosines and sines by position, grown on demand; angles in fp32 whatever the model's number format, as transformers
/// does.
#[derive(Debug)]
pub struct Rope {
    /// Angle per position, `[head_dim / 2]`.
    frequencies: Vec<f64>,
    /// `[length, head_dim / 2]` each.
    table: RefCell<(Tensor, Tensor)>,
    kind: Kind,
    device: Device,
}

impl Rope {
    #[must_use]
    pub fn new(config: &Config, kind: Kind, device: Device) -> Self {
        let rope = Self {
            frequencies: frequencies(config),
            table: RefCell::new((Tensor::new(), Tensor::new())),
            kind,
            device,
        };
        rope.grow(config.context.min(512));
        rope
    }

    fn grow(&self, length: i64) {
        let _guard = tch::no_grad_guard();
        // fp32 like transformers: angles in double would differ in the last bits at long positions
        let inverse = Tensor::from_slice(&self.frequencies).to_kind(Kind::Float).to_device(self.device);
        let position = Tensor::arange(length, (Kind::Float, self.device));
        let angle = position.outer(&inverse);
        *self.table.borrow_mut() = (angle.cos().to_kind(self.kind), angle.sin().to_kind(self.kind));
    }

    fn length(&self) -> i64 {
        self.table.borrow().0.size()[0]
    }

    /// Rows for positions `0..length`, each `[length, head_dim / 2]`.
    pub fn first(&self, length: i64) -> (Tensor, Tensor) {
        self.reserve(length);
        let table = self.table.borrow();
        (table.0.narrow(0, 0, length), table.1.narrow(0, 0, length))
    }

    /// Rows for given positions (an int64 tensor of any shape; all below `limit`), `[..., head_dim / 2]`.
    pub fn at(&self, positions: &Tensor, limit: i64) -> (Tensor, Tensor) {
        self.reserve(limit);
        let table = self.table.borrow();
        let mut shape = positions.size();
        shape.push(table.0.size()[1]);
        let flat = positions.reshape([-1]);
        (table.0.index_select(0, &flat).reshape(&shape), table.1.index_select(0, &flat).reshape(&shape))
    }

    fn reserve(&self, length: i64) {
        if length > self.length() {
            self.grow(length.max(2 * self.length()));
        }
    }
}

/// Rotates the last dimension of `x`; `cos` and `sin` must broadcast against its halves.
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    if let Some(y) = fused::rotate(x, cos, sin) {
        return y;
    }
    let half = x.size().last().copied().unwrap_or(0) / 2;
    let (a, b) = (x.narrow(-1, 0, half), x.narrow(-1, half, half));
    Tensor::cat(&[&a * cos - &b * sin, &b * cos + &a * sin], -1)
}

fn frequencies(config: &Config) -> Vec<f64> {
    let dim = config.head_dim as f64;
    (0..config.head_dim / 2)
        .map(|i| config.rope_theta.powf(-2.0 * i as f64 / dim))
        .map(|f| match config.rope_scaling {
            RopeScaling::None => f,
            RopeScaling::Linear { factor } => f / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wavelength = std::f64::consts::TAU / f;
                if wavelength > original_context / low_freq_factor {
                    f / factor
                } else if wavelength < original_context / high_freq_factor {
                    f
                } else {
                    let smooth = (original_context / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            }
        })
        .collect()
}
