//! AdamW with its state in our hands, gradient clipping, and loss scaling for fp16.

use crate::{Error, Result};
use model::shim;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Dynamic loss scaling as torch's `GradScaler`: halve on overflow, double after a run of good steps. Only fp16 needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scaler {
    pub scale: f64,
    pub good_steps: u32,
    pub enabled: bool,
}

impl Scaler {
    const GROWTH_INTERVAL: u32 = 2000;

    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let enabled = kind == Kind::Half;
        Self { scale: if enabled { 65_536.0 } else { 1.0 }, good_steps: 0, enabled }
    }

    fn overflow(&mut self) {
        self.scale /= 2.0;
        self.good_steps = 0;
    }

    fn good(&mut self) {
        self.good_steps += 1;
        if self.enabled && self.good_steps >= Self::GROWTH_INTERVAL {
            self.scale *= 2.0;
            self.good_steps = 0;
        }
    }
}

/// AdamW (decoupled weight decay) over a fixed list of named tensors, fp32 states.
#[derive(Debug)]
pub struct AdamW {
    names: Vec<String>,
    params: Vec<Tensor>,
    m: Vec<Tensor>,
    v: Vec<Tensor>,
    /// fp32 scalars, as the fused kernel wants them.
    count: Vec<Tensor>,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    pub scaler: Scaler,
    /// Steps in a row that overflowed.
    overflows: u32,
}

impl AdamW {
    /// An optimizer with zero states for `params` (which must require gradients).
    #[must_use]
    pub fn new(params: Vec<(String, Tensor)>, weight_decay: f64, max_grad_norm: f64, scaler: Scaler) -> Self {
        let (names, params): (Vec<_>, Vec<_>) = params.into_iter().unzip();
        let zeros = || params.iter().map(|p| p.detach().zeros_like()).collect::<Vec<_>>();
        let count = params.iter().map(|p| Tensor::zeros([] as [i64; 0], (Kind::Float, p.device()))).collect();
        Self {
            m: zeros(),
            v: zeros(),
            count,
            names,
            params,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay,
            max_grad_norm,
            scaler,
            overflows: 0,
        }
    }

    /// Number of trained weights.
    #[must_use]
    pub fn weights(&self) -> usize {
        self.params.iter().map(Tensor::numel).sum()
    }

    /// One step with the gradients that are there, which are cleared. Gives the global gradient norm before clipping;
    /// `None` when it was not finite and, under loss scaling, the step was skipped.
    ///
    /// # Errors
    /// A norm that is not finite without loss scaling, or 30 times in a row with it: the run has diverged.
    pub fn step(&mut self, learning_rate: f64) -> Result<Option<f64>> {
        let _guard = tch::no_grad_guard();
        let grads: Vec<Tensor> = self
            .params
            .iter()
            .map(|p| {
                let g = p.grad();
                if g.defined() { g } else { p.zeros_like() }
            })
            .collect();
        if self.scaler.enabled {
            let inverse = 1.0 / self.scaler.scale;
            grads.iter().for_each(|g| drop(g.shallow_clone().g_mul_scalar_(inverse)));
        }
        let norm = shim::clip_grad_norm(&grads, self.max_grad_norm)?;
        if !norm.is_finite() {
            self.zero_grad()?;
            self.overflows += 1;
            if !self.scaler.enabled || self.overflows >= 30 {
                return Err(Error::Diverged(format!(
                    "the gradient norm is {norm}: lower the learning rate, or use precision fp32 or bf16"
                )));
            }
            self.scaler.overflow();
            return Ok(None);
        }
        self.overflows = 0;
        self.scaler.good();
        let params: Vec<Tensor> = self.params.iter().map(Tensor::detach).collect();
        shim::fused_adamw(
            &params,
            &grads,
            &self.m,
            &self.v,
            &self.count,
            learning_rate,
            self.betas,
            self.weight_decay,
            self.eps,
        )?;
        self.zero_grad()?;
        Ok(Some(norm))
    }

