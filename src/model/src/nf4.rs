//! 4-bit NormalFloat weights (Dettmers et al. 2023, "QLoRA"): blocks of 64 numbers share a scale, each number is one of the
//! 16 quantiles of a normal distribution. The layout is that of bitsandbytes: row-major, the first of two in the high
//! half of a byte.

use crate::error::Result;
use crate::shim;
use tch::{Device, Kind, Tensor};

/// Numbers that share a scale.
pub const BLOCK: i64 = 64;

/// Blocks that are packed at once: what packing needs besides the weight stays small.
const AT_ONCE: i64 = 4096;

/// The 16 values, in units of the block's largest magnitude.
pub const CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A packed matrix: 4.5 bits per number.
#[derive(Debug)]
pub struct Nf4 {
    /// `[blocks, BLOCK / 2]` uint8
    packed: Tensor,
    /// Largest magnitude per block, `[blocks]` fp32.
    scale: Tensor,
    /// What the two numbers of each byte are, `[256, 2]` fp32, where it must be on a device: it is not sent there for
    /// every product.
    pairs: Option<Tensor>,
    shape: [i64; 2],
}

fn pairs(device: Device) -> Tensor {
    let pairs: Vec<f32> = (0..256).flat_map(|b| [CODE[b >> 4], CODE[b & 15]]).collect();
    Tensor::from_slice(&pairs).view([256, 2]).to_device(device)
}

impl Nf4 {
    /// Packs `w` `[out, in]`; the last block is filled up with zeros.
    ///
    /// # Errors
    /// libtorch's words; a weight that is no matrix.
    pub fn pack(w: &Tensor) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let (out, inp) = w.size2()?;
        let blocks = (out * inp + BLOCK - 1) / BLOCK;
        let flat = w.detach().reshape([-1]);
        let middle: Vec<f32> = CODE.windows(2).map(|p| (p[0] + p[1]) / 2.0).collect();
        let middle = Tensor::from_slice(&middle).to_device(w.device());
        let packed = Tensor::f_empty([blocks, BLOCK / 2], (Kind::Uint8, w.device()))?;
        let scale = Tensor::f_empty([blocks], (Kind::Float, w.device()))?;
        let mut first = 0;
        while first < blocks {
            let n = AT_ONCE.min(blocks - first);
            let there = (n * BLOCK).min(out * inp - first * BLOCK);
            let part = flat.narrow(0, first * BLOCK, there).to_kind(Kind::Float);
            let part = part.f_constant_pad_nd([0, n * BLOCK - there])?.view([n, BLOCK]);
            let top = part.abs().amax([1].as_slice(), false);
            // a block of zeros divides by 1 and stays zeros
            let divisor = top.where_scalarother(&top.gt(0.0), 1.0).unsqueeze(1);
            let index = (part / divisor).f_bucketize(&middle, true, false)?.to_kind(Kind::Uint8);
            let pairs = index.view([n, BLOCK / 2, 2]);
            packed.narrow(0, first, n).copy_(&(pairs.select(2, 0) * 16 + pairs.select(2, 1)));
            scale.narrow(0, first, n).copy_(&top);
            first += n;
        }
        let pairs = (w.device() != Device::Cpu).then(|| pairs(w.device()));
        Ok(Self { packed, scale, pairs, shape: [out, inp] })
    }

    /// The matrix in `kind`, new storage.
    pub fn unpack(&self, kind: Kind) -> Tensor {
        let _guard = tch::no_grad_guard();
        let n = self.shape[0] * self.shape[1];
        let whole = if self.packed.device() == Device::Cpu {
            let out = Tensor::empty([self.packed.size()[0], BLOCK], (kind, Device::Cpu));
            shim::nf4_unpack(&self.packed, &self.scale, &CODE, &out)
                .expect("three contiguous CPU tensors of matching sizes, made by `pack`");
            out
        } else {
            self.unpack_anywhere(kind)
        };
        whole.view([-1]).narrow(0, 0, n).view(self.shape)
    }

    /// The same with libtorch's operations: both numbers of a byte are looked up at once.
    fn unpack_anywhere(&self, kind: Kind) -> Tensor {
        let table = match &self.pairs {
            Some(pairs) => pairs.shallow_clone(),
            None => pairs(self.packed.device()),
        };
        let numbers = table.index_select(0, &self.packed.view([-1]).to_kind(Kind::Int)).view([-1, BLOCK]);
        (numbers * self.scale.unsqueeze(1)).to_kind(kind)
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.packed.numel() + 4 * self.scale.numel()
    }

    pub(crate) fn shallow_clone(&self) -> Self {
        Self {
            packed: self.packed.shallow_clone(),
            scale: self.scale.shallow_clone(),
            pairs: self.pairs.as_ref().map(Tensor::shallow_clone),
            shape: self.shape,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_becomes_the_nearest_of_sixteen_times_its_blocks_largest() {
        tch::manual_seed(1);
        // four blocks, the last one filled up; more blocks than are packed at once
        for shape in [[3, 70], [AT_ONCE + 3, 70]] {
            let w = Tensor::randn(shape, (Kind::Float, Device::Cpu));
            let q = Nf4::pack(&w).unwrap();
            let numbers: Vec<f32> = Vec::try_from(w.view([-1])).unwrap();
            let got: Vec<f32> = Vec::try_from(q.unpack(Kind::Float).view([-1])).unwrap();
            for (block, got) in numbers.chunks(64).zip(got.chunks(64)) {
                let top = block.iter().fold(0f32, |m, x| m.max(x.abs()));
                for (x, y) in block.iter().zip(got) {
                    let best = CODE.iter().map(|c| (c * top - x).abs()).fold(f32::MAX, f32::min);
                    assert!(((y - x).abs() - best).abs() < 1e-6, "{x} became {y}");
                }
            }
        }
        let q = Nf4::pack(&Tensor::zeros([3, 70], (Kind::Float, Device::Cpu))).unwrap();
        assert_eq!(q.bytes(), 4 * (32 + 4));
    }

    #[test]
    fn both_ways_of_unpacking_agree_bit_for_bit_in_every_format() {
        tch::manual_seed(2);
        let w = Tensor::randn([16, 128], (Kind::Float, Device::Cpu));
        let q = Nf4::pack(&w).unwrap();
        for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
            assert!(q.unpack(kind).equal(&q.unpack_anywhere(kind).view([16, 128])), "{kind:?}");
        }
    }

    #[test]
    fn a_block_of_zeros_stays_zeros() {
        let q = Nf4::pack(&Tensor::zeros([2, 64], (Kind::Float, Device::Cpu))).unwrap();
        assert!(q.unpack(Kind::Float).equal(&Tensor::zeros([2, 64], (Kind::Float, Device::Cpu))));
    }
}
