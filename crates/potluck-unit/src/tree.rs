//! The Merkle tree below a batch of receipts: its root, and the path from one leaf to it.
//!
//! A level's odd last node moves up unchanged. Nodes hash under a domain of their own, so that none
//! passes for a leaf.

/// The root of a tree over `leaves`; zeros if there are none.
pub(crate) fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = above(&level);
    }
    level.first().copied().unwrap_or([0; 32])
}

/// The neighbours that lead from leaf `at` up to the root, lowest first.
pub(crate) fn path(leaves: &[[u8; 32]], mut at: usize) -> Vec<[u8; 32]> {
    let (mut level, mut path) = (leaves.to_vec(), Vec::new());
    while level.len() > 1 {
        path.extend(level.get(at ^ 1));
        level = above(&level);
        at /= 2;
    }
    path
}

/// The root of the tree of `count` leaves that has `leaf` at `at`, if `path` is as long as it must
/// be.
pub(crate) fn climb(
    leaf: [u8; 32],
    mut at: usize,
    mut count: usize,
    path: &[[u8; 32]],
) -> Option<[u8; 32]> {
    if at >= count {
        return None;
    }
    let (mut here, mut path) = (leaf, path.iter());
    while count > 1 {
        if at ^ 1 < count {
            let other = path.next()?;
            here = if at & 1 == 0 { node(&here, other) } else { node(other, &here) };
        }
        (at, count) = (at / 2, count.div_ceil(2));
    }
    path.next().is_none().then_some(here)
}

fn above(level: &[[u8; 32]]) -> Vec<[u8; 32]> {
    let pairs = level.chunks(2);
    pairs.map(|pair| if let [left, right] = pair { node(left, right) } else { pair[0] }).collect()
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("potluck receipt node v1");
    hasher.update(left);
    hasher.update(right);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<[u8; 32]> {
        (0..count).map(|n| [n; 32]).collect()
    }

    #[test]
    fn every_path_leads_to_the_root_and_no_other_does() {
        for count in 1..=33 {
            let leaves = leaves(count);
            let root = root(&leaves);
            for at in 0..leaves.len() {
                let path = path(&leaves, at);
                let to = |at, count, path: &[_]| climb(leaves[at], at, count, path);
                assert_eq!(to(at, leaves.len(), &path), Some(root), "{at} of {count}");
                let longer = [&path[..], &[[7; 32]]].concat();
                assert_eq!(to(at, leaves.len(), &longer), None);
                if let Some((_, shorter)) = path.split_last() {
                    assert_eq!(to(at, leaves.len(), shorter), None);
                    assert_ne!(climb([99; 32], at, leaves.len(), &path), Some(root));
                }
            }
            assert_eq!(climb(leaves[0], leaves.len(), leaves.len(), &[]), None);
        }
    }
}
