//! What sets of receipts amount to.

use potluck_unit::{DrawProof, Key, NoResult, ReceiptBatch, Record, WorkDigest};

use super::*;
use crate::board::tests::{NOW, plain_job};
use crate::chance::Chance;
use crate::standing::Conviction;
use crate::standing::tests::conviction;

const WORKERS: usize = 9;

fn result(n: u8) -> ResultHash {
    ResultHash([n; 16])
}

fn key(n: u8) -> Key {
    Key::of_secret(&[n; 32])
}

fn said(job: JobId, n: u8, index: u32, said: u8, seat: Seat) -> Signed {
    let outcome = Statement::Outcome { result: result(said), digest: WorkDigest([n; 16]) };
    stated(job, n, index, outcome, seat)
}

fn stated(job: JobId, n: u8, index: u32, statement: Statement, seat: Seat) -> Signed {
    let receipts = vec![Receipt { index, statement }];
    Signed::sign(&key(n), ReceiptBatch { receipts, ..ReceiptBatch::new(job, NOW, seat) }.into())
}

/// A tally of one unit among few workers, with who said what.
fn tally(votes: &[(u8, u8)]) -> Tally {
    let job = plain_job(1, 1, 2);
    let mut tally = Tally::new(&JobId([0; 32]), &job, &key(99).id());
    votes
        .iter()
        .for_each(|(voter, result)| hear(&mut tally, *voter, *result, &Standing::default()));
    tally
}

fn hear(tally: &mut Tally, voter: u8, result: u8, standing: &Standing) {
    tally.count(&said(JobId([0; 32]), voter, 0, result, Seat::Public), None, standing);
    tally.reckon([0], standing);
}

fn judged(votes: &[(u8, u8)], standing: &Standing) -> Tally {
    let mut tally = tally(votes);
    rejudge(&mut tally, standing);
    tally
}

fn rejudge(tally: &mut Tally, standing: &Standing) {
    tally.reckon_all(standing);
    tally.judge(NOW, 0, standing, WORKERS);
}

fn liar(n: u8) -> Conviction {
    Conviction { peer: key(n).id(), ..conviction(n, 0) }
}

#[test]
fn who_can_not_run_a_disputed_unit_follows_a_quorum_that_outnumbers_its_dissent() {
    let standing = Standing::default();
    let mut one = judged(&[(1, 1), (2, 2), (3, 1)], &standing);
    assert_eq!(one.verdict(0), Verdict::Disputed);
    one.note_blind(0);
    rejudge(&mut one, &standing);
    assert_eq!(one.verdict(0), Verdict::Accepted(result(1)));
    for even in
        [&[(1, 1), (2, 2)][..], &[(1, 1), (2, 2), (3, 1), (4, 2)], &[(1, 1), (2, 2), (3, 3)]]
    {
        let mut tally = tally(even);
        tally.note_blind(0);
        rejudge(&mut tally, &standing);
        assert_eq!(tally.verdict(0), Verdict::Disputed, "{even:?}");
    }
}

#[test]
fn who_is_not_called_to_settle_follows_a_great_majority_until_it_runs_the_unit_itself() {
    let standing = Standing::default();
    let votes = [(1, 1), (2, 2), (3, 1), (4, 1), (5, 1)];
    // So long after the job was made everybody has a seat, and this peer was not called.
    let job = Job { peers: 1000, created: Time(0), ..plain_job(1, 1, 2) };
    let judged = |votes: &[(u8, u8)]| {
        let mut tally = Tally::new(&JobId([0; 32]), &job, &key(99).id());
        votes.iter().for_each(|(voter, result)| hear(&mut tally, *voter, *result, &standing));
        rejudge(&mut tally, &standing);
        tally
    };
    let mut tally = judged(&votes);
    assert_eq!(tally.verdict(0), Verdict::Accepted(result(1)));
    rejudge(&mut tally, &standing);
    assert_eq!(tally.suspects.len(), 1);
    assert_eq!(tally.verdict(0), Verdict::Accepted(result(1)));
    tally.note_own(0, Own { result: result(2), witness: None, sure: true });
    rejudge(&mut tally, &standing);
    assert_eq!(tally.verdict(0), Verdict::Disputed, "it saw for itself");
    assert_eq!(judged(&votes[..4]).verdict(0), Verdict::Disputed);
}

