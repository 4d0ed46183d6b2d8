//! Adapters per request on libtorch: those of one engine lie stacked, so that a step with any mixture of them adds three
//! operations to a product, and not some for each adapter.

use crate::layer::Group;
use crate::lora::Stacked;
use tch::{Device, Kind, Tensor};

/// `y += (x A^T) B^T`, in the model's number format.
#[derive(Debug)]
pub(crate) struct Pair {
    /// `[ranks, in]`
    a: Tensor,
    /// `[out, ranks]`
    b: Tensor,
}

impl Pair {
    pub fn new(s: &Stacked, kind: Kind, device: Device) -> Self {
        let put = |t: &Tensor| t.detach().to_kind(kind).to_device(device);
        Self { a: put(&s.a), b: put(&s.b) }
    }

    /// For every row of `x`.
    pub fn add(&self, y: &Tensor, x: &Tensor) -> Tensor {
        y.addmm(&x.linear(&self.a, None::<&Tensor>), &self.b.tr())
    }
}

/// The adapters' part in one product of one layer.
struct Stack {
    pair: Pair,
    /// By adapter, how many ranks are before its own; one more at the end.
    before: Vec<i64>,
}

/// All adapters of an engine.
pub(crate) struct Adapters {
    /// By layer, then by product.
    layers: Vec<[Option<Stack>; 4]>,
    /// By product: which adapter (from 1) each rank belongs to, `[ranks]`. The same in all layers.
    owner: [Option<Tensor>; 4],
    count: u32,
    kind: Kind,
    device: Device,
}

/// Which ranks the tokens of one step use.
pub(crate) struct Active {
    adapters: std::ops::Range<u32>,
    /// By product, `[tokens, ranks of `adapters`]`: true where the rank is another adapter's.
    others: [Option<Tensor>; 4],
}

impl Adapters {
    pub fn new(layers: usize, kind: Kind, device: Device) -> Self {
        let layers = (0..layers).map(|_| [const { None }; 4]).collect();
        Self { layers, owner: [const { None }; 4], count: 0, kind, device }
    }

    /// Appends one, by layer and product.
    pub fn add(&mut self, adapter: Vec<[Option<Stacked>; 4]>) {
        let _guard = tch::no_grad_guard();
        self.count += 1;
        for (layer, parts) in self.layers.iter_mut().zip(adapter) {
            for (stack, part) in layer.iter_mut().zip(parts) {
                let part = part.map(|s| Pair::new(&s, self.kind, self.device));
                let ranks = part.as_ref().map_or(0, |p| p.a.size()[0]);
                // adapters that leave this product alone have no ranks in it
                let before = || vec![0; self.count as usize];
                *stack = match (stack.take(), part) {
                    (None, None) => None,
                    (None, Some(pair)) => Some(Stack { pair, before: before() }),
                    (Some(s), None) => Some(s),
                    (Some(s), Some(new)) => Some(Stack {
                        pair: Pair {
                            a: Tensor::cat(&[s.pair.a, new.a], 0),
                            b: Tensor::cat(&[s.pair.b, new.b], 1).contiguous(),
                        },
                        before: s.before,
                    }),
                };
                if let Some(s) = stack {
                    s.before.push(s.before.last().copied().unwrap_or(0) + ranks);
                }
            }
        }
        for group in Group::ALL {
            let stack = self.layers.first().and_then(|l| l[group as usize].as_ref());
            self.owner[group as usize] = stack.map(|s| {
                let owners: Vec<i64> = s
                    .before
                    .windows(2)
                    .zip(1..)
                    .flat_map(|(w, adapter)| std::iter::repeat_n(adapter, (w[1] - w[0]) as usize))
                    .collect();
                Tensor::from_slice(&owners).to_device(self.device)
            });
        }
    }

    /// For a step whose tokens have adapters `of` `[tokens]`, all of them in `range`, or none (0).
    pub fn active(&self, of: &Tensor, range: &std::ops::Range<u32>) -> Active {
        let others = Group::ALL.map(|group| {
            let stack = self.layers.first().and_then(|l| l[group as usize].as_ref())?;
            let (first, ranks) = stack.ranks(range);
            let owner = self.owner[group as usize].as_ref()?.narrow(0, first, ranks);
            (ranks > 0).then(|| owner.unsqueeze(0).ne_tensor(&of.unsqueeze(1)))
        });
        Active { adapters: range.clone(), others }
    }

    /// `y` `[tokens, out]` plus what each token's adapter adds to a product of `x` `[tokens, in]`.
    pub fn on(&self, y: Tensor, x: &Tensor, layer: usize, group: Group, active: &Active) -> Tensor {
        let (Some(stack), Some(others)) =
            (&self.layers[layer][group as usize], &active.others[group as usize])
        else {
            return y;
        };
        let (first, ranks) = stack.ranks(&active.adapters);
        let low = x.linear(&stack.pair.a.narrow(0, first, ranks), None::<&Tensor>);
        // filled, not multiplied: another adapter may overflow where its own would not
        let low = low.masked_fill(others, 0.0);
        y.addmm(&low, &stack.pair.b.narrow(1, first, ranks).tr())
    }
}

impl Stack {
    /// First rank and number of ranks of adapters `range` (from 1).
    fn ranks(&self, range: &std::ops::Range<u32>) -> (i64, i64) {
        let at = |adapter: u32| self.before[adapter as usize - 1];
        (at(range.start), at(range.end) - at(range.start))
    }
}
