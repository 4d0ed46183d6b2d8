//! A step laid out on the host: one flat list of tokens for everything but attention, and bands of sequences of about
//! the same length for attention. All its numbers go to the device in one copy.

use crate::paged::Piece;
use crate::pages::PAGE;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Queries of one row of a band: longer pieces become several rows, each of which sees only the pages up to its own end.
/// It bounds the memory of scores and masks and saves half of a long prompt's attention.
const QUERIES: usize = 512;

/// Keys to gather, and query-key pairs, that padding may add to a band whatever it does; beyond, only rows of at least
/// half the longest one's size join it. Another band costs a few kernel launches per layer, some 50 us of a V100: these
/// take it as long, by its bandwidth and peak.
const SLACK_KEYS: usize = 1 << 10;
const SLACK_PAIRS: usize = 1 << 16;

/// Up to [`QUERIES`] tokens of one sequence.
struct Row<'a> {
    piece: usize,
    tokens: &'a [u32],
    position: usize,
    table: &'a [u32],
    adapter: u32,
    wanted: bool,
}

impl Row<'_> {
    /// Keys that its last token has before it, itself included.
    fn end(&self) -> usize {
        self.position + self.tokens.len()
    }
}

/// Rows that attend together.
pub(crate) struct Band {
    /// First token in the flat list, and how many.
    pub first: i64,
    pub tokens: i64,
    pub rows: i64,
    /// Queries of the longest row.
    pub queries: i64,
    /// Where rows differ in length: for each `[rows * queries]` the token of the band, and for each token of the band
    /// its place in that.
    pub ragged: Option<(Tensor, Tensor)>,
    /// By place in [`Plan::windows`], which of `sights` holds.
    pub sight: Vec<usize>,
    pub sights: Vec<Sight>,
}

/// What the rows of a band see under one window.
pub(crate) struct Sight {
    /// Pages, `[rows * n]`.
    pub table: Tensor,
    /// Added to the scores, `[1, rows, 1 or group * queries, n * page]`.
    pub mask: Tensor,
}

/// A step on the device. Tokens are in the order of the bands.
pub(crate) struct Plan {
    /// `[tokens]` each.
    pub ids: Tensor,
    pub positions: Tensor,
    /// Where keys and values go: page times page size plus place.
    pub places: Tensor,
    /// Adapter of each token; `None` where no token has one.
    pub adapters: Option<Tensor>,
    /// Lowest and highest adapter of the step.
    pub range: Range<u32>,
    /// Tokens whose logits are asked for, in the order of the pieces.
    pub wanted: Tensor,
    /// One more than the largest position.
    pub length: i64,
    pub bands: Vec<Band>,
}

/// What a plan depends on besides the pieces.
pub(crate) struct Terms<'a> {
    /// The different windows of the layers.
    pub windows: &'a [Option<i64>],
    /// Query heads that share a key.
    pub group: i64,
    pub kind: Kind,
    pub device: Device,
}

/// Numbers that go to the device together.
#[derive(Default)]
struct Numbers(Vec<i64>);

impl Numbers {
    fn add(&mut self, these: impl IntoIterator<Item = i64>) -> Range<usize> {
        let from = self.0.len();
        self.0.extend(these);
        from..self.0.len()
    }
}

fn part(all: &Tensor, range: &Range<usize>) -> Tensor {
    all.narrow(0, range.start as i64, range.len() as i64)
}

/// Pages of a gathered row: few different numbers, so that shapes repeat and the allocator's blocks fit again.
fn bucket(pages: usize) -> usize {
    pages.next_multiple_of((pages.next_power_of_two() / 8).max(4))
}

/// Where in the numbers one band's sight is.
struct SightAt {
    table: Range<usize>,
    /// Position of the first gathered key, by row.
    start: Range<usize>,
    window: Option<i64>,
    pages: usize,
}

struct BandAt {
    rows: usize,
    queries: usize,
    first: usize,
    tokens: usize,
    ragged: Option<(Range<usize>, Range<usize>)>,
    /// Position of every query, `[rows * queries]`.
    asked: Range<usize>,
    sight: Vec<usize>,
    sights: Vec<SightAt>,
}

