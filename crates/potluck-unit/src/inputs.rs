//! The input table of a job: one row per unit, cut into pages that are blobs of their own.
//!
//! A job names the table by the id of its *index* blob; the index names every page by its id. So
//! one signature commits to every row, and a worker needs only the index and one page to start.

use serde::{Deserialize, Serialize};

use crate::BlobId;
use crate::encoding::{self, DecodeError};

/// What one unit gets: its arguments (without `argv[0]`) and its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Row {
    /// The program's arguments.
    pub args: Vec<String>,
    /// All of standard input.
    pub stdin: Vec<u8>,
}

impl Row {
    /// 16 MiB: a worker holds the row of each running unit in memory.
    pub const BYTES_MAX: usize = 16 << 20;
    /// 1,024 arguments.
    pub const ARGS_MAX: usize = 1024;

    fn bytes(&self) -> usize {
        self.stdin.len() + self.args.iter().map(|arg| arg.len() + 1).sum::<usize>()
    }
}

/// The index of an input table: which page holds which units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputIndex {
    pages: Vec<PageRef>,
}

/// One page as its index names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// The page's blob.
    pub id: BlobId,
    /// The unit of its first row.
    pub first_unit: u32,
    /// The page's size in bytes.
    pub bytes: u32,
}

/// The rows of an input table are over a bound. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputsError {
    /// A job without units.
    #[error("there is no unit: the input has no rows")]
    Empty,
    /// More units than a job may have.
    #[error(
        "{units} units are more than the {max} that one job may have; split it into several jobs"
    )]
    TooMany {
        /// How many rows there are.
        units: usize,
        /// How many there may be.
        max: u32,
    },
    /// One row alone is too large.
    #[error("the input of unit {unit} has {bytes} bytes, and {max} are allowed")]
    RowTooLarge {
        /// Which row.
        unit: usize,
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// One row has too many arguments.
    #[error("unit {unit} has {args} arguments, and {max} are allowed")]
    TooManyArgs {
        /// Which row.
        unit: usize,
        /// How many arguments it has.
        args: usize,
        /// The bound.
        max: usize,
    },
    /// All rows together are too large.
    #[error("the inputs make {pages} pages, and {max} are allowed; split the job into several")]
    TooLarge {
        /// How many pages the rows need.
        pages: usize,
        /// The bound.
        max: usize,
    },
}

/// An input table ready to be kept: the index and the blobs it names.
#[derive(Debug, Clone)]
pub struct InputTable {
    /// The index blob's bytes. Their id goes into the job.
    pub index: Vec<u8>,
    /// Every page's bytes, in the order of the index.
    pub pages: Vec<Vec<u8>>,
}

impl InputTable {
    /// Pages are closed at 256 KiB: large enough that a million rows need a short index, small
    /// enough that the first one is there soon.
    pub const PAGE_BYTES: usize = 256 << 10;
    /// 16,384 pages, 4 GiB of rows.
    pub const PAGES_MAX: usize = 16 << 10;
    /// A million units in one job.
    pub const UNITS_MAX: u32 = 1_000_000;

    /// Cuts rows into pages and names them.
    pub fn of_rows(rows: &[Row]) -> Result<InputTable, InputsError> {
        check(rows)?;
        let mut table = InputTable { index: Vec::new(), pages: Vec::new() };
        let mut refs = Vec::new();
        let mut first = 0;
        while first < rows.len() {
            let end = page_end(rows, first);
            let page = encoding::encode(&rows[first..end]);
            refs.push(PageRef {
                id: BlobId::of(&page),
                first_unit: u32_of(first),
                bytes: u32_of(page.len()),
            });
            table.pages.push(page);
            first = end;
        }
        if refs.len() > Self::PAGES_MAX {
            return Err(InputsError::TooLarge { pages: refs.len(), max: Self::PAGES_MAX });
        }
        table.index = encoding::encode(&InputIndex { pages: refs });
        Ok(table)
    }
}

impl InputIndex {
    /// An index of the most pages, encoded.
    pub const BYTES_MAX: usize = InputTable::PAGES_MAX * (BlobId::BYTES + 10) + 8;

    /// Reads an index blob. It is refused unless its pages begin at unit 0 and go up.
    pub fn of_blob(bytes: &[u8]) -> Result<InputIndex, DecodeError> {
        let index: InputIndex = encoding::decode(bytes, Self::BYTES_MAX)?;
        let starts = index.pages.first().is_some_and(|page| page.first_unit == 0);
        let rises = index.pages.windows(2).all(|pair| pair[0].first_unit < pair[1].first_unit);
        let small = index.pages.iter().all(|page| page.bytes as usize <= PAGE_BYTES_MAX);
        if starts && rises && small && index.pages.len() <= InputTable::PAGES_MAX {
            Ok(index)
        } else {
            Err(DecodeError::OutOfBounds { what: "input index" })
        }
    }

    /// Every page.
    pub fn pages(&self) -> &[PageRef] {
        &self.pages
    }

