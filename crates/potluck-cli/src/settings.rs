//! Keys of `potluck.toml` on the command line and in the environment.

use clap::{Arg, ArgAction, ArgMatches, Command};
use potluck_node::config::keys::{Fallback, KEYS, Key};
use potluck_node::config::{Flag, Kind};

/// A flag for each key that is often changed, and `--set` for all of them. Made from the table of
/// keys, so that a new key needs nothing here.
#[derive(Debug, Clone, Default)]
pub(crate) struct SettingArgs {
    /// What was said, `--set` last, for it may be about the same key.
    pub(crate) flags: Vec<Flag>,
}

impl clap::Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let set = Arg::new(SET)
            .long(SET)
            .value_name("KEY=VALUE")
            .action(ArgAction::Append)
            .value_parser(key_and_value)
            .help(
                "Any key of potluck.toml, such as budget.idle.slots=4; may be given several times",
            );
        let command = KEYS
            .iter()
            .filter(|key| key.flag)
            .fold(command, |command, key| command.arg(arg_of(key).help_heading(HEADING)));
        command.arg(set.help_heading(HEADING))
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingArgs::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingArgs, clap::Error> {
        let keys = KEYS.iter().filter(|key| key.flag);
        let named = keys.filter_map(|key| {
            let value = matches.get_one::<String>(key.name)?;
            let flag = format!("--{}", key.split().1);
            Some(Flag { flag, key: key.name.to_owned(), value: value.clone() })
        });
        let set = matches.get_many::<(String, String)>(SET).into_iter().flatten();
        let set = set.map(|(key, value)| Flag {
            flag: format!("--{SET}"),
            key: key.clone(),
            value: value.clone(),
        });
        Ok(SettingArgs { flags: named.chain(set).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SettingArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

fn arg_of(key: &'static Key) -> Arg {
    let default = match key.default {
        Fallback::Is("") => String::new(),
        Fallback::Is(text) => format!(" [default: {text}]"),
        Fallback::HalfOfCores => " [default: half of the cores]".to_owned(),
        Fallback::QuarterOfMemory => " [default: a quarter of the machine's]".to_owned(),
    };
    let mut about = key.about.to_owned();
    about[..1].make_ascii_uppercase();
    let arg = Arg::new(key.name)
        .long(key.split().1)
        .value_name(key.kind.placeholder())
        .help(about + &default);
    if key.kind == Kind::Flag {
        return arg.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    arg
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// The variables that may be ours. A value that is no text is as none.
pub(crate) fn environment() -> Vec<(String, String)> {
    let all = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut ours: Vec<(String, String)> =
        all.filter(|(name, _)| name.starts_with("POTLUCK_")).collect();
    ours.sort();
    ours
}

const SET: &str = "set";
const HEADING: &str = "What is lent";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn said(args: &[&str]) -> Vec<(String, String, String)> {
        let command = SettingArgs::augment_args(Command::new("x"));
        let args = std::iter::once("x").chain(args.iter().copied());
        let matches = command.try_get_matches_from(args).unwrap();
        let flags = SettingArgs::from_arg_matches(&matches).unwrap().flags;
        flags.into_iter().map(|flag| (flag.flag, flag.key, flag.value)).collect()
    }

    fn flag(flag: &str, key: &str, value: &str) -> (String, String, String) {
        (flag.to_owned(), key.to_owned(), value.to_owned())
    }

    #[test]
    fn flags_carry_their_keys_and_set_comes_last() {
        let found = said(&[
            "--set",
            "budget.idle.slots=4",
            "--cpu-percent",
            "50",
            "--only-when-idle",
            "--pause-on-battery=false",
            "--set",
            "donor.team=a=b",
        ]);
        let expected = [
            flag("--cpu-percent", "budget.cpu-percent", "50"),
            flag("--pause-on-battery", "budget.pause-on-battery", "false"),
            flag("--only-when-idle", "budget.only-when-idle", "true"),
            flag("--set", "budget.idle.slots", "4"),
            flag("--set", "donor.team", "a=b"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn set_needs_a_value() {
        let command = SettingArgs::augment_args(Command::new("x"));
        let error = command.try_get_matches_from(["x", "--set", "budget.slots"]).unwrap_err();
        assert!(error.to_string().contains("expected KEY=VALUE"), "{error}");
    }
}
