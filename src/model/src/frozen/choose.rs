//! Next tokens where the logits are. A row of logits stays on the GPU: what the host gets is its largest logit, its sums by
//! block and, where only some tokens may be drawn, the heaviest of them; the draw itself is that of [`sampler`].

use crate::error::{Error, Result};
use crate::native::ops::BLOCK;
use crate::paged::{Choice, Draw};
use crate::sampler::{self, Head};
use tch::{Kind, Tensor};

/// Tokens that are fetched beyond those of top-k: equal logits at its edge, of which the first ones count.
const SPARE: usize = 64;
/// Tokens that are fetched for top-p and min-p alone; they are enough nearly always.
const NUCLEUS: usize = 512;
/// Most tokens of a row that are fetched this way; with a larger top-k the whole row is.
const MOST: usize = 2048;

/// How a row's token is found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Greedy,
    /// From all tokens.
    Whole,
    /// From so many of the heaviest ones.
    Head(usize),
}

/// `None`: the host has to see the whole row.
fn way(draw: &Draw<'_>, vocab: usize) -> Option<Way> {
    let s = draw.sampling;
    if s.repetition_penalty != 1.0 {
        return None;
    }
    if s.temperature == 0.0 {
        return Some(Way::Greedy);
    }
    if !sampler::truncates(s) {
        return Some(Way::Whole);
    }
    let n = if s.top_k > 0 { s.top_k as usize + SPARE } else { NUCLEUS }.min(vocab);
    (n <= MOST).then_some(Way::Head(n))
}

/// What the host knows of a row after the first copy.
struct Seen<'a> {
    max: f32,
    /// Of all weights at temperature 1.
    sum: f64,
    /// Weights by block at the row's temperature.
    blocks: &'a [f64],
    first: &'a [f64],
    logits: &'a [f64],
    ids: &'a [f64],
}

