//! Names: which key a dotted name stands for, what the environment calls it, and which one somebody
//! may have meant who wrote another.

use potluck_unit::PeerId;

use super::keys::{AT, AT_HOURS, KEYS, Key, SECTIONS, WEIGHT, WEIGHTS};

/// The key that a dotted name stands for: `budget.slots`, `budget.idle.slots`,
/// `budget.at.1.slots`, `choice.weights.PEERID`.
pub fn find(name: &str) -> Option<&'static Key> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Some(key);
    }
    if let Some(peer) = name.strip_prefix(WEIGHTS).and_then(|rest| rest.strip_prefix('.')) {
        return peer.parse::<PeerId>().ok().map(|_| WEIGHT);
    }
    let (section, last) = name.rsplit_once('.')?;
    if at_number(section).is_some() && last == "hours" {
        return Some(AT_HOURS);
    }
    let varies = SECTIONS.contains(&section) || at_number(section).is_some();
    varies.then(|| varying(last)).flatten()
}

/// The number of a `[[budget.at]]`, counted from 1, by the name of its section: `budget.at.1`.
pub(super) fn at_number(section: &str) -> Option<usize> {
    let digits = section.strip_prefix(AT)?.strip_prefix('.')?;
    let number = digits.parse().ok()?;
    ((1..=AT_MAX).contains(&number) && number.to_string() == digits).then_some(number)
}

/// Whether keys or sections may stand below this name.
pub(super) fn is_section(name: &str) -> bool {
    let above = |key: &Key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    name == WEIGHTS || SECTIONS.contains(&name) || KEYS.iter().any(above)
}

/// The key of `[budget]` with this last name, if it may stand in other sections too.
fn varying(last: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.varies && key.split().1 == last)
}

/// Every name that does not depend on what somebody chose, in the order of [`KEYS`], and then
/// section by section.
pub fn all() -> impl Iterator<Item = (String, &'static Key)> {
    let base = KEYS.iter().map(|key| (key.name.to_owned(), key));
    let varying = SECTIONS.iter().flat_map(|section| {
        let keys = KEYS.iter().filter(|key| key.varies);
        keys.map(move |key| (format!("{section}.{}", key.split().1), key))
    });
    base.chain(varying)
}

/// What the environment calls a name: `POTLUCK_BUDGET_CPU_PERCENT`.
pub fn variable(name: &str) -> String {
    let upper = name.to_ascii_uppercase().replace(['.', '-'], "_");
    format!("{VARIABLE_PREFIX}{upper}")
}

/// The name that a variable stands for; the error is why a variable that looks like one of ours is
/// none.
pub(super) fn of_variable(variable_name: &str) -> Result<Option<String>, String> {
    if let Some((name, _)) = all().find(|(name, _)| variable(name) == variable_name) {
        return Ok(Some(name));
    }
    let is_ours = ["BUDGET_", "CHOICE_", "DONOR_", "GRID_", "SANDBOX_"].iter().any(|section| {
        variable_name.strip_prefix(VARIABLE_PREFIX).is_some_and(|rest| rest.starts_with(section))
    });
    if !is_ours {
        return Ok(None);
    }
    let names: Vec<String> = all().map(|(name, _)| variable(&name)).collect();
    let near = nearest(variable_name, names.iter().map(|name| (name.as_str(), name.as_str())));
    let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    Err(format!("{variable_name} stands for no key of potluck.toml{hint}"))
}

/// Why a name is no key, and which one may have been meant.
pub(super) fn unknown(name: &str) -> String {
    let (section, last) = name.rsplit_once('.').unwrap_or(("", name));
    let in_part = SECTIONS.contains(&section) || at_number(section).is_some();
    if in_part && let Some(key) = KEYS.iter().find(|key| key.name == format!("budget.{last}")) {
        let last = key.split().1;
        return format!("`{name}` is no key: `{last}` holds at all times and stands in [budget]");
    }
    if section == WEIGHTS {
        return format!("`{last}` is no peer id of 64 hexadecimal digits");
    }
    if let Some(key) = KEYS.iter().find(|key| key.split().1 == last) {
        return format!("`{name}` is no key here: it belongs to {}", place(key));
    }
    let shown = if in_part { format!("budget.{last}") } else { name.to_owned() };
    // As a whole, or in another section.
    let near = nearest(&shown, KEYS.iter().map(|key| (key.name, key)))
        .or_else(|| nearest(last, KEYS.iter().map(|key| (key.split().1, key))));
    match near {
        Some(key) if in_part || key.split().0 == section => {
            format!("`{name}` is no key; did you mean `{}`?", key.split().1)
        }
        Some(key) => {
            let (_, last) = key.split();
            format!("`{name}` is no key; did you mean `{last}` of {}?", place(key))
        }
        None => format!("`{name}` is no key; `potluck config init` writes a file with every key"),
    }
}