#[test]
fn who_audits_another_is_not_audited_for_it_and_who_counts_for_nothing_is_not_either() {
    let (id, mut standing) = (JobId([0; 32]), Standing::default());
    let audited = |copies, standing: &Standing| {
        let mut tally = Tally::new(&id, &plain_job(1, 1, copies), &key(99).id());
        let drawn = || Seat::Drawn { chunk: 0, proof: DrawProof([0; DrawProof::BYTES]) };
        tally.count(&said(id, 1, 0, 1, Seat::Public), None, standing);
        tally.count(&said(id, 2, 0, 1, drawn()), Some(Draw([2; 32])), standing);
        tally.count(&said(id, 3, 0, 1, drawn()), Some(Draw([3; 32])), standing);
        [1, 2, 3].map(|n| tally.audited_of(0, &key(n).id(), standing) == 1)
    };
    assert_eq!(audited(1, &standing), [true, false, false]);
    assert_eq!(audited(2, &standing), [true, true, false], "two must agree");
    standing.convict(liar(1));
    assert_eq!(audited(1, &standing), [false, true, false], "nobody else vouches for the unit now");
}

/// Three that agree lead against nobody; against one who drew the right to audit them they don't.
#[test]
fn a_majority_does_not_lead_past_the_dissent_of_an_auditor() {
    let (id, standing) = (JobId([3; 32]), Standing::default());
    let job = Job { peers: 1000, ..plain_job(1, 2000, 2) };
    let windows = Windows::of(&job);
    let many = |n: u16| {
        let mut secret = [7; 32];
        secret[..2].copy_from_slice(&n.to_le_bytes());
        Key::of_secret(&secret)
    };
    let won = |n: &u16| windows.public_level(id.rank(0, &many(*n).id()), NOW) == 0;
    let signed = |n: u16, said: u8, seat: Seat| {
        let statement = Statement::Outcome { result: result(said), digest: WorkDigest([1; 16]) };
        let receipts = vec![Receipt { index: 0, statement }];
        let batch = ReceiptBatch { receipts, ..ReceiptBatch::new(id, NOW, seat) };
        Signed::sign(&many(n), batch.into())
    };
    let few: Vec<Signed> = (0..).filter(won).take(3).map(|n| signed(n, 2, Seat::Public)).collect();
    let other = (0..).find(|n| !won(n)).unwrap();
    let may_audit = |draw: &Draw| windows.may_audit(draw.audit_ticket(&few[0].signer()));
    let mut draws = (0..u16::MAX).map(|n| {
        let mut draw = [255; 32];
        draw[..2].copy_from_slice(&n.to_le_bytes());
        Draw(draw)
    });
    let draw = draws.find(may_audit).unwrap();
    let drawn = Seat::Drawn { chunk: 0, proof: DrawProof([0; DrawProof::BYTES]) };
    for (seat, draw, leads) in [(Seat::Extra, None, true), (drawn, Some(draw), false)] {
        let mut tally = Tally::new(&id, &job, &key(99).id());
        few.iter().for_each(|record| drop(tally.count(record, None, &standing)));
        tally.count(&signed(other, 1, seat), draw, &standing);
        assert_eq!(tally.led(0, &standing).is_some(), leads);
    }
}

