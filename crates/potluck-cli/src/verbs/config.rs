//! `potluck config`: what is lent and when, who said so, and what is wrong with it.

use std::path::PathBuf;

use potluck_node::config::{
    self, ConfigErrors, EditError, Origin, Setting, Settings, Sources, Value,
};
use potluck_node::{Machine, Options, config_file};
use serde_json::{Value as Json, json};

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::print::{count, table};
use crate::settings::{SettingArgs, environment};

/// What to do with the config file.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Write potluck.toml with every key, its default and what it is for
    Init(InitArgs),
    /// Say everything that is wrong with potluck.toml and the environment
    Check(CheckArgs),
    /// Show what holds, and who said so
    Show(ShowArgs),
    /// Print where potluck.toml is or would be
    Path,
    /// Give a key a value in potluck.toml; comments and order stay
    Set(SetArgs),
    /// Take a key out of potluck.toml, so that its default holds
    Unset(UnsetArgs),
}

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Replace the file that is there
    #[arg(long)]
    force: bool,
}

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Another file, by itself [default: potluck.toml in the data folder]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Keys or sections, such as budget.slots or budget.idle [default: all]
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    settings: SettingArgs,
}

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// The key with its section, such as budget.cpu-percent or budget.in-use.slots
    #[arg(value_name = "KEY")]
    key: String,
    /// The value as it would stand in the file; quotes may be left out, lists have commas
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    value: String,
}

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct UnsetArgs {
    /// The key with its section, or one of several sections such as budget.at.1
    #[arg(value_name = "KEY")]
    key: String,
}

/// Needs no node; one that runs notices what changes.
pub(crate) fn run(verb: &Verb, context: &Context) -> Result<Exit, Failure> {
    match verb {
        Verb::Init(args) => init(args, context),
        Verb::Check(args) => check(args, context),
        Verb::Show(args) => show(args, context),
        Verb::Path => {
            let path = config_file(&context.data).display().to_string();
            context.printer.answer(&json!({ "file": path }), || path.clone())?;
            Ok(Exit::Done)
        }
        Verb::Set(args) => set(args, context),
        Verb::Unset(args) => unset(args, context),
    }
}

fn init(args: &InitArgs, context: &Context) -> Result<Exit, Failure> {
    let path = config_file(&context.data);
    config::init(&path, args.force)?;
    let path = path.display().to_string();
    context.printer.answer(&json!({ "file": path }), || format!("wrote {path}"))?;
    Ok(Exit::Done)
}

fn check(args: &CheckArgs, context: &Context) -> Result<Exit, Failure> {
    let path = args.file.clone().unwrap_or_else(|| config_file(&context.data));
    if args.file.is_some() && !path.exists() {
        return Err(Failure::input(format!("there is no file {}", path.display())));
    }
    let environment = if args.file.is_some() { Vec::new() } else { environment() };
    let sources =
        Sources { file: path.clone(), environment, flags: Vec::new(), machine: Machine::this() };
    let errors = sources.read().err().map_or_else(Vec::new, |ConfigErrors(errors)| errors);
    let shown = path.display().to_string();
    let value = json!({ "file": shown, "fine": errors.is_empty(), "errors": errors });
    context.printer.answer(&value, || {
        if errors.is_empty() {
            let there = if path.exists() { "all is well" } else { "no such file: defaults hold" };
            return format!("{shown}: {there}");
        }
        let lines: String = errors.iter().map(|error| format!("{error}\n")).collect();
        format!("{lines}{}", count(errors.len() as u64, "error"))
    })?;
    Ok(if errors.is_empty() { Exit::Done } else { Exit::Input })
}

fn show(args: &ShowArgs, context: &Context) -> Result<Exit, Failure> {
    let options = Options { flags: args.settings.flags.clone(), ..context.options() };
    let settings = options.settings().map_err(Failure::input)?;
    let file = options.config_file().display().to_string();
    let chosen = chosen(&settings, &args.keys)?;
    let value = json!({
        "file": file,
        "settings": chosen.iter().map(Row::value).collect::<Vec<_>>(),
    });
    context.printer.answer(&value, || {
        let rows: Vec<Vec<String>> = chosen.iter().map(Row::cells).collect();
        table(&rows)
    })?;
    Ok(Exit::Done)
}

