//! RMSNorm and LayerNorm, statistics in fp32 whatever the number format.

use crate::fused;
use crate::spec::NormKind;
use tch::{Kind, Tensor};

/// One normalisation with its weights.
#[derive(Debug)]
pub(crate) struct Norm {
    pub weight: Tensor,
    /// Of [`NormKind::Layer`] only.
    pub bias: Option<Tensor>,
    pub kind: NormKind,
    pub eps: f64,
}

impl Norm {
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if self.kind == NormKind::Rms
            && let Some(y) = fused::rms_norm(x, &self.weight, self.eps)
        {
            return y;
        }
        let width = self.weight.size();
        let float = x.kind() == Kind::Float;
        match self.kind {
            NormKind::Layer => {
                x.layer_norm(&width[..], Some(&self.weight), self.bias.as_ref(), self.eps, false)
            }
            NormKind::Rms if float => x.rms_norm(&width[..], Some(&self.weight), self.eps),
            // rounded before the weight, as transformers does it
            NormKind::Rms => {
                let unit = x.to_kind(Kind::Float).rms_norm(&width[..], None::<&Tensor>, self.eps);
                unit.to_kind(x.kind()) * &self.weight
            }
            NormKind::RmsPlusOne => {
                let weight = self.weight.to_kind(Kind::Float) + 1.0;
                x.to_kind(Kind::Float).rms_norm(&width[..], Some(&weight), self.eps).to_kind(x.kind())
            }
        }
    }

    /// The same weights outside the graph.
    pub fn detached(&self) -> Self {
        let bias = self.bias.as_ref().map(Tensor::detach);
        Self { weight: self.weight.detach(), bias, ..*self }
    }
}
