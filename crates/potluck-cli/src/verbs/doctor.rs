//! `potluck doctor`: whether this machine can do its part, and what is missing.

use std::net::SocketAddr;

use potluck_node::{Checkup, Condition, Options};

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::print::{count, table};

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where a worker would listen [default: listen in potluck.toml, or 0.0.0.0:7117]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

/// Looks at everything a worker on this machine would need, and changes nothing.
pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let options = Options { listen: args.listen, ..context.options() };
    let checkup = tokio::task::block_in_place(|| Checkup::of(&options));
    context.printer.answer(&checkup, || text(&checkup))?;
    Ok(if checkup.is_fine() { Exit::Done } else { Exit::Unwell })
}

fn text(checkup: &Checkup) -> String {
    let cores = count(checkup.cores as u64, "core");
    let rows: Vec<Vec<String>> = checkup
        .findings
        .iter()
        .map(|finding| {
            let state = finding.state.as_str();
            vec![state.to_owned(), finding.subject.clone(), finding.note.clone()]
        })
        .collect();
    let unwell = checkup.findings.iter().filter(|finding| finding.state != Condition::Fine).count();
    let verdict = match unwell {
        0 => "all is well".to_owned(),
        1 => "1 thing is not as it should be".to_owned(),
        _ => format!("{unwell} things are not as they should be"),
    };
    format!("{} on {}, {cores}\n{}{verdict}", checkup.agent, checkup.system, table(&rows))
}

#[cfg(test)]
mod tests {
    use potluck_node::Finding;

    use super::*;

    fn shown(states: &[Condition]) -> String {
        let finding = |state: &Condition| Finding {
            subject: "landlock".to_owned(),
            state: *state,
            note: "why".to_owned(),
        };
        text(&Checkup {
            agent: "potluck/1".to_owned(),
            system: "linux 7 x86_64".to_owned(),
            cores: 1,
            findings: states.iter().map(finding).collect(),
        })
    }

    #[test]
    fn each_finding_is_a_line_and_the_last_one_says_how_many_are_bad() {
        let fine = "potluck/1 on linux 7 x86_64, 1 core\nfine  landlock  why\nall is well";
        assert_eq!(shown(&[Condition::Fine]), fine);
        let bad = shown(&[Condition::Partial, Condition::Fine, Condition::Wrong]);
        assert!(bad.contains("partial  landlock  why\nfine     landlock  why\n"), "{bad}");
        assert!(bad.ends_with("\n2 things are not as they should be"), "{bad}");
    }
}