#[test]
fn the_verdict_depends_on_the_set_of_words_and_not_on_their_order_or_number() {
    let mut chance = Chance::of_seed(3);
    for round in 0..1000 {
        let workers = if round % 4 < 2 { 2 } else { WORKERS };
        let liars = round % 3;
        let peers = if round % 2 == 0 { 2 } else { 200 };
        let units = 1 + chance.below(40) as u32;
        let job = Job { peers, units, ..plain_job(1, units, 1 + chance.below(3) as u8) };
        let id = JobId([round as u8; 32]);
        let mut words: Vec<Signed> = (0..chance.below(200))
            .map(|_| {
                let (voter, index) = (chance.below(9) as u8, chance.below(units.into()) as u32);
                let lie = u8::from(voter < liars as u8 || chance.happens(20));
                let chunk = index / job.chunk_units();
                let seat = match chance.below(5) {
                    0 => Seat::Extra,
                    1 | 2 => Seat::Drawn { chunk, proof: DrawProof([0; DrawProof::BYTES]) },
                    _ => Seat::Public,
                };
                if chance.happens(100) {
                    return stated(id, voter, index, Statement::NoResult(NoResult::Deadline), seat);
                }
                said(id, voter, index, lie, seat)
            })
            .collect();
        let mut standing = Standing::default();
        if chance.happens(500) {
            standing.convict(Conviction { job: id, ..liar(0) });
        }
        // As good as what it would draw.
        let drawn = |word: &Signed| match word.record() {
            Record::Receipts(batch) => match batch.seat {
                Seat::Drawn { chunk, .. } => {
                    let ticket = id.rank(!chunk, &word.signer());
                    let mut draw = [0; 32];
                    draw.chunks_mut(8).for_each(|part| part.copy_from_slice(&ticket.to_le_bytes()));
                    Some(Draw(draw))
                }
                Seat::Public | Seat::Extra => None,
            },
            _ => None,
        };
        let verdicts = |words: &[Signed]| {
            let mut tally = Tally::new(&id, &job, &key(99).id());
            for word in words {
                tally.count(word, drawn(word), &standing);
                let wider = tally.reckon(0..job.chunks(), &standing);
                let Record::Receipts(batch) = word.record() else { unreachable!() };
                tally.judge(NOW, batch.receipts[0].index, &standing, workers);
                if wider {
                    for index in tally.waiting() {
                        tally.judge(NOW, index, &standing, workers);
                    }
                }
                while tally.is_unsettled() {
                    tally.reckon_all(&standing);
                    for index in tally.spoken_of() {
                        tally.judge(NOW, index, &standing, workers);
                    }
                }
            }
            let verdicts: Vec<Verdict> = (0..units).map(|index| tally.verdict(index)).collect();
            (verdicts, tally.levels(), tally.counts())
        };
        let first = verdicts(&words);
        words.extend(words.clone());
        chance.shuffle(&mut words);
        assert_eq!(first, verdicts(&words), "round {round}");
    }
}

#[test]
fn a_liars_word_counts_where_this_peer_found_the_same() {
    let mut standing = Standing::default();
    standing.convict(liar(2));
    let mut tally = judged(&[(1, 1), (2, 1)], &standing);
    assert_eq!(tally.verdict(0), Verdict::Partial(result(1)));
    let own = Own { result: result(1), witness: None, sure: false };
    tally.note_own(0, own);
    rejudge(&mut tally, &standing);
    assert_eq!(tally.verdict(0), Verdict::Accepted(result(1)));
    let mut lied = judged(&[(1, 1), (2, 2)], &standing);
    lied.note_own(0, own);
    rejudge(&mut lied, &standing);
    assert_eq!(lied.verdict(0), Verdict::Partial(result(1)));
}

#[test]
fn a_conviction_settles_a_dispute_and_reopens_what_relied_on_the_liar() {
    let mut standing = Standing::default();
    let mut disputed = judged(&[(1, 1), (2, 2), (3, 1)], &standing);
    let mut relied = judged(&[(1, 1), (2, 1)], &standing);
    relied.note_body(0, result(1));
    assert_eq!(disputed.verdict(0), Verdict::Disputed);
    assert_eq!(relied.verdict(0), Verdict::Accepted(result(1)));
    assert_eq!(relied.counts().fetched, 1);
    standing.convict(liar(2));
    rejudge(&mut disputed, &standing);
    rejudge(&mut relied, &standing);
    assert_eq!(disputed.verdict(0), Verdict::Accepted(result(1)));
    assert_eq!(relied.verdict(0), Verdict::Partial(result(1)));
    assert_eq!((relied.counts().partial, relied.counts().fetched), (1, 0));
    assert_eq!(relied.wanted(0, &standing).any, 1);
}

