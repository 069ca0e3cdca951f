//! A set of records by id that knows what any range of it amounts to without looking at each id.
//!
//! Records stand in order in buckets, each with the sum of its ids. A range is some whole buckets,
//! whose sums are added up, and a part of one at either end: of 100,000 records it takes a few
//! thousand additions at most, and nothing is copied.

use potluck_unit::{Fingerprint, IdRange, IdSum, RecordId, Signed};

/// Records in one bucket; a full one is cut in two. Some 1,000 buckets for 100,000 records: as many
/// sums to add as ids to look at in the two buckets at the ends.
const BUCKET_MAX: usize = 128;

/// A set of records, by id.
#[derive(Debug, Default)]
pub(crate) struct RecordSet {
    /// None is empty.
    buckets: Vec<Bucket>,
    len: usize,
}

#[derive(Debug, Default)]
struct Bucket {
    sum: IdSum,
    /// Rising by id. The first eight bytes stand beside the record, which is somewhere else: most
    /// comparisons need no more.
    records: Vec<(u64, Signed)>,
}

/// The first eight bytes of an id as a number that orders as the ids do.
fn prefix(id: &RecordId) -> u64 {
    id.0.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Bucket {
    /// Where the first record not below `id` stands.
    fn at(&self, id: &RecordId) -> usize {
        let key = prefix(id);
        self.records
            .partition_point(|(start, record)| *start < key || (*start == key && record.id() < *id))
    }

    fn last_is_below(&self, id: &RecordId) -> bool {
        let key = prefix(id);
        let below =
            |(start, record): &(u64, Signed)| *start < key || (*start == key && record.id() < *id);
        self.records.last().is_none_or(below)
    }
}

impl RecordSet {
    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first bucket that doesn't end below `id`.
    fn bucket(&self, id: &RecordId) -> usize {
        self.buckets.partition_point(|bucket| bucket.last_is_below(id))
    }

    /// The record with this id.
    pub(crate) fn get(&self, id: &RecordId) -> Option<&Signed> {
        let bucket = self.buckets.get(self.bucket(id))?;
        let (_, record) = bucket.records.get(bucket.at(id))?;
        Some(record).filter(|record| record.id() == *id)
    }

    /// Whether there is a record with this id.
    pub(crate) fn contains(&self, id: &RecordId) -> bool {
        self.get(id).is_some()
    }

    /// Adds a record. False if it is there already.
    pub(crate) fn insert(&mut self, record: &Signed) -> bool {
        let id = record.id();
        if self.buckets.is_empty() {
            self.buckets.push(Bucket::default());
        }
        let at = self.bucket(&id).min(self.buckets.len() - 1);
        let bucket = &mut self.buckets[at];
        let place = bucket.at(&id);
        if bucket.records.get(place).is_some_and(|(_, there)| there.id() == id) {
            return false;
        }
        bucket.records.insert(place, (prefix(&id), record.clone()));
        bucket.sum.add(&id);
        self.len += 1;
        if bucket.records.len() > BUCKET_MAX {
            let records = bucket.records.split_off(BUCKET_MAX / 2);
            let mut upper = Bucket { sum: IdSum::default(), records };
            for (_, record) in &upper.records {
                bucket.sum.subtract(&record.id());
                upper.sum.add(&record.id());
            }
            self.buckets.insert(at + 1, upper);
        }
        true
    }

    /// Takes a record out.
    pub(crate) fn remove(&mut self, id: &RecordId) -> Option<Signed> {
        let at = self.bucket(id);
        let bucket = self.buckets.get_mut(at)?;
        let place = bucket.at(id);
        if bucket.records.get(place)?.1.id() != *id {
            return None;
        }
        let (_, record) = bucket.records.remove(place);
        bucket.sum.subtract(id);
        self.len -= 1;
        if bucket.records.is_empty() {
            self.buckets.remove(at);
        }
        Some(record)
    }

    /// Every record, rising by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Signed> {
        self.buckets.iter().flat_map(|bucket| &bucket.records).map(|(_, record)| record)
    }

    /// The records in a range, rising by id.
    pub(crate) fn range(&self, range: IdRange) -> impl Iterator<Item = &Signed> {
        let first = self.bucket(&range.first);
        let skip = self.buckets.get(first).map_or(0, |bucket| bucket.at(&range.first));
        let records = self.buckets.iter().skip(first).flat_map(|bucket| &bucket.records);
        records
            .skip(skip)
            .map(|(_, record)| record)
            .take_while(move |record| record.id() <= range.last)
    }

    /// The sum of the ids in a range.
    pub(crate) fn sum(&self, range: IdRange) -> IdSum {
        let mut sum = IdSum::default();
        let first = self.bucket(&range.first);
        for (at, bucket) in self.buckets.iter().enumerate().skip(first) {
            let last = bucket.records.last().map(|(_, record)| record.id());
            let from = if at == first { bucket.at(&range.first) } else { 0 };
            if from == 0 && last.is_some_and(|last| last <= range.last) {
                sum.add_all(&bucket.sum);
                continue;
            }
            let ids = bucket.records.iter().skip(from).map(|(_, record)| record.id());
            ids.take_while(|id| *id <= range.last).for_each(|id| sum.add(&id));
            if last.is_none_or(|last| last > range.last) {
                break;
            }
        }
        sum
    }

    /// What a range of the set amounts to.
    pub(crate) fn fingerprint(&self, range: IdRange) -> Fingerprint {
        self.sum(range).fingerprint()
    }

    /// Cuts a range in which there are `count` records into parts with about as many each.
    pub(crate) fn split(
        &self,
        range: IdRange,
        count: usize,
        parts: usize,
    ) -> Vec<(IdRange, Fingerprint)> {
        let size = count.div_ceil(parts).max(1);
        let (mut found, mut rest) = (Vec::with_capacity(parts), range);
        let mut at = self.bucket(&range.first);
        let mut skip = self.buckets.get(at).map_or(0, |bucket| bucket.at(&range.first));
        for rank in (size..count).step_by(size) {
            // The last record of this part and the first of the next, bucket by bucket.
            let mut wanted = skip + size;
            let mut below = None;
            while let Some(bucket) = self.buckets.get(at) {
                if wanted > 0 {
                    below = bucket.records.get(wanted - 1).or(bucket.records.last());
                }
                if wanted < bucket.records.len() {
                    break;
                }
                wanted -= bucket.records.len();
                at += 1;
            }
            skip = wanted;
            let above = self.buckets.get(at).and_then(|bucket| bucket.records.get(skip));
            let (Some((_, below)), Some((_, above))) = (below, above) else {
                debug_assert!(false, "rank {rank} of {count} is not there");
                break;
            };
            let (part, above) = rest.cut(&below.id(), &above.id());
            found.push((part, self.fingerprint(part)));
            rest = above;
        }
        found.push((rest, self.fingerprint(rest)));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use potluck_unit::{Close, JobId, Key, Record};

    use super::*;
    use crate::chance::Chance;

    /// Different records, by id.
    fn records(count: u64) -> BTreeMap<RecordId, Signed> {
        let key = Key::of_secret(&[1; 32]);
        let close = |n: u64| {
            let mut job = JobId([0; 32]);
            job.0[..8].copy_from_slice(&n.to_le_bytes());
            Signed::sign(&key, Record::Close(Close { job, results: None }))
        };
        (0..count).map(close).map(|record| (record.id(), record)).collect()
    }

    fn of(records: &BTreeMap<RecordId, Signed>) -> RecordSet {
        let mut set = RecordSet::default();
        records.values().rev().for_each(|record| assert!(set.insert(record)));
        set
    }

    fn random(chance: &mut Chance) -> RecordId {
        let mut id = RecordId([0; 32]);
        id.0[..8].copy_from_slice(&chance.next_u64().to_be_bytes());
        id
    }

    #[test]
    fn a_range_amounts_to_what_a_look_at_each_id_says() {
        let mut chance = Chance::of_seed(1);
        for count in [0, 1, 63, 64, 65, 2000] {
            let plain = records(count);
            let set = of(&plain);
            assert_eq!(set.len(), plain.len());
            assert!(set.iter().map(Signed::id).eq(plain.keys().copied()));
            for _ in 0..100 {
                let (a, b) = (random(&mut chance), random(&mut chance));
                let range = IdRange { first: a.min(b), last: a.max(b) };
                let ids = || plain.range(range.first..=range.last).map(|(id, _)| id);
                assert_eq!(set.fingerprint(range), Fingerprint::of(ids()));
                assert!(set.range(range).map(Signed::id).eq(ids().copied()));
            }
            assert_eq!(set.fingerprint(IdRange::ALL), Fingerprint::of(plain.keys()));
        }
    }

    #[test]
    fn a_set_is_what_was_put_in_and_not_taken_out() {
        let (all, mut chance) = (records(600), Chance::of_seed(2));
        let (mut set, mut plain) = (RecordSet::default(), BTreeMap::new());
        let ids: Vec<RecordId> = all.keys().copied().collect();
        for _ in 0..10_000 {
            let id = ids[chance.below(600) as usize];
            assert_eq!(set.contains(&id), plain.contains_key(&id));
            if chance.happens(500) {
                assert_eq!(set.insert(&all[&id]), plain.insert(id, ()).is_none());
            } else {
                assert_eq!(
                    set.remove(&id).map(|record| record.id()),
                    plain.remove(&id).map(|()| id)
                );
            }
            assert_eq!(set.len(), plain.len());
            assert!(set.buckets.iter().all(|bucket| bucket.records.len() <= BUCKET_MAX));
        }
        assert_eq!(set.fingerprint(IdRange::ALL), Fingerprint::of(plain.keys()));
    }

    #[test]
    fn the_parts_of_a_range_cover_it_without_overlap() {
        let plain = records(3000);
        let set = of(&plain);
        let mut chance = Chance::of_seed(3);
        let ranges = (0..30).map(|_| {
            let (a, b) = (random(&mut chance), random(&mut chance));
            IdRange { first: a.min(b), last: a.max(b) }
        });
        for range in ranges.chain([IdRange::ALL]) {
            let count = set.sum(range).count() as usize;
            for most in [2, 16] {
                let parts = set.split(range, count, most);
                assert!(parts.len() <= most);
                assert_eq!(parts[0].0.first, range.first);
                assert_eq!(parts[parts.len() - 1].0.last, range.last);
                for (part, print) in &parts {
                    assert_eq!(*print, set.fingerprint(*part));
                    assert!(print.count as usize <= count.div_ceil(most).max(1));
                }
                for pair in parts.windows(2) {
                    assert!(pair[0].0.last < pair[1].0.first);
                }
                let total: u32 = parts.iter().map(|(_, print)| print.count).sum();
                assert_eq!(total as usize, count);
            }
        }
    }
}
