//! The story: events and decisions in words, for the report of a world that failed.

use potluck_peer::{Action, Event, Need, News};
use potluck_unit::{JobId, Message, PeerId, Record, Signed};

use crate::work::Work;

/// An event, in words.
pub(crate) fn event(event: &Event, work: &Work, name: impl Fn(&PeerId) -> Option<usize>) -> String {
    let who = |peer: &PeerId| name(peer).map_or_else(|| peer.short(), |n| format!("machine {n}"));
    match event {
        Event::Joined { peer, outbound: true, .. } => format!("reached {}", who(peer)),
        Event::Joined { peer, .. } => format!("was reached by {}", who(peer)),
        Event::Left { peer } => format!("lost {}", who(peer)),
        Event::DialFailed { address } => format!("could not reach {address}"),
        Event::Heard { from, message } => {
            format!("heard from {}: {}", who(from), said(message, work, &who))
        }
        Event::Kept { record } => format!("had kept {}", record_in_words(record, work, &who)),
        Event::Convicted(conviction) => format!("had convicted {}", who(&conviction.peer)),
        Event::Submitted { record } => format!("submitted {}", record_in_words(record, work, &who)),
        Event::Collect { job } => format!("wants all of {}", job_in_words(job, work)),
        Event::Check { job } => format!("wants to check {}", job_in_words(job, work)),
        Event::Fetched { need, found } => {
            let found = if *found { "fetched" } else { "did not find" };
            format!("{found} {}", need_in_words(need, work))
        }
        Event::Ran(ran) => {
            let units: Vec<String> = (ran.reports.iter())
                .map(|report| match &report.result {
                    Ok((result, _)) => format!("{} = {result:?}", report.index),
                    Err(why) => format!("{}: {why:?}", report.index),
                })
                .collect();
            format!("ran {} of {}", units.join(", "), job_in_words(&ran.job, work))
        }
        Event::Credited(credit) => {
            format!("had seen {} do {} units well", who(&credit.peer), credit.units)
        }
        Event::Holds { bytes, .. } => format!("holds an outcome of {bytes} bytes"),
        Event::Rules(_) => "was given rules".to_owned(),
        Event::Reading(_) => "was given a reading".to_owned(),
        Event::Order(order) => format!("was told {order:?}"),
        Event::Woke => "woke".to_owned(),
    }
}

/// A decision, in words, if it is worth any.
pub(crate) fn action(action: &Action, work: &Work) -> Option<String> {
    match action {
        Action::Run { slot, job, units } => {
            Some(format!("→ slot {slot} runs {units:?} of {}", job_in_words(job, work)))
        }
        Action::Stop { slot } => Some(format!("→ slot {slot} stops")),
        Action::Tell(News::Accepted { job, index, result }) => {
            Some(format!("→ accepts {index} = {result:?} of {}", job_in_words(job, work)))
        }
        Action::Tell(News::Reopened { job, index }) => {
            Some(format!("→ reopens {index} of {}", job_in_words(job, work)))
        }
        Action::Tell(News::Unsteady { job, index }) => {
            Some(format!("→ finds {index} of {} unsteady", job_in_words(job, work)))
        }
        Action::Tell(News::Convicted(conviction)) => Some(format!("→ convicts: {conviction:?}")),
        Action::HangUp { peer } => Some(format!("→ hangs up on {}", peer.short())),
        Action::Clear(job) => Some(format!("→ forgets {}", job_in_words(job, work))),
        Action::Tell(News::Job(_) | News::Keeping { .. } | News::Drained { .. })
        | Action::Say { .. }
        | Action::Dial { .. }
        | Action::Keep(_)
        | Action::Forget(_)
        | Action::Note(_)
        | Action::Discard(_)
        | Action::Credit(_)
        | Action::Fetch { .. }
        | Action::Lend(_)
        | Action::WakeAt(_) => None,
    }
}

fn said(message: &Message, work: &Work, who: &impl Fn(&PeerId) -> String) -> String {
    match message {
        Message::Hello(hello) => format!("hello, with {} contacts", hello.others.len()),
        Message::Records(records) => {
            let words =
                records.iter().map(|bytes| match Signed::of_bytes_with(bytes, |_, _, _| true) {
                    Ok(record) => record_in_words(&record, work, who),
                    Err(error) => format!("{} bytes ({error})", bytes.len()),
                });
            words.collect::<Vec<_>>().join("; ")
        }
        Message::Have(ids) => format!("I have {} records", ids.len()),
        Message::Want(ids) => format!("I want {} records", ids.len()),
        Message::Compare(compare) => format!("compare {} ranges", compare.ranges.len()),
        Message::Listing(listing) => format!("a listing of {} records", listing.ids.len()),
        Message::Keeping(job) => format!("I keep {}", job_in_words(job, work)),
    }
}

fn record_in_words(record: &Signed, work: &Work, who: &impl Fn(&PeerId) -> String) -> String {
    let signer = who(&record.signer());
    match record.record() {
        Record::Job(_) => {
            let job = record.job_id().map_or_else(String::new, |id| job_in_words(&id, work));
            format!("{job} of {signer}")
        }
        Record::Claim(claim) => {
            let job = job_in_words(&claim.job, work);
            let chunks: Vec<u32> = claim.pieces.iter().map(|piece| piece.chunk).collect();
            format!("{signer} claims of {chunks:?} of {job} for {} ms", claim.lease_ms)
        }
        Record::Receipts(batch) => {
            let units: Vec<u32> = batch.receipts.iter().map(|receipt| receipt.index).collect();
            format!("receipts of {signer} on {units:?} of {}", job_in_words(&batch.job, work))
        }
        Record::Close(close) => format!("{signer} closes {}", job_in_words(&close.job, work)),
        Record::Proof(_) => format!("a proof of {signer}"),
        Record::Contact(_) => format!("a contact of {signer}"),
    }
}

fn job_in_words(job: &JobId, work: &Work) -> String {
    work.number(job)
        .map_or_else(|| format!("a cheat's job {}", job.short()), |n| format!("job {n}"))
}

fn need_in_words(need: &Need, work: &Work) -> String {
    let job = job_in_words(&need.job(), work);
    match need {
        Need::Module { .. } => format!("the module of {job}"),
        Need::Inputs { .. } => format!("the inputs of {job}"),
        Need::Body { index, .. } => format!("the outcome of unit {index} of {job}"),
    }
}
