//! Rules of the repository that lints can't check: the arrows between crates, that pages and code
//! agree, that every file says what it is for and none grows without end.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Our crates that `name` names in its manifest, and all other crates that it names.
fn dependencies(name: &str) -> (Vec<String>, Vec<String>) {
    let path = root().join("crates").join(name).join("Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let names = manifest.get("dependencies").and_then(toml::Value::as_table);
    let names = names.map_or_else(Vec::new, |table| table.keys().cloned().collect::<Vec<_>>());
    names.into_iter().partition(|name| name.starts_with("potluck"))
}

#[test]
fn the_arrows_between_crates_are_those_of_the_architecture() {
    let arrows: [(&str, &[&str]); 6] = [
        ("potluck-unit", &[]),
        ("potluck-peer", &["potluck-unit"]),
        ("potluck-sandbox", &["potluck-unit"]),
        ("potluck-node", &["potluck-peer", "potluck-sandbox", "potluck-unit"]),
        ("potluck-cli", &["potluck-node", "potluck-unit"]),
        ("potluck-sim", &["potluck-peer", "potluck-unit"]),
    ];
    for (name, allowed) in arrows {
        let (mut ours, _) = dependencies(name);
        ours.sort();
        assert_eq!(ours, allowed, "{name}");
    }
    let there = std::fs::read_dir(root().join("crates")).unwrap().count();
    assert_eq!(there, arrows.len(), "a crate is missing here");
}

#[test]
fn the_mind_and_the_words_name_no_clock_socket_or_engine() {
    for (name, allowed) in [
        (
            "potluck-unit",
            &[
                "argon2",
                "blake3",
                "curve25519-dalek",
                "ed25519-dalek",
                "postcard",
                "serde",
                "sha2",
                "thiserror",
            ][..],
        ),
        ("potluck-peer", &[]),
    ] {
        let (_, others) = dependencies(name);
        for other in others {
            assert!(allowed.contains(&other.as_str()), "{name} must not name {other}");
        }
    }
    for crate_name in ["potluck-unit", "potluck-peer", "potluck-sim"] {
        for path in sources(&root().join("crates").join(crate_name).join("src")) {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for banned in ["std::fs", "std::thread", "Instant::now", "SystemTime", "UdpSocket"] {
                assert!(!code.contains(banned), "{} names {banned}", path.display());
            }
        }
    }
}

#[test]
fn every_dependency_has_its_reason_written() {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (_, others) = dependencies(&name);
        for other in others {
            assert!(page.contains(&format!("`{other}`")), "{name} uses {other} without a reason");
        }
    }
}

/// Every Rust file below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn all_sources() -> Vec<PathBuf> {
    ["crates", "tests", "benches"].iter().flat_map(|name| sources(&root().join(name))).collect()
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} starts without a `//!` line", path.display());
    }
}

#[test]
fn no_file_is_oversized() {
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let own = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = own.lines().count();
        assert!(lines <= 620, "{} has {lines} lines: split it by topic", path.display());
    }
}

#[test]
fn pages_name_modules_that_exist() {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut named = 0;
    for word in page.split('`').filter(|word| word.starts_with("crates/")) {
        named += 1;
        assert!(root().join(word).exists(), "docs/architecture.md names {word}");
    }
    assert!(named >= 10, "the map of docs/architecture.md names its files");
}

#[test]
fn every_verb_is_in_the_readme_or_the_docs() {
    let help = Command::new(crate::grid::POTLUCK).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let verbs = commands.lines().filter_map(|line| line.split_whitespace().next());
    let pages: String = std::fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .chain([root().join("README.md")])
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for verb in verbs.filter(|verb| *verb != "help") {
        assert!(
            pages.contains(&format!("potluck {verb}")),
            "`potluck {verb}` is documented nowhere"
        );
    }
}

#[test]
fn the_pages_stand_alone() {
    let pages = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for path in pages.chain([root().join("README.md")]).chain(all_sources()) {
        if path.ends_with("tests/it/tidy.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for foreign in ["../shared", "/work/", "/root/"] {
            assert!(!text.contains(foreign), "{} names {foreign}", path.display());
        }
    }
}