/// One line of the answer.
struct Row<'a> {
    name: &'a str,
    /// The value as it would stand in the file.
    text: String,
    setting: &'a Setting,
}

impl Row<'_> {
    fn cells(&self) -> Vec<String> {
        let origin = match &self.setting.origin {
            Origin::Default => "default".to_owned(),
            Origin::File(line) => format!("{}:{line}", config::FILE_NAME),
            Origin::Environment(variable) => variable.clone(),
            Origin::Flag(flag) => flag.clone(),
        };
        vec![self.name.to_owned(), self.text.clone(), origin]
    }

    fn value(&self) -> Json {
        let value = match &self.setting.value {
            Value::Number(number) => json!(number),
            Value::Unlimited => Json::Null,
            Value::Flag(flag) => json!(flag),
            Value::Text(text) => json!(text),
            Value::List(words) => json!(words),
        };
        let mut row = json!({ "key": self.name, "value": value, "text": self.text });
        let (origin, detail) = match &self.setting.origin {
            Origin::Default => ("default", None),
            Origin::File(line) => ("file", Some(("line", json!(line)))),
            Origin::Environment(name) => ("environment", Some(("variable", json!(name)))),
            Origin::Flag(flag) => ("flag", Some(("flag", json!(flag)))),
        };
        row["origin"] = json!(origin);
        if let Some((name, detail)) = detail {
            row[name] = detail;
        }
        row
    }
}

/// The settings that were asked for: by their names, or by those of their sections.
fn chosen<'a>(settings: &'a Settings, keys: &[String]) -> Result<Vec<Row<'a>>, Failure> {
    let is_meant = |name: &str, key: &str| {
        name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    for key in keys {
        let is_known = config::find(key).is_some()
            || config::all().any(|(name, _)| is_meant(&name, key))
            || settings.iter().any(|(name, ..)| is_meant(name, key));
        if !is_known {
            let message = format!("`{key}` is no key; `potluck config show` lists them");
            return Err(Failure::input(message));
        }
    }
    let rows = settings.iter().map(|(name, key, setting)| {
        let text = key.kind.write(&setting.value);
        Row { name, text, setting }
    });
    Ok(rows
        .filter(|row| keys.is_empty() || keys.iter().any(|key| is_meant(row.name, key)))
        .collect())
}

fn set(args: &SetArgs, context: &Context) -> Result<Exit, Failure> {
    let path = config_file(&context.data);
    let text = config::set(&path, &args.key, &args.value)?;
    let value = json!({ "file": path.display().to_string(), "key": args.key, "text": text });
    context.printer.answer(&value, || format!("{} = {text}", args.key))?;
    tell_what_wins(&args.key, context);
    Ok(Exit::Done)
}

fn unset(args: &UnsetArgs, context: &Context) -> Result<Exit, Failure> {
    let path = config_file(&context.data);
    let was_set = config::unset(&path, &args.key)?;
    let value = json!({ "file": path.display().to_string(), "key": args.key, "was_set": was_set });
    context.printer.answer(&value, || {
        let what = if was_set { "is not set any more" } else { "was not set" };
        format!("{} {what}", args.key)
    })?;
    tell_what_wins(&args.key, context);
    Ok(Exit::Done)
}

/// Warns of what keeps a change from having an effect.
fn tell_what_wins(key: &str, context: &Context) {
    let variable = config::variable(key);
    if environment().iter().any(|(name, _)| *name == variable) {
        context.printer.note(format!("{variable} is set and wins over the file"));
    }
    if config::find(key).is_some_and(|key| key.restart) {
        context.printer.note("a worker that runs must be started again to notice this");
    }
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Failure {
        match error {
            EditError::Config(_) | EditError::Exists(_) => Failure::input(error),
            EditError::Io(..) => Failure::failed(error),
        }
    }
}
