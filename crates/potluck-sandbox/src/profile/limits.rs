//! The limits on a module's shape, each with its reason. The verdict on a module is voted on, so
//! none of them may depend on the parser's or the engine's own limits, which differ by version.
//!
//! They do not bound what compiling costs: that is measured by doing it, see `compiler`. They do
//! see to it that whatever is accepted fits an instance and a runner child (`engine`, `child`).

/// One page of linear memory.
pub(crate) const PAGE_BYTES: u64 = 64 << 10;

/// Real programs are under 30 MB; above this, sending and compiling cost more than running.
pub(crate) const MODULE_MAX_BYTES: u64 = 32 << 20;
/// C programs have dozens, the largest that were measured a few hundred.
pub(crate) const TYPES_MAX: u64 = 10_000;
/// The sum over all types: each costs the parent and both children 16 bytes, while the module may
/// spend one.
pub(crate) const TYPE_VALUES_MAX: u64 = 1_000_000;
/// Of one type, parameters and results each: half of what browsers grant; no compiler comes near.
pub(crate) const PARAMETERS_MAX: u64 = 500;
/// There are 46 calls; importing one again costs an instance 32 bytes each time.
pub(crate) const IMPORTS_MAX: u64 = 1000;
/// Each costs the compiler about 5 KB, and an instance 32 bytes.
pub(crate) const FUNCTIONS_MAX: u64 = 100_000;
/// Toolchains emit one table.
pub(crate) const TABLES_MAX: u32 = 16;
/// One element per function is what toolchains need. `table.grow` above it answers -1.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;
/// A guess: real programs have a handful. Each costs an instance 16 bytes.
pub(crate) const GLOBALS_MAX: u64 = 100_000;
/// As many as functions: some linkers export them all.
pub(crate) const EXPORTS_MAX: u64 = 100_000;
/// Names of imports and exports together: a runner holds them all. Long C++ names have 80 bytes.
pub(crate) const NAMES_MAX_BYTES: u64 = 8 << 20;
/// Toolchains emit one segment for each table.
pub(crate) const ELEMENT_SEGMENTS_MAX: u64 = 1000;
/// Elements of all segments together: as many as a table holds.
pub(crate) const ELEMENTS_MAX: u64 = 100_000;
/// Programs that embed files have one or more for each: CPython with its library has 24,171. Each
/// costs an instance 12 bytes, and code that fills it unless it is part of an image.
pub(crate) const DATA_SEGMENTS_MAX: u64 = 50_000;
/// Instructions in constant expressions, all of the module together, their `end`s included: two for
/// each global, element and segment. The compiler makes one function of those that do arithmetic.
pub(crate) const CONST_INSTRUCTIONS_MAX: u64 = 500_000;
/// Ten times the largest real function that was measured.
pub(crate) const BODY_MAX_BYTES: u64 = 256 << 10;
/// The most that was measured is 46. Compile time grows with locals times blocks.
pub(crate) const LOCALS_MAX: u64 = 4096;
/// The deepest that was measured is 278.
pub(crate) const NESTING_MAX: u64 = 1000;
/// Branch tables are copied by the compiler; the sum over all functions.
pub(crate) const BR_TABLE_TARGETS_MAX: u64 = 1_000_000;