    /// Drops all gradients.
    ///
    /// # Errors
    /// libtorch's words.
    pub fn zero_grad(&self) -> Result<()> {
        self.params.iter().try_for_each(|p| Ok(shim::set_grad(p, None)?))
    }

    /// Parameters and states under `p.`, `m.`, `v.`, `n.` + name.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for (i, name) in self.names.iter().enumerate() {
            for (prefix, list) in [("p", &self.params), ("m", &self.m), ("v", &self.v), ("n", &self.count)] {
                out.push((format!("{prefix}.{name}"), list[i].detach()));
            }
        }
        out
    }

    /// Puts tensors from [`Self::tensors`] back, in place.
    ///
    /// # Errors
    /// One is missing or has another shape.
    pub fn restore(&mut self, from: &BTreeMap<String, Tensor>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for (name, to) in self.tensors() {
            let saved = from
                .get(&name)
                .filter(|t| t.size() == to.size())
                .ok_or_else(|| Error::Invalid(format!("the checkpoint lacks a fitting tensor {name}")))?;
            let mut to = to;
            to.copy_(saved);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Kingma & Ba with decoupled decay, written out.
    fn by_hand(steps: i32, lr: f64, wd: f64) -> f64 {
        let (mut p, mut m, mut v) = (1.0f64, 0.0, 0.0);
        for t in 1..=steps {
            let g = 2.0 * p;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            p -= lr * wd * p;
            p -= lr * (m / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
        }
        p
    }

    fn scalar(x: f64) -> Tensor {
        Tensor::from(x).to_kind(Kind::Float).set_requires_grad(true)
    }

    #[test]
    fn fifty_steps_equal_the_formula() {
        let p = scalar(1.0);
        let mut o = AdamW::new(vec![("p".into(), p.shallow_clone())], 0.1, 0.0, Scaler::new(Kind::Float));
        for _ in 0..50 {
            p.square().backward();
            o.step(0.01).unwrap();
        }
        let got = f64::try_from(p).unwrap();
        assert!((got - by_hand(50, 0.01, 0.1)).abs() < 1e-6, "{got}");
    }

    #[test]
    fn a_restored_optimizer_goes_on_bit_for_bit() {
        let p = scalar(1.0);
        let mut o = AdamW::new(vec![("p".into(), p.shallow_clone())], 0.1, 1.0, Scaler::new(Kind::Float));
        let turn = |p: &Tensor, o: &mut AdamW| {
            p.sin().backward();
            o.step(0.05).unwrap();
        };
        (0..5).for_each(|_| turn(&p, &mut o));
        let saved: BTreeMap<_, _> = o.tensors().into_iter().map(|(n, t)| (n, t.copy())).collect();
        (0..5).for_each(|_| turn(&p, &mut o));
        let q = scalar(7.0);
        let mut r = AdamW::new(vec![("p".into(), q.shallow_clone())], 0.1, 1.0, Scaler::new(Kind::Float));
        r.restore(&saved).unwrap();
        (0..5).for_each(|_| turn(&q, &mut r));
        assert!(q.equal(&p));
        assert!(r.restore(&BTreeMap::new()).is_err());
    }

    #[test]
    fn an_overflow_skips_the_step_and_halves_the_scale_and_without_scaling_it_is_an_error() {
        let p = Tensor::ones([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let mut o = AdamW::new(vec![("p".into(), p.shallow_clone())], 0.0, 1.0, Scaler::new(Kind::Half));
        (&p * f64::INFINITY).sum(Kind::Float).backward();
        assert_eq!(o.step(0.1).unwrap(), None);
        assert_eq!(o.scaler.scale, 32_768.0);
        assert_eq!(f64::try_from(p.sum(Kind::Float)).unwrap(), 1.0);
        o.scaler = Scaler::new(Kind::Float);
        (&p * f64::INFINITY).sum(Kind::Float).backward();
        assert!(o.step(0.1).unwrap_err().to_string().contains("learning rate"));
    }
}