/// Chooses from `logits` `[rows, vocab]` in fp32 for every row that has a draw; `None` for the others, and where the host has
/// to see the row.
///
/// # Errors
/// libtorch's words.
pub(super) fn choose(logits: &Tensor, draws: &[Option<Draw<'_>>]) -> Result<Vec<Option<Choice>>> {
    let mut chosen = vec![None; draws.len()];
    let vocab = usize::try_from(logits.size2()?.1).unwrap_or(0);
    let rows: Vec<(usize, Draw<'_>, Way)> = draws
        .iter()
        .enumerate()
        .filter_map(|(row, draw)| draw.and_then(|draw| Some((row, draw, way(&draw, vocab)?))))
        .collect();
    if rows.is_empty() {
        return Ok(chosen);
    }
    let x = picked(logits, rows.iter().map(|r| r.0), draws.len())?;
    let table = Table::of(&x, &rows, vocab)?;
    // rows whose token is in a block that has to be fetched: (place, block, weight before the token in it)
    let mut blocks: Vec<(usize, usize, f64)> = Vec::new();
    for (i, (row, draw, way)) in rows.iter().enumerate() {
        let seen = table.row(i);
        if !seen.max.is_finite() || !seen.sum.is_finite() {
            chosen[*row] = Some(None);
            continue;
        }
        let log_sum = f64::from(seen.max) + seen.sum.ln();
        let said = |token: u32, logit: f32| Some(Some((token, (f64::from(logit) - log_sum) as f32)));
        match way {
            Way::Greedy => chosen[*row] = said(seen.first[0] as u32, seen.max),
            Way::Whole => {
                let (block, rest) = sampler::block_of(seen.blocks, draw.u);
                blocks.push((i, block, rest));
            }
            Way::Head(n) => {
                let ids: Vec<u32> = seen.ids[..*n].iter().map(|&id| id as u32).collect();
                let logits: Vec<f32> = seen.logits[..*n].iter().map(|&x| x as f32).collect();
                let mass = seen.blocks.iter().sum();
                let head = Head { ids: &ids, logits: &logits, max: seen.max, mass, all: *n == vocab };
                let at = sampler::draw_from(&head, draw.sampling, draw.u);
                chosen[*row] = at.and_then(|at| said(ids[at], logits[at]));
            }
        }
    }
    let parts = fetch(&x, &blocks, vocab)?;
    for (&(i, block, rest), part) in blocks.iter().zip(parts.chunks_exact(BLOCK)) {
        let (row, draw, _) = &rows[i];
        let seen = table.row(i);
        let part = &part[..BLOCK.min(vocab - block * BLOCK)];
        let at = sampler::draw_in(part, seen.max, draw.sampling.temperature, rest);
        let log_sum = f64::from(seen.max) + seen.sum.ln();
        let logprob = (f64::from(part[at]) - log_sum) as f32;
        chosen[*row] = Some(Some(((block * BLOCK + at) as u32, logprob)));
    }
    Ok(chosen)
}

/// Logits of the rows that have not been chosen, one after the other.
///
/// # Errors
/// libtorch's words.
pub(super) fn rest(logits: &Tensor, chosen: &[Option<Choice>]) -> Result<Vec<f32>> {
    let open = chosen.iter().enumerate().filter(|(_, c)| c.is_none()).map(|(row, _)| row);
    let x = picked(logits, open, chosen.len())?;
    Ok(Vec::<f32>::try_from(x.f_reshape([-1])?)?)
}

/// Some of `all` rows.
fn picked(logits: &Tensor, rows: impl Iterator<Item = usize>, all: usize) -> Result<Tensor> {
    let rows: Vec<i64> = rows.map(|row| row as i64).collect();
    if rows.len() == all {
        return Ok(logits.shallow_clone());
    }
    Ok(logits.f_index_select(0, &Tensor::from_slice(&rows).to_device(logits.device()))?)
}

/// What is copied of all rows: `[rows, width]`.
struct Table {
    numbers: Vec<f64>,
    width: usize,
    /// Columns of the parts.
    blocks: std::ops::Range<usize>,
    first: std::ops::Range<usize>,
    head: usize,
}

impl Table {
    /// One copy for all rows.
    fn of(x: &Tensor, rows: &[(usize, Draw<'_>, Way)], vocab: usize) -> Result<Self> {
        let last: &[i64] = &[-1];
        let max = x.f_amax(last, true)?;
        let shifted = x.f_sub(&max)?;
        let sum = shifted.f_exp()?.f_sum_dim_intlist(last, true, Kind::Double)?;
        let mut parts = vec![max.to_kind(Kind::Double), sum];
        let mut width = 2;
        let mut add = |part: Tensor, n: usize| {
            parts.push(part.to_kind(Kind::Double));
            width += n;
            width - n..width
        };
        // the mass is asked for where top-k does not say it, see `sampler::Head`
        let by_block = |r: &(usize, Draw<'_>, Way)| r.2 == Way::Whole || r.1.sampling.top_p < 1.0;
        let mut blocks = 0..0;
        if rows.iter().any(by_block) {
            let scales: Vec<f32> = rows
                .iter()
                .map(|r| if r.2 == Way::Greedy { 1.0 } else { (1.0 / r.1.sampling.temperature) as f32 })
                .collect();
            let scales = Tensor::from_slice(&scales).to_device(x.device()).unsqueeze(1);
            let weights = shifted.f_mul(&scales)?.f_exp_()?;
            let n = vocab.div_ceil(BLOCK);
            let missing = (n * BLOCK - vocab) as i64;
            let weights = if missing > 0 { weights.f_constant_pad_nd([0, missing])? } else { weights };
            let weights = weights.f_view([rows.len() as i64, n as i64, BLOCK as i64])?;
            blocks = add(weights.f_sum_dim_intlist(last, false, Kind::Double)?, n);
        }
        let mut first = 0..0;
        if rows.iter().any(|r| r.2 == Way::Greedy) {
            first = add(x.f_argmax(-1, true)?, 1);
        }
        let head = rows.iter().map(|r| if let Way::Head(n) = r.2 { n } else { 0 }).max().unwrap_or(0);
        if head > 0 {
            let (logits, ids) = x.f_topk(head as i64, -1, true, true)?;
            add(logits, head);
            add(ids, head);
        }
        let numbers = Vec::<f64>::try_from(Tensor::f_cat(&parts, 1)?.f_reshape([-1])?)?;
        Ok(Self { numbers, width, blocks, first, head })
    }

    fn row(&self, i: usize) -> Seen<'_> {
        let row = &self.numbers[i * self.width..(i + 1) * self.width];
        let (logits, ids) = row[self.width - 2 * self.head..].split_at(self.head);
        Seen {
            max: row[0] as f32,
            sum: row[1],
            blocks: &row[self.blocks.clone()],
            first: &row[self.first.clone()],
            logits,
            ids,
        }
    }
}

/// Blocks of logits, given by row and number, each [`BLOCK`] long; what lies beyond a row's end is something else.
fn fetch(x: &Tensor, blocks: &[(usize, usize, f64)], vocab: usize) -> Result<Vec<f32>> {
    if blocks.is_empty() {
        return Ok(Vec::new());
    }
    let starts: Vec<i64> =
        blocks.iter().map(|&(row, block, _)| (row * vocab + block * BLOCK) as i64).collect();
    let starts = Tensor::from_slice(&starts).to_device(x.device()).unsqueeze(1);
    let places = starts.f_add(&Tensor::f_arange(BLOCK as i64, (Kind::Int64, x.device()))?)?;
    let places = places.f_clamp_max((x.numel() - 1) as i64)?.f_reshape([-1])?;
    let flat = x.f_reshape([-1])?;
    Vec::<f32>::try_from(flat.f_index_select(0, &places)?).map_err(Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use generate::Sampling;
    use tch::Device;

    /// Samplings of every way, and mixtures of them.
    fn samplings() -> Vec<Sampling> {
        let plain = Sampling::default();
        vec![
            plain.clone(),
            Sampling { temperature: 0.0, ..plain.clone() },
            Sampling { temperature: 0.7, ..plain.clone() },
            Sampling { temperature: 1.8, ..plain.clone() },
            Sampling { top_k: 1, ..plain.clone() },
            Sampling { top_k: 40, temperature: 0.8, ..plain.clone() },
            Sampling { top_k: 40, top_p: 0.6, ..plain.clone() },
            Sampling { top_k: 30, min_p: 0.2, ..plain.clone() },
            Sampling { top_p: 0.5, temperature: 0.6, ..plain.clone() },
            Sampling { top_p: 0.95, min_p: 0.05, ..plain.clone() },
            Sampling { min_p: 0.3, temperature: 1.3, ..plain },
        ]
    }

    /// Rows of `vocab` logits; `coarse`: in bf16's steps, so that many are equal.
    fn logits(rows: usize, vocab: usize, coarse: bool) -> Tensor {
        tch::manual_seed((rows + vocab) as i64);
        let x = Tensor::randn([rows as i64, vocab as i64], (Kind::Float, Device::Cpu)) * 3.0;
        if coarse { x.to_kind(Kind::BFloat16).to_kind(Kind::Float) } else { x }
    }

    fn row(x: &Tensor, i: usize) -> Vec<f32> {
        Vec::try_from(x.select(0, i as i64)).unwrap()
    }

    #[test]
    fn every_way_chooses_what_the_host_chooses_from_the_whole_row() {
        let samplings = samplings();
        // a last block that is not full, full ones, fewer tokens than are fetched
        for (vocab, coarse) in [(3000, false), (3000, true), (2048, true), (100, false), (100, true)] {
            let rows = 30 * samplings.len();
            let x = logits(rows, vocab, coarse);
            let draws: Vec<Option<Draw<'_>>> = (0..rows)
                .map(|i| {
                    let sampling = &samplings[i % samplings.len()];
                    Some(Draw { sampling, u: sampler::uniform(5, i as u64) })
                })
                .collect();
            let got = choose(&x, &draws).unwrap();
            let mut whole = 0;
            for (i, (got, draw)) in got.iter().zip(&draws).enumerate() {
                let draw = draw.unwrap();
                let want = sampler::choose(&row(&x, i), draw.sampling, &[], draw.u).unwrap();
                let Some(got) = got else {
                    whole += 1;
                    continue;
                };
                let got = got.unwrap();
                assert_eq!(got.0, want.0, "{vocab} {coarse} {:?}", draw.sampling);
                assert!((got.1 - want.1).abs() < 1e-5, "{got:?} {want:?}");
            }
            // a nucleus of many equal or nearly equal tokens
            assert!(whole * 20 < rows, "{vocab} {coarse}: {whole} of {rows} rows were left to the host");
        }
    }

    #[test]
    fn equal_logits_go_by_their_place_and_what_cannot_be_told_is_left_to_the_host() {
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        let second = Sampling { top_k: 2, ..Sampling::default() };
        let zeros = Tensor::zeros([2, 3000], (Kind::Float, Device::Cpu));
        let draws = [Some(Draw { sampling: &greedy, u: 0.5 }), Some(Draw { sampling: &second, u: 0.9 })];
        let got = choose(&zeros, &draws).unwrap();
        assert_eq!(got[0].unwrap().unwrap().0, 0);
        assert_eq!(got[1], None, "more equal ones than were fetched");
        // fewer: the first of them
        let few = zeros.shallow_clone();
        let _ = few.narrow(1, 10, 60).fill_(1.0);
        let got = choose(&few, &draws).unwrap();
        assert_eq!(got[0].unwrap().unwrap().0, 10);
        assert_eq!(got[1].unwrap().unwrap().0, 11);
    }

    #[test]
    fn rows_that_are_asked_for_stay_rows_and_what_is_not_finite_is_nothing() {
        let x = logits(6, 700, false);
        let _ = x.narrow(0, 2, 1).narrow(1, 5, 1).fill_(f64::NAN);
        let _ = x.narrow(0, 3, 1).narrow(1, 600, 1).fill_(f64::INFINITY);
        let plain = Sampling::default();
        let penalised = Sampling { repetition_penalty: 1.1, ..plain.clone() };
        let large = Sampling { top_k: 5000, ..plain.clone() };
        let draw = |sampling| Some(Draw { sampling, u: 0.3 });
        let draws = [None, draw(&plain), draw(&plain), draw(&plain), draw(&penalised), draw(&large)];
        let got = choose(&x, &draws).unwrap();
        assert!(got[0].is_none() && got[4].is_none());
        assert!(
            got[1].unwrap().is_some() && got[5].unwrap().is_some(),
            "a top-k beyond the vocabulary is all of it"
        );
        assert_eq!((got[2], got[3]), (Some(None), Some(None)));
        assert_eq!(rest(&x, &got).unwrap(), [row(&x, 0), row(&x, 4)].concat());
        let all: Vec<f32> = Vec::try_from(x.narrow(0, 0, 2).reshape([-1])).unwrap();
        assert_eq!(
            rest(&x.narrow(0, 0, 2), &choose(&x.narrow(0, 0, 2), &[None, None]).unwrap()).unwrap(),
            all
        );
    }

    #[test]
    fn draws_follow_the_softmax_by_chi_square() {
        let x = logits(1, 3000, false);
        let (draws, temperature) = (15_000, 0.9);
        let sampling = Sampling { temperature, ..Sampling::default() };
        let one: Vec<f64> = row(&x, 0).iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
        let total: f64 = one.iter().sum();
        // 30 groups of 100 neighbours: 29 degrees of freedom
        let mut counts = [0u64; 30];
        let many = x.expand([500, 3000], false).contiguous();
        for batch in 0..draws / 500 {
            let asked: Vec<_> = (0..500)
                .map(|i| Some(Draw { sampling: &sampling, u: sampler::uniform(13, batch * 500 + i) }))
                .collect();
            for choice in choose(&many, &asked).unwrap() {
                counts[choice.unwrap().unwrap().0 as usize / 100] += 1;
            }
        }
        let chi: f64 = counts
            .iter()
            .zip(one.chunks(100))
            .map(|(&n, part)| {
                let want = draws as f64 * part.iter().sum::<f64>() / total;
                (n as f64 - want).powi(2) / want
            })
            .sum();
        assert!(chi < 58.3, "chi-square {chi} with 29 degrees of freedom exceeds the 0.999 quantile");
    }
}
