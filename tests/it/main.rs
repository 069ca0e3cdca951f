//! One binary for every test that needs the built program, real processes or the whole repository.

#![expect(clippy::unwrap_used, reason = "what a test can't go on without ends it")]

mod grid;

mod config;
#[cfg(target_os = "linux")]
mod budget;
mod demo;
#[cfg(target_os = "linux")]
mod doctor;
mod durability;
mod errors;
mod evidence;
mod exec;
mod given;
#[cfg(target_os = "linux")]
mod idle;
mod identity;
mod hostile;
mod largest;
#[cfg(target_os = "linux")]
mod lending;
mod lint;
mod programs;
mod service;
mod jobs;
mod network;
mod bandwidth;
mod thirdparty;
mod tidy;
