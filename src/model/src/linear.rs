//! Linear layers of the decoder: dense weights, or 4-bit ones that are unpacked for each product.

use crate::error::Result;
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
            Weight::Dense(w) => Ok(x.f_linear(w, self.bias.as_ref())?),
            Weight::Nf4(q) => {
                let y = shim::no_grad(|| x.f_linear(&q.unpack(x.kind()), self.bias.as_ref()))?;
                if !x.requires_grad() {
                    return Ok(y);
                }
                let q = q.shallow_clone();
                // the unpacked weight lives for one product; the backward pass unpacks again
                shim::node(x, &y, Box::new(move |grad| Ok(grad.f_matmul(&q.unpack(grad.kind()))?)))
            }
        }
    }

    /// The products with consecutive groups of `widths` output rows. Dense weights are used as views, one product each:
    /// contiguous results are what training and prefill want.
    ///
    /// # Errors
    /// libtorch's words.
    pub fn parts(&self, x: &Tensor, widths: &[i64]) -> Result<Vec<Tensor>> {
        if widths.len() == 1 {
            return Ok(vec![self.forward(x)?]);
        }
        match &self.weight {
            Weight::Dense(w) => {
                let bias = self.bias.as_ref().map(|b| b.split_with_sizes(widths, 0));
                let each = w.split_with_sizes(widths, 0).into_iter().enumerate();
                each.map(|(i, w)| Ok(x.f_linear(&w, bias.as_ref().map(|b| &b[i]))?)).collect()
            }
            Weight::Nf4(_) => Ok(self.forward(x)?.split_with_sizes(widths, -1)),
        }
    }
}
