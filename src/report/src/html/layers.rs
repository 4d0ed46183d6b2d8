//! Layered drawing of a directed acyclic graph: layer by longest path, order by barycentres, heights by least squares.

/// Where a node goes: its layer, and its height in units of one row (not necessarily whole).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    pub layer: usize,
    pub row: f64,
}

/// Edges (from, to) that no longer path implies. The graph's nodes are 0..n in topological order.
pub fn reduced(n: usize, edges: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let words = n.div_ceil(64);
    let mut reach = vec![vec![0u64; words]; n]; // everything that node i can reach
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); n];
    for &(a, b) in edges {
        next[a].push(b);
    }
    let mut kept = Vec::new();
    for a in (0..n).rev() {
        let mut targets = std::mem::take(&mut next[a]);
        targets.sort_unstable();
        targets.dedup();
        // nearest first: what a nearer target reaches needs no edge of its own
        let mut row = vec![0u64; words];
        for b in targets {
            if row[b / 64] >> (b % 64) & 1 == 0 {
                kept.push((a, b));
            }
            row[b / 64] |= 1 << (b % 64);
            for (w, r) in row.iter_mut().zip(&reach[b]) {
                *w |= r;
            }
        }
        reach[a] = row;
    }
    kept.sort_unstable();
    kept
}

/// Places nodes 0..n (topological order). Rows start at 0.
pub fn place(n: usize, edges: &[(usize, usize)]) -> Vec<Place> {
    let mut layer = vec![0usize; n];
    let mut inward: Vec<Vec<usize>> = vec![Vec::new(); n];
    let mut outward: Vec<Vec<usize>> = vec![Vec::new(); n];
    for &(a, b) in edges {
        inward[b].push(a);
        outward[a].push(b);
    }
    for b in 0..n {
        layer[b] = inward[b].iter().map(|&a| layer[a] + 1).max().unwrap_or(0);
    }
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); layer.iter().max().map_or(0, |m| m + 1)];
    for i in 0..n {
        layers[layer[i]].push(i);
    }
    let mut row = vec![0.0f64; n];
    for nodes in &layers {
        for (k, &i) in nodes.iter().enumerate() {
            row[i] = rank(k) - rank(nodes.len() - 1) / 2.0;
        }
    }
    // down and up in turn, each time pulling a layer towards its neighbours
    for round in 0..8 {
        let forward = round % 2 == 0;
        let mut order: Vec<usize> = (0..layers.len()).collect();
        if !forward {
            order.reverse();
        }
        for l in order {
            let neighbours = if forward { &inward } else { &outward };
            let wish = |i: usize| {
                let near = &neighbours[i];
                if near.is_empty() {
                    row[i]
                } else {
                    near.iter().map(|&j| row[j]).sum::<f64>() / rank(near.len())
                }
            };
            let mut wishes: Vec<(f64, usize)> = layers[l].iter().map(|&i| (wish(i), i)).collect();
            wishes.sort_by(|a, b| a.0.total_cmp(&b.0)); // stable: equal wishes keep their order
            let heights = spread(&wishes.iter().map(|w| w.0).collect::<Vec<_>>());
            for ((_, i), h) in wishes.iter().zip(heights) {
                row[*i] = h;
            }
            layers[l] = wishes.into_iter().map(|(_, i)| i).collect();
        }
    }
    let top = row.iter().copied().fold(f64::INFINITY, f64::min);
    (0..n).map(|i| Place { layer: layer[i], row: row[i] - top }).collect()
}

#[allow(clippy::cast_precision_loss)]
fn rank(k: usize) -> f64 {
    k as f64
}

/// Heights nearest to the (ascending) wishes, in the sense of least squares, that are at least one row apart:
/// isotonic regression by pooling neighbours.
fn spread(wishes: &[f64]) -> Vec<f64> {
    let mut pools: Vec<(f64, usize)> = Vec::new(); // sum and size of pooled (wish - rank)
    for (k, w) in wishes.iter().enumerate() {
        pools.push((w - rank(k), 1));
        while let [.., (s1, n1), (s2, n2)] = pools[..]
            && s1 / rank(n1) > s2 / rank(n2)
        {
            pools.truncate(pools.len() - 2);
            pools.push((s1 + s2, n1 + n2));
        }
    }
    let flat = pools.into_iter().flat_map(|(sum, n)| std::iter::repeat_n(sum / rank(n), n));
    flat.enumerate().map(|(k, base)| base + rank(k)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_that_a_longer_path_implies_are_left_out() {
        let edges = [(0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 3), (0, 1)];
        assert_eq!(reduced(4, &edges), [(0, 1), (1, 2), (2, 3)]);
        let diamond = [(0, 1), (0, 2), (1, 3), (2, 3)];
        assert_eq!(reduced(4, &diamond), diamond);
    }

    #[test]
    fn nodes_of_a_layer_never_overlap() {
        // a fan of 30 behind one node, and a chain beside it
        let mut edges: Vec<_> = (1..31).map(|i| (0, i)).collect();
        edges.extend([(0, 31), (31, 32), (30, 32)]);
        let places = place(33, &edges);
        for (i, a) in places.iter().enumerate() {
            assert!(a.row >= -1e-9);
            for b in &places[i + 1..] {
                assert!(a.layer != b.layer || (a.row - b.row).abs() > 0.999, "{a:?} {b:?}");
            }
        }
        for (a, b) in edges {
            assert!(places[a].layer < places[b].layer);
        }
    }

    #[test]
    fn a_chain_is_a_straight_line() {
        let places = place(4, &[(0, 1), (1, 2), (2, 3)]);
        assert!(places.iter().all(|p| p.row.abs() < 1e-9), "{places:?}");
    }

    #[test]
    fn no_nodes_no_places() {
        assert!(place(0, &[]).is_empty());
    }
}