#[test]
fn a_second_word_of_the_same_peer_is_known_or_a_contradiction() {
    let (mut tally, standing) = (tally(&[(1, 1)]), Standing::default());
    let mut again = |n| {
        let word = said(JobId([0; 32]), 1, 0, n, Seat::Public);
        let counted = tally.count(&word, None, &standing);
        assert!(counted.fresh.is_empty());
        counted.contradictions
    };
    assert_eq!(again(1), []);
    assert_eq!(again(2), [(0, result(1), result(2))]);
}

#[test]
fn who_said_a_result_before_may_send_its_body_later_and_once() {
    let mut tally = tally(&[]);
    let body = b"some bytes".to_vec();
    let result = potluck_unit::BlobId::of(&body).result_hash();
    let statement = Statement::Outcome { result, digest: WorkDigest([1; 16]) };
    let sign = |bodies| {
        let receipts = vec![Receipt { index: 0, statement }];
        let batch = ReceiptBatch::new(JobId([0; 32]), NOW, Seat::Public);
        Signed::sign(&key(1), ReceiptBatch { receipts, bodies, ..batch }.into())
    };
    let words = |tally: &Tally| tally.chunks[0].words.len();
    tally.count(&sign(vec![]), None, &Standing::default());
    assert!(!tally.is_carried(0, result));
    tally.count(&sign(vec![body.clone()]), None, &Standing::default());
    assert!(tally.is_carried(0, result));
    assert_eq!(words(&tally), 2);
    tally.count(&sign(vec![body]), None, &Standing::default());
    assert_eq!(words(&tally), 2);
}

#[test]
fn one_word_too_many_or_past_the_last_unit_is_refused() {
    let (mut tally, standing) = (tally(&[]), Standing::default());
    for voter in 0..=WORDS_MAX as u8 {
        hear(&mut tally, voter, 1, &standing);
    }
    assert_eq!(tally.votes(0).count(), WORDS_MAX as usize);
    let past = said(JobId([0; 32]), 1, 1, 1, Seat::Public);
    assert!(tally.count(&past, None, &standing).fresh.is_empty());
}

#[test]
fn who_won_no_seat_does_not_count_until_the_windows_are_wide_enough() {
    let job = Job { peers: 1000, ..plain_job(1, 200, 1) };
    let (id, standing) = (JobId([0; 32]), Standing::default());
    let mut tally = Tally::new(&id, &job, &key(99).id());
    let level = |n: u8, index| Windows::of(&job).public_level(id.rank(index, &key(n).id()), NOW);
    let outsider = (0..200).find(|n| level(*n, 0) >= 20).unwrap();
    let hear = |tally: &mut Tally, n: u8, index: u32| {
        tally.count(&said(id, n, index, 1, Seat::Public), None, &standing);
        tally.reckon([index], &standing);
        for index in tally.waiting().into_iter().chain([index]) {
            tally.judge(NOW, index, &standing, WORKERS);
        }
    };
    hear(&mut tally, outsider, 0);
    assert_eq!(tally.verdict(0), Verdict::Partial(result(1)));
    for index in 1..200 {
        let (best, _) = (0..200).map(|n| (n, level(n, index))).min_by_key(|(_, l)| *l).unwrap();
        hear(&mut tally, best, index);
    }
    assert_eq!(tally.verdict(0), Verdict::Accepted(result(1)));
    assert_eq!(tally.counts().accepted, 200);
}

