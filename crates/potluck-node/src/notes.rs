//! What a peer knows of others and wants to know again after a restart, as notes of the store:
//! convictions, several a peer, and one standing a peer.

use potluck_peer::{Conviction, Credit, Event};
use potluck_unit::{JobId, PeerId, RecordId, ResultHash, Time};

use crate::store::{Change, Note};

/// A conviction as a note. One for each false statement: its signer, the record and the unit.
pub(crate) fn of_conviction(conviction: &Conviction) -> Change {
    let mut key = CONVICTION.to_vec();
    key.extend_from_slice(&conviction.peer.0);
    key.extend_from_slice(&conviction.record.0);
    key.extend_from_slice(&conviction.index.to_be_bytes());
    let mut value = conviction.job.0.to_vec();
    value.extend_from_slice(&conviction.said.0);
    value.extend_from_slice(&conviction.found.0);
    value.extend_from_slice(&conviction.made.0.to_le_bytes());
    Change::Note { key, value }
}

/// A standing as a note, which replaces the one before. None of its own for a peer without any.
pub(crate) fn of_credit(credit: &Credit) -> Change {
    let mut key = CREDIT.to_vec();
    key.extend_from_slice(&credit.peer.0);
    let mut value = Vec::new();
    if credit.units > 0 {
        value.extend_from_slice(&credit.units.to_le_bytes());
        value.extend_from_slice(&credit.at.0.to_le_bytes());
    }
    Change::Note { key, value }
}

/// What the peer is to be told of a note. None for what is no note of this kind.
pub(crate) fn event_of((key, value): &Note) -> Option<Event> {
    let conviction = || conviction_of(key, value).map(Event::Convicted);
    let credit = || credit_of(key, value).map(Event::Credited);
    conviction().or_else(credit)
}

fn conviction_of(key: &[u8], value: &[u8]) -> Option<Conviction> {
    let (peer, rest) = key.strip_prefix(CONVICTION)?.split_first_chunk::<32>()?;
    let (record, index) = rest.split_first_chunk::<32>()?;
    let (job, rest) = value.split_first_chunk::<32>()?;
    let (said, rest) = rest.split_first_chunk::<16>()?;
    let (found, made) = rest.split_first_chunk::<16>()?;
    Some(Conviction {
        peer: PeerId(*peer),
        job: JobId(*job),
        index: u32::from_be_bytes(index.try_into().ok()?),
        said: ResultHash(*said),
        found: ResultHash(*found),
        record: RecordId(*record),
        made: Time(u64::from_le_bytes(made.try_into().ok()?)),
    })
}

fn credit_of(key: &[u8], value: &[u8]) -> Option<Credit> {
    let peer = PeerId(key.strip_prefix(CREDIT)?.try_into().ok()?);
    let (units, at) = value.split_first_chunk::<4>()?;
    let (units, at) = (u32::from_le_bytes(*units), at.try_into().ok()?);
    Some(Credit { peer, units, at: Time(u64::from_le_bytes(at)) })
}

const CONVICTION: &[u8] = b"conviction/";
const CREDIT: &[u8] = b"credit/";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn conviction(peer: u8, record: u8, index: u32) -> Conviction {
        Conviction {
            peer: PeerId([peer; 32]),
            job: JobId([2; 32]),
            index,
            said: ResultHash([3; 16]),
            found: ResultHash([4; 16]),
            record: RecordId([record; 32]),
            made: Time(1_700_000_000_000),
        }
    }

    fn credit(peer: u8, units: u32) -> Credit {
        Credit { peer: PeerId([peer; 32]), units, at: Time(5) }
    }

    fn parts(change: Change) -> Note {
        let Change::Note { key, value } = change else { panic!("{change:?}") };
        (key, value)
    }

    #[test]
    fn notes_of_another_shape_are_left_out() {
        for (key, value) in
            [parts(of_conviction(&conviction(1, 5, 70_000))), parts(of_credit(&credit(1, 9)))]
        {
            assert!(event_of(&(key.clone(), value.clone())).is_some());
            for note in [
                (b"other".to_vec(), value.clone()),
                (key[1..].to_vec(), value.clone()),
                (key[..key.len() - 1].to_vec(), value.clone()),
                (key.clone(), value[1..].to_vec()),
                (key.clone(), [&value[..], &[0]].concat()),
            ] {
                assert!(event_of(&note).is_none(), "{note:?}");
            }
        }
    }

    #[test]
    fn every_conviction_of_a_peer_and_its_last_standing_outlive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let told = || -> Vec<Event> {
            let (store, _) = Store::open(folder.path()).unwrap();
            store.notes().unwrap().iter().filter_map(event_of).collect()
        };
        let strikes = [conviction(1, 5, 7), conviction(1, 5, 256), conviction(1, 6, 7)];
        {
            let (store, _) = Store::open(folder.path()).unwrap();
            // One that is noted twice is one all the same.
            let noted = strikes.iter().chain(&strikes[..1]).map(of_conviction);
            let credits = [credit(8, 10), credit(9, 11), credit(8, 12)];
            let changes: Vec<Change> = noted.chain(credits.iter().map(of_credit)).collect();
            store.commit(&changes).unwrap();
        }
        let (mut convictions, mut credits) = (Vec::new(), Vec::new());
        for event in told() {
            if let Event::Convicted(conviction) = event {
                convictions.push(conviction);
            } else if let Event::Credited(credit) = event {
                credits.push(credit);
            }
        }
        assert_eq!(convictions, strikes);
        assert_eq!(credits, [credit(8, 12), credit(9, 11)]);
        {
            let (store, _) = Store::open(folder.path()).unwrap();
            store.commit(&[of_credit(&credit(9, 0))]).unwrap();
        }
        assert_eq!(told().len(), 4, "a standing that came to nothing is dropped");
    }
}