    /// The page that holds `unit`, unless the unit is past the last page's start by a lie in the
    /// job: then the page will turn out not to have the row.
    pub fn page_of(&self, unit: u32) -> Option<PageRef> {
        let after = self.pages.partition_point(|page| page.first_unit <= unit);
        after.checked_sub(1).map(|at| self.pages[at])
    }
}

/// Reads a page blob's rows.
pub fn rows_of_page(bytes: &[u8]) -> Result<Vec<Row>, DecodeError> {
    let rows: Vec<Row> = encoding::decode(bytes, PAGE_BYTES_MAX)?;
    match check(&rows) {
        Ok(()) => Ok(rows),
        Err(_) => Err(DecodeError::OutOfBounds { what: "input page" }),
    }
}

fn check(rows: &[Row]) -> Result<(), InputsError> {
    if rows.is_empty() {
        return Err(InputsError::Empty);
    }
    if rows.len() > InputTable::UNITS_MAX as usize {
        return Err(InputsError::TooMany { units: rows.len(), max: InputTable::UNITS_MAX });
    }
    for (unit, row) in rows.iter().enumerate() {
        if row.bytes() > Row::BYTES_MAX {
            let (bytes, max) = (row.bytes(), Row::BYTES_MAX);
            return Err(InputsError::RowTooLarge { unit, bytes, max });
        }
        if row.args.len() > Row::ARGS_MAX {
            let (args, max) = (row.args.len(), Row::ARGS_MAX);
            return Err(InputsError::TooManyArgs { unit, args, max });
        }
    }
    Ok(())
}

fn page_end(rows: &[Row], first: usize) -> usize {
    let mut bytes = 0;
    let fits = rows[first..].iter().take_while(|row| {
        bytes += row.bytes() + 4;
        bytes <= InputTable::PAGE_BYTES
    });
    first + fits.count().max(1)
}

fn u32_of(number: usize) -> u32 {
    u32::try_from(number).expect("rows and pages are bounded far below 2^32")
}

/// The largest page is one row of the largest size, with the lengths of its parts.
const PAGE_BYTES_MAX: usize = Row::BYTES_MAX + 10 * Row::ARGS_MAX + 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(arg: &str) -> Row {
        Row { args: vec![arg.to_owned()], stdin: Vec::new() }
    }

    #[test]
    fn every_row_is_found_again_through_the_index() {
        let rows: Vec<Row> = (0..100_000).map(|n| row(&n.to_string())).collect();
        let table = InputTable::of_rows(&rows).unwrap();
        let index = InputIndex::of_blob(&table.index).unwrap();
        assert!(table.pages.len() > 1);
        for unit in [0, 1, 54_321, 99_999] {
            let page = index.page_of(unit).unwrap();
            let at = index.pages().iter().position(|other| *other == page).unwrap();
            let found = &rows_of_page(&table.pages[at]).unwrap()[(unit - page.first_unit) as usize];
            assert_eq!(*found, rows[unit as usize]);
        }
    }

    #[test]
    fn a_million_short_rows_stay_well_under_100_mb() {
        let rows: Vec<Row> = (0..1_000_000).map(|n| row(&format!("{n:040}"))).collect();
        let table = InputTable::of_rows(&rows).unwrap();
        let bytes = table.index.len() + table.pages.iter().map(Vec::len).sum::<usize>();
        assert!(bytes < 50_000_000, "{bytes}");
    }

    #[test]
    fn one_past_each_bound_is_refused() {
        assert_eq!(InputTable::of_rows(&[]).unwrap_err(), InputsError::Empty);
        let large = Row { args: vec![], stdin: vec![0; Row::BYTES_MAX + 1] };
        assert!(matches!(
            InputTable::of_rows(&[row("a"), large]),
            Err(InputsError::RowTooLarge { unit: 1, .. })
        ));
        let wide = Row { args: vec![String::new(); Row::ARGS_MAX + 1], stdin: vec![] };
        assert!(matches!(InputTable::of_rows(&[wide]), Err(InputsError::TooManyArgs { .. })));
        let many = vec![Row::default(); InputTable::UNITS_MAX as usize + 1];
        assert!(matches!(InputTable::of_rows(&many), Err(InputsError::TooMany { .. })));
    }

    #[test]
    fn the_largest_row_fits_a_page() {
        let row = Row { args: vec![], stdin: vec![0; Row::BYTES_MAX] };
        let table = InputTable::of_rows(std::slice::from_ref(&row)).unwrap();
        assert!(rows_of_page(&table.pages[0]).unwrap() == [row]);
    }

    #[test]
    fn an_index_that_skips_or_repeats_units_is_refused() {
        let page = |first_unit| PageRef { id: BlobId([0; 32]), first_unit, bytes: 1 };
        for firsts in [&[][..], &[1], &[0, 0], &[0, 5, 4]] {
            let pages = firsts.iter().map(|first| page(*first)).collect();
            assert!(InputIndex::of_blob(&encoding::encode(&InputIndex { pages })).is_err());
        }
    }
}