#[test]
fn what_is_accepted_is_final_once_it_was_so_for_the_window() {
    let standing = Standing::default();
    let mut tally = judged(&[(1, 1), (2, 1)], &standing);
    assert!(!tally.ripen(NOW.plus_ms(5999), 6000));
    assert!(tally.ripen(NOW.plus_ms(6000), 6000));
    assert!(tally.is_final(0));
    assert_eq!(tally.counts().finals, 1);
    hear(&mut tally, 3, 2, &standing);
    tally.judge(NOW, 0, &standing, WORKERS);
    assert_eq!((tally.counts().finals, tally.is_final(0)), (0, false));
}

#[test]
fn a_run_without_a_result_is_told_apart_from_a_result() {
    let (mut tally, standing) = (tally(&[(1, 1)]), Standing::default());
    let statement = Statement::NoResult(NoResult::Deadline);
    let receipts = vec![Receipt { index: 0, statement }];
    let batch = ReceiptBatch { receipts, ..ReceiptBatch::new(JobId([0; 32]), NOW, Seat::Public) };
    let record = Signed::sign(&key(2), batch.into());
    assert!(tally.count(&record, None, &standing).gave_up);
    assert_eq!(tally.votes(0).count(), 1);
    assert_eq!(tally.gave_up(0).collect::<Vec<_>>(), [(key(2).id(), NoResult::Deadline)]);
}

/// One unit of a job among a thousand workers, which `n` signs with this seat and a key born then.
fn level_of(n: u8, seat: Seat, born: Time, draw: Option<Draw>) -> u8 {
    let job = Job { peers: 1000, ..plain_job(1, 2000, 2) };
    let id = JobId([3; 32]);
    let mut tally = Tally::new(&id, &job, &key(99).id());
    let statement = Statement::Outcome { result: result(1), digest: WorkDigest([n; 16]) };
    let receipts = vec![Receipt { index: 0, statement }];
    let identity = potluck_unit::Identity { born, nonce: 0 };
    let batch = ReceiptBatch { receipts, identity, ..ReceiptBatch::new(id, NOW, seat) };
    tally.count(&Signed::sign(&key(n), batch.into()), draw, &Standing::default());
    tally.covered[0]
}

#[test]
fn a_seat_is_what_the_lotteries_gave_and_nothing_for_a_key_made_after_the_job() {
    let id = JobId([3; 32]);
    let winner = (0..=255).find(|n| id.rank(0, &key(*n).id()) < u64::MAX / 1000).unwrap();
    assert_eq!(level_of(winner, Seat::Public, Time(0), None), 0);
    assert_eq!(level_of(winner, Seat::Public, NOW.plus_ms(1), None), NO_SEAT);
    assert_eq!(level_of(winner, Seat::Extra, Time(0), None), NO_SEAT);
    let draws = (0..255).map(|n| (n, key(n).draw(&id.draw_input(0))));
    let (n, (proof, draw)) = draws.min_by_key(|(_, (_, draw))| draw.ticket()).unwrap();
    let seat = Seat::Drawn { chunk: 0, proof };
    let level = level_of(n, seat, Time(0), Some(draw));
    assert!(level <= 8, "the best of 255 is among the first of a thousand: {level}");
    assert_eq!(level_of(n, seat, NOW.plus_ms(1), Some(draw)), NO_SEAT);
}

/// The liar speaks twice, so that nothing it said counts: its first word is contradicted all the same.
#[test]
fn who_settled_a_dispute_is_heard_after_the_liar_has_contradicted_itself() {
    let (standing, id) = (Standing::default(), JobId([0; 32]));
    let extra = |n: u8| said(id, n, 0, 1, Seat::Extra);
    let words = [said(id, 2, 0, 2, Seat::Public), extra(3), extra(4), extra(5)];
    let again = said(id, 2, 0, 1, Seat::Public);
    for at in 0..=words.len() {
        let mut words = words.to_vec();
        words.insert(at, again.clone());
        let mut tally = tally(&[]);
        words.iter().for_each(|word| drop(tally.count(word, None, &standing)));
        rejudge(&mut tally, &standing);
        assert_eq!(tally.verdict(0), Verdict::Accepted(result(1)), "{at}");
    }
}
