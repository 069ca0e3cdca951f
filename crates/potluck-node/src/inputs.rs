//! Rows of input tables, read from the disk page by page.

use std::sync::Arc;

use potluck_unit::{BlobId, InputIndex, PageRef, Row, rows_of_page};

use crate::net::Wanted;
use crate::store::Store;

/// Reads rows of one job's table. Holds the page last used: units of a chunk are neighbours.
#[derive(Debug)]
pub(crate) struct Rows {
    store: Store,
    index: InputIndex,
    page: Option<(PageRef, Arc<Vec<Row>>)>,
}

impl Rows {
    /// The table with this index blob; an error, for a person, if the blob is not here or is no
    /// index.
    pub(crate) fn open(store: &Store, index: &BlobId) -> Result<Rows, String> {
        let bytes = store.read(&Wanted::Blob(*index)).ok_or("the input index is not on disk")?;
        let index = InputIndex::of_blob(&bytes).map_err(|error| format!("input index: {error}"))?;
        Ok(Rows { store: store.clone(), index, page: None })
    }

    /// The row of `unit`; none if the page is not here, is no page, or does not go that far.
    pub(crate) fn row(&mut self, unit: u32) -> Option<Row> {
        let page = self.index.page_of(unit)?;
        if self.page.as_ref().is_none_or(|(held, _)| *held != page) {
            let bytes = self.store.read(&Wanted::Blob(page.id))?;
            self.page = Some((page, Arc::new(rows_of_page(&bytes).ok()?)));
        }
        let (_, rows) = self.page.as_ref()?;
        rows.get((unit - page.first_unit) as usize).cloned()
    }
}
