//! Guest memory as calls see it: every pointer is checked, and a bad one is an error number.

use wasmtime::{Caller, Extern};

use super::{Errno, Guest};

/// The bytes of a guest's memory.
pub(super) struct GuestMemory<'a>(&'a mut [u8]);

/// A guest's memory and its state, both writable at once. A guest that exports no memory has
/// nothing that a pointer could point to.
pub(super) fn split<'a>(
    caller: &'a mut Caller<'_, Guest>,
) -> Result<(GuestMemory<'a>, &'a mut Guest), Errno> {
    let memory = match caller.data().memory {
        Some(memory) => memory,
        None => {
            // Only a call from a start function comes before the memory is known.
            let memory = caller.get_export("memory").and_then(Extern::into_memory);
            let memory = memory.ok_or(Errno::Fault)?;
            caller.data_mut().memory = Some(memory);
            memory
        }
    };
    let (bytes, guest) = memory.data_and_store_mut(caller);
    Ok((GuestMemory(bytes), guest))
}

impl GuestMemory<'_> {
    pub(super) fn bytes(&self, at: u32, length: u32) -> Result<&[u8], Errno> {
        let at = at as usize;
        self.0.get(at..at.saturating_add(length as usize)).ok_or(Errno::Fault)
    }

    pub(super) fn bytes_mut(&mut self, at: u32, length: u32) -> Result<&mut [u8], Errno> {
        let at = at as usize;
        self.0.get_mut(at..at.saturating_add(length as usize)).ok_or(Errno::Fault)
    }

    pub(super) fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Errno> {
        let length = u32::try_from(bytes.len()).map_err(|_| Errno::Fault)?;
        self.bytes_mut(at, length)?.copy_from_slice(bytes);
        Ok(())
    }

    pub(super) fn write_u32(&mut self, at: u32, number: u32) -> Result<(), Errno> {
        self.write(at, &number.to_le_bytes())
    }

    pub(super) fn write_u64(&mut self, at: u32, number: u64) -> Result<(), Errno> {
        self.write(at, &number.to_le_bytes())
    }

    /// The `index`th of `count` records of `size` bytes at `at`; the whole array must be there.
    pub(super) fn record<const SIZE: usize>(
        &self,
        array: Array,
        index: u32,
    ) -> Result<[u8; SIZE], Errno> {
        let start = array.at as usize + index as usize * SIZE;
        let end = array.at as usize + array.count as usize * SIZE;
        if self.0.len() < end || index >= array.count {
            return Err(Errno::Fault);
        }
        let mut record = [0; SIZE];
        record.copy_from_slice(self.0.get(start..start + SIZE).ok_or(Errno::Fault)?);
        Ok(record)
    }

    /// The vectors of a scattered read or write.
    pub(super) fn vector(&self, array: Array, index: u32) -> Result<(u32, u32), Errno> {
        let [a, b, c, d, e, f, g, h] = self.record::<8>(array, index)?;
        Ok((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])))
    }

    /// Copies as much of `bytes` as the vectors hold, and says how much that is.
    pub(super) fn scatter(&mut self, vectors: Array, mut bytes: &[u8]) -> Result<u32, Errno> {
        let mut total = 0_u32;
        for index in 0..vectors.count {
            let (at, length) = self.vector(vectors, index)?;
            let into = self.bytes_mut(at, length)?;
            let (here, rest) = bytes.split_at(into.len().min(bytes.len()));
            into[..here.len()].copy_from_slice(here);
            // Bounded by the size of what is read.
            total += u32::try_from(here.len()).unwrap_or(0);
            bytes = rest;
            if bytes.is_empty() {
                break;
            }
        }
        Ok(total)
    }

    /// Checks every vector and says how much they hold.
    pub(super) fn check(&self, vectors: Array) -> Result<u32, Errno> {
        let mut total = 0_u32;
        for index in 0..vectors.count {
            let (at, length) = self.vector(vectors, index)?;
            self.bytes(at, length)?;
            total = total.checked_add(length).ok_or(Errno::Invalid)?;
        }
        Ok(total)
    }
}

/// Where a guest says that records lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Array {
    pub(super) at: u32,
    pub(super) count: u32,
}