impl Plan {
    pub fn new(pieces: &[Piece<'_>], terms: &Terms<'_>) -> Self {
        let mut rows = rows(pieces);
        // long ones first, so that neighbours are alike in queries and then in keys
        rows.sort_by_key(|r| {
            std::cmp::Reverse((r.tokens.len().next_power_of_two(), bucket(r.end().div_ceil(PAGE))))
        });
        let mut n = Numbers::default();
        let ids = n.add(rows.iter().flat_map(|r| r.tokens).map(|&id| i64::from(id)));
        let positions = n.add(rows.iter().flat_map(|r| r.position..r.end()).map(|p| p as i64));
        let places = n.add(rows.iter().flat_map(|r| {
            (r.position..r.end()).map(|p| i64::from(r.table[p / PAGE]) * PAGE as i64 + (p % PAGE) as i64)
        }));
        let used = || rows.iter().map(|r| r.adapter).filter(|&a| a > 0);
        let range = used().min().unwrap_or(0)..used().max().map_or(0, |a| a + 1);
        let adapters = (!range.is_empty()).then(|| {
            n.add(rows.iter().flat_map(|r| std::iter::repeat_n(i64::from(r.adapter), r.tokens.len())))
        });
        let mut last = vec![None; pieces.len()];
        let mut at = 0;
        for row in &rows {
            at += row.tokens.len();
            if row.wanted {
                last[row.piece] = Some(at as i64 - 1);
            }
        }
        let wanted = n.add(last.into_iter().flatten());
        let length = rows.iter().map(Row::end).max().unwrap_or(0) as i64;
        let mut first = 0;
        let bands: Vec<BandAt> = bands(&rows)
            .into_iter()
            .map(|band| {
                let at = lay(&rows[band], first, terms.windows, &mut n);
                first += at.tokens;
                at
            })
            .collect();
        let all = Tensor::from_slice(&n.0).to_device(terms.device);
        Self {
            ids: part(&all, &ids),
            positions: part(&all, &positions),
            places: part(&all, &places),
            adapters: adapters.map(|range| part(&all, &range)),
            range,
            wanted: part(&all, &wanted),
            length,
            bands: bands.iter().map(|b| b.on(&all, terms)).collect(),
        }
    }
}

fn rows<'a>(pieces: &[Piece<'a>]) -> Vec<Row<'a>> {
    let mut out = Vec::with_capacity(pieces.len());
    for (piece, p) in pieces.iter().enumerate() {
        let parts = p.tokens.chunks(QUERIES).count();
        out.extend(p.tokens.chunks(QUERIES).enumerate().map(|(i, tokens)| {
            let position = p.position + i * QUERIES;
            Row {
                piece,
                tokens,
                position,
                table: &p.table[..(position + tokens.len()).div_ceil(PAGE)],
                adapter: p.adapter,
                wanted: p.wanted() && i + 1 == parts,
            }
        }));
    }
    out
}

/// What the rows of a band have to look at.
#[derive(Clone, Copy, Default)]
struct Work {
    rows: usize,
    keys: usize,
    pairs: usize,
    most_queries: usize,
    most_keys: usize,
}

impl Work {
    fn with(self, row: &Row<'_>) -> Self {
        let (queries, keys) = (row.tokens.len(), row.end());
        Self {
            rows: self.rows + 1,
            keys: self.keys + keys,
            pairs: self.pairs + queries * keys,
            most_queries: self.most_queries.max(queries),
            most_keys: self.most_keys.max(keys),
        }
    }

    /// Whether `row`, now among them, is padded to more than twice its size while padding is more than it may be anyhow.
    fn wasteful(self, row: &Row<'_>) -> bool {
        let (own_keys, most_pairs) = (row.end(), self.most_queries * self.most_keys);
        let own_pairs = row.tokens.len() * own_keys;
        (self.most_keys > 2 * own_keys && self.rows * self.most_keys > self.keys + SLACK_KEYS)
            || (most_pairs > 2 * own_pairs && self.rows * most_pairs > self.pairs + SLACK_PAIRS)
    }
}

