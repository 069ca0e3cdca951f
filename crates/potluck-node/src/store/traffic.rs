//! The counts of traffic, as one note.

use potluck_unit::Time;

use super::{Change, Store, StoreError};
use crate::net::Moved;
use crate::traffic::Book;

impl Store {
    /// The counts of traffic, if any were kept. What can't be understood counts as none.
    ///
    /// # Errors
    /// If the database can't be read.
    pub(crate) fn traffic(&self) -> Result<Option<Book>, StoreError> {
        let notes = self.notes()?;
        Ok(notes.iter().find(|(key, _)| key == NAME).and_then(|(_, value)| read(value)))
    }

    /// Keeps the counts of traffic in the place of those before. They are on disk when this returns.
    ///
    /// # Errors
    /// If the disk fails; then nothing has changed.
    pub(crate) fn keep_traffic(&self, book: &Book) -> Result<(), StoreError> {
        self.commit(&[Change::Note { key: NAME.to_vec(), value: write(book) }])
    }
}

/// The ends of day and month, then day, month and ever, sent before received: 8 numbers, LE.
fn write(book: &Book) -> Vec<u8> {
    let counts = [book.today, book.month, book.ever];
    let counts = counts.iter().flat_map(|moved| [moved.sent, moved.received]);
    let numbers = [book.day_ends.0, book.month_ends.0].into_iter().chain(counts);
    numbers.flat_map(u64::to_le_bytes).collect()
}

fn read(bytes: &[u8]) -> Option<Book> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let numbers: [[u8; 8]; 8] = numbers.try_into().ok().filter(|_| rest.is_empty())?;
    let [day, month, numbers @ ..] = numbers.map(u64::from_le_bytes);
    let moved = |at: usize| Moved { sent: numbers[at], received: numbers[at + 1] };
    Some(Book {
        day_ends: Time(day),
        month_ends: Time(month),
        today: moved(0),
        month: moved(2),
        ever: moved(4),
        seen: Moved::default(),
    })
}

const NAME: &[u8] = b"traffic";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let moved = |sent| Moved { sent, received: u64::MAX - sent };
        let book = Book {
            day_ends: Time(1),
            month_ends: Time(2),
            today: moved(3),
            month: moved(4),
            ever: moved(5),
            seen: Moved::default(),
        };
        let bytes = write(&book);
        assert_eq!(read(&bytes), Some(book));
        for length in [0, 1, 63, 65] {
            assert_eq!(read(&vec![0; length]), None);
        }
    }
}