fn place(key: &Key) -> String {
    match key.split().0 {
        "" => "the top of the file, above all sections".to_owned(),
        section => format!("[{section}]"),
    }
}

/// What a name close to `word` stands for.
fn nearest<'a, T>(word: &str, names: impl Iterator<Item = (&'a str, T)>) -> Option<T> {
    let word: String = word.chars().take(WORD_MAX).collect();
    let far = |name: &str| strsim::osa_distance(&word, name);
    let near = names.map(|(name, what)| (far(name), name.len(), what)).min_by_key(|near| near.0);
    near.filter(|(far, length, _)| *far <= DISTANCE_MAX.min(length / 3)).map(|(.., what)| what)
}

const VARIABLE_PREFIX: &str = "POTLUCK_";
/// `[[budget.at]]` sections: nobody writes more than a few by hand.
pub(super) const AT_MAX: usize = 32;
/// Two slips of the fingers, or a word in another form.
const DISTANCE_MAX: usize = 3;
/// Longer names are compared by their beginning: comparing costs the product of both lengths.
const WORD_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_is_found_in_every_section_it_may_stand_in() {
        for name in ["listen", "budget.slots", "budget.in-use.slots", "budget.at.32.slots"] {
            assert!(find(name).is_some(), "{name}");
        }
        assert_eq!(find("budget.at.1.hours").unwrap().name, "budget.at.hours");
        assert_eq!(find(&format!("choice.weights.{}", "ab".repeat(32))).unwrap().name, WEIGHT.name);
        for name in [
            "slots",
            "budget",
            "budget.at.0.slots",
            "budget.at.33.slots",
            "budget.at.01.slots",
            "budget.at.slots",
            "budget.idle.disk",
            "budget.idle.hours",
            "choice.weights.me",
            "",
        ] {
            assert!(find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn no_two_names_share_a_variable() {
        let variables: BTreeSet<String> = all().map(|(name, _)| variable(&name)).collect();
        assert_eq!(variables.len(), all().count());
        assert!(variables.contains("POTLUCK_BUDGET_ON_BATTERY_CPU_PERCENT"));
        assert!(!variables.contains("POTLUCK_DATA"));
    }

    #[test]
    fn a_variable_of_ours_that_is_none_is_an_error_and_any_other_is_not() {
        assert_eq!(of_variable("POTLUCK_BUDGET_SLOTS"), Ok(Some("budget.slots".to_owned())));
        assert_eq!(of_variable("POTLUCK_DATA"), Ok(None));
        assert_eq!(of_variable("PATH"), Ok(None));
        let error = of_variable("POTLUCK_BUDGET_SLOT").unwrap_err();
        assert!(error.ends_with("; did you mean POTLUCK_BUDGET_SLOTS?"), "{error}");
    }

    #[test]
    fn the_nearest_name_is_offered() {
        for (wrong, hint) in [
            ("budget.cpu-percnt", "did you mean `cpu-percent`?"),
            ("budget.cpu_percent", "did you mean `cpu-percent`?"),
            ("budget.idle.slot", "did you mean `slots`?"),
            ("budget.at.2.uplaod", "did you mean `upload`?"),
            ("slot", "did you mean `slots` of [budget]?"),
            ("slots", "it belongs to [budget]"),
            ("budget.listen", "it belongs to the top of the file"),
            ("budget.idle.disk", "`disk` holds at all times and stands in [budget]"),
            ("choice.weights.me", "`me` is no peer id"),
            ("speed", "`potluck config init` writes"),
        ] {
            assert!(unknown(wrong).contains(hint), "{wrong}: {}", unknown(wrong));
        }
        assert!(unknown(&"x".repeat(100_000)).contains("is no key"));
    }
}
