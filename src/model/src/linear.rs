//! Linear layers of the decoder: dense weights, or 4-bit ones that are unpacked for each product.

use crate::error::Result;
use crate::fused;
use crate::lora::Lora;
use crate::nf4::Nf4;
use crate::shim;
use tch::{Kind, Tensor};

/// A weight `[out, in]`.
#[derive(Debug)]
pub(crate) enum Weight {
    Dense(Tensor),
    Nf4(Nf4),
}

/// `y = x W^T + b`
#[derive(Debug)]
pub(crate) struct Linear {
    pub weight: Weight,
    pub bias: Option<Tensor>,
}

impl Linear {
    pub fn dense(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight: Weight::Dense(weight), bias }
    }

    /// The weight as numbers in `kind`; shares storage where it can.
    pub fn numbers(&self, kind: Kind) -> Tensor {
        match &self.weight {
            Weight::Dense(w) => w.detach().to_kind(kind),
            Weight::Nf4(q) => q.unpack(kind),
        }
    }

    /// Packs a dense weight to 4 bits.
    ///
    /// # Errors
    /// libtorch's words.
    pub fn quantize(&mut self) -> Result<()> {
        if let Weight::Dense(w) = &self.weight {
            self.weight = Weight::Nf4(Nf4::pack(w)?);
        }
        Ok(())
    }

    /// The whole product, `[rows, out]`.
    ///
    /// # Errors
    /// libtorch's words.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Dense(w) => fused::linear(x, w, self.bias.as_ref()),
            Weight::Nf4(q) => {
                let y = shim::no_grad(|| fused::linear(x, &q.unpack(x.kind()), self.bias.as_ref()))?;
                if !x.requires_grad() {
                    return Ok(y);
                }
                let q = q.shallow_clone();
                // the unpacked weight lives for one product; the backward pass unpacks again
                shim::node(
                    x,
                    &y,
                    Box::new(move |grad| fused::linear(grad, &q.unpack(grad.kind()).tr(), None)),
                )
            }
        }
    }

    /// The products with consecutive groups of output rows, given by their number and the adapter on top. Dense weights
    /// are used as views, one product each: contiguous results are what training and prefill want. `train`: dropout on.
    ///
    /// # Errors
    /// libtorch's words.
    pub fn parts(&self, x: &Tensor, parts: &[(i64, Option<&Lora>)], train: bool) -> Result<Vec<Tensor>> {
        let widths: Vec<i64> = parts.iter().map(|(n, _)| *n).collect();
        match &self.weight {
            Weight::Dense(w) => {
                let bias = self.bias.as_ref().map(|b| b.split_with_sizes(&widths[..], 0));
                let each = w.split_with_sizes(&widths[..], 0).into_iter().zip(parts).enumerate();
                each.map(|(i, (w, (_, lora)))| {
                    let bias = bias.as_ref().map(|b| &b[i]);
                    match lora {
                        Some(lora) => fused::adapted(x, &w, bias, lora, train),
                        None => fused::linear(x, &w, bias),
                    }
                })
                .collect()
            }
            Weight::Nf4(_) => {
                let each = self.forward(x)?.split_with_sizes(&widths[..], -1).into_iter().zip(parts);
                each.map(|(y, (_, lora))| Ok(lora.map_or_else(|| y.shallow_clone(), |l| l.on(&y, x, train))))
                    .collect()
            }
        }
    }
}