/// Cuts sorted rows into bands.
fn bands(rows: &[Row<'_>]) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let (mut from, mut work) = (0, Work::default());
    for (i, row) in rows.iter().enumerate() {
        let with = work.with(row);
        work = if i > from && with.wasteful(row) {
            out.push(from..i);
            from = i;
            Work::default().with(row)
        } else {
            with
        };
    }
    if from < rows.len() {
        out.push(from..rows.len());
    }
    out
}

/// Writes down what a band needs.
fn lay(rows: &[Row<'_>], first: usize, windows: &[Option<i64>], n: &mut Numbers) -> BandAt {
    let tokens = rows.iter().map(|r| r.tokens.len()).sum();
    let queries = rows.iter().map(|r| r.tokens.len()).max().unwrap_or(0);
    let longest = rows.iter().map(Row::end).max().unwrap_or(0);
    // the places behind a row's own queries repeat its last one
    let ragged = rows.iter().any(|r| r.tokens.len() != queries).then(|| {
        let firsts: Vec<usize> = rows
            .iter()
            .scan(0, |at, r| {
                *at += r.tokens.len();
                Some(*at - r.tokens.len())
            })
            .collect();
        let spread =
            n.add(rows.iter().zip(&firsts).flat_map(|(r, first)| {
                (0..queries).map(move |i| (first + i.min(r.tokens.len() - 1)) as i64)
            }));
        let back = n.add(
            rows.iter()
                .enumerate()
                .flat_map(|(row, r)| (0..r.tokens.len()).map(move |i| (row * queries + i) as i64)),
        );
        (spread, back)
    });
    let asked = n
        .add(rows.iter().flat_map(|r| (0..queries).map(|i| (r.position + i.min(r.tokens.len() - 1)) as i64)));
    let mut sights: Vec<SightAt> = Vec::new();
    let sight = windows
        .iter()
        .map(|window| {
            let window = window.filter(|w| (*w as usize) < longest);
            if let Some(known) = sights.iter().position(|s| s.window == window) {
                return known;
            }
            // pages before a window are not looked at
            let start =
                |r: &Row<'_>| window.map_or(0, |w| (r.position + 1).saturating_sub(w as usize)) / PAGE;
            let used = |r: &Row<'_>| r.end().div_ceil(PAGE) - start(r);
            let pages = bucket(rows.iter().map(used).max().unwrap_or(0));
            let table = n.add(rows.iter().flat_map(|r| {
                let own = &r.table[start(r)..];
                // what fills the row up is masked
                own.iter().chain(std::iter::repeat(&own[0])).take(pages).map(|&page| i64::from(page))
            }));
            let start = n.add(rows.iter().map(|r| (start(r) * PAGE) as i64));
            sights.push(SightAt { table, start, window, pages });
            sights.len() - 1
        })
        .collect();
    BandAt { rows: rows.len(), queries, first, tokens, ragged, asked, sight, sights }
}

impl BandAt {
    fn on(&self, all: &Tensor, terms: &Terms<'_>) -> Band {
        let (rows, queries) = (self.rows as i64, self.queries as i64);
        let asked = part(all, &self.asked).view([rows, queries, 1]);
        let sights = self.sights.iter().map(|s| {
            let length = (s.pages * PAGE) as i64;
            let column = Tensor::arange(length, (Kind::Int64, terms.device)).view([1, 1, length]);
            let column = column + part(all, &s.start).view([rows, 1, 1]);
            let mut hidden = column.gt_tensor(&asked);
            if let Some(w) = s.window {
                hidden = hidden.logical_or(&column.le_tensor(&(&asked - w)));
            }
            let mask = Tensor::zeros([rows, queries, length], (terms.kind, terms.device))
                .masked_fill(&hidden, f64::NEG_INFINITY);
            let mask = if queries == 1 {
                mask.view([1, rows, 1, length])
            } else {
                mask.unsqueeze(1).expand([rows, terms.group, queries, length], false).reshape([
                    1,
                    rows,
                    terms.group * queries,
                    length,
                ])
            };
            Sight { table: part(all, &s.table), mask }
        });
        Band {
            first: self.first as i64,
            tokens: self.tokens as i64,
            rows,
            queries,
            ragged: self.ragged.as_ref().map(|(spread, back)| (part(all, spread), part(all, back))),
            sight: self.sight.clone(),
            sights: sights.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(lengths: &[(usize, usize)]) -> Vec<usize> {
        let (tokens, table) = (vec![5; 4096], vec![0; 4096]);
        let pieces: Vec<Piece<'_>> = lengths
            .iter()
            .map(|&(n, end)| Piece {
                tokens: &tokens[..n],
                position: end - n,
                table: &table[..end.div_ceil(PAGE)],
                adapter: 0,
                ask: crate::paged::Ask::Row,
            })
            .collect();
        let terms = Terms { windows: &[None], group: 1, kind: Kind::Float, device: Device::Cpu };
        let plan = Plan::new(&pieces, &terms);
        let tokens: i64 = plan.bands.iter().map(|b| b.tokens).sum();
        assert_eq!(tokens, lengths.iter().map(|l| l.0 as i64).sum::<i64>());
        plan.bands.iter().map(|b| b.rows as usize).collect()
    }

    #[test]
    fn rows_of_about_the_same_length_attend_together_and_others_do_not() {
        // next tokens of 8 sequences that are alike, and of one that is far longer
        let mut decode: Vec<(usize, usize)> = (0..8).map(|i| (1, 300 + 20 * i)).collect();
        assert_eq!(cut(&decode), [8]);
        decode.push((1, 4000));
        assert_eq!(cut(&decode), [1, 8]);
        // little ones are not worth a band of their own
        assert_eq!(cut(&[(1, 40), (1, 500), (1, 3)]), [3]);
        // a long prompt is four rows, each with the keys up to its end; a next token beside it is another band
        assert_eq!(cut(&[(2000, 2000), (1, 30)]), [3, 1, 1]);
        assert_eq!(cut(&[(300, 4000), (16, 16)]), [1, 1]);
    }

    #[test]
    fn gathered_lengths_are_few_and_never_more_than_a_quarter_too_long() {
        let all: std::collections::BTreeSet<usize> = (1..=1024).map(bucket).collect();
        assert!(all.len() < 48, "{}", all.len());
        for pages in 16..=1024 {
            let b = bucket(pages);
            assert!(b >= pages && b * PAGE <= pages * PAGE * 5 / 4, "{pages} {b}");
        }
    }
}
