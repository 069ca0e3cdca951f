//! Arguments, and an environment that is always empty.

use wasmtime::{Caller, Linker};

use super::memory::{GuestMemory, split};
use super::{Answer, Errno, Guest, MODULE, number};

type Call<'a> = Caller<'a, Guest>;

/// The program's name: the same everywhere, because guests print it.
const NAME: &[u8] = b"task.wasm";

impl Guest {
    fn argv(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(NAME).chain(self.request.arguments())
    }
}

pub(super) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "args_sizes_get",
        |mut caller: Call<'_>, count: u32, bytes: u32| {
            number(
                split(&mut caller).and_then(|(memory, guest)| sizes(memory, guest, count, bytes)),
            )
        },
    )?;
    linker.func_wrap(MODULE, "args_get", |mut caller: Call<'_>, pointers: u32, bytes: u32| {
        number(split(&mut caller).and_then(|(memory, guest)| get(memory, guest, pointers, bytes)))
    })?;
    linker.func_wrap(
        MODULE,
        "environ_sizes_get",
        |mut caller: Call<'_>, count: u32, bytes: u32| {
            number(split(&mut caller).and_then(|(mut memory, _)| {
                memory.write_u32(count, 0)?;
                memory.write_u32(bytes, 0)
            }))
        },
    )?;
    linker.func_wrap(MODULE, "environ_get", |_: Call<'_>, _: u32, _: u32| 0_i32)?;
    Ok(())
}

fn sizes(mut memory: GuestMemory<'_>, guest: &Guest, count: u32, bytes: u32) -> Answer {
    let total: usize = guest.argv().map(|argument| argument.len() + 1).sum();
    memory.write_u32(count, u32::try_from(guest.argv().count()).map_err(|_| Errno::Invalid)?)?;
    memory.write_u32(bytes, u32::try_from(total).map_err(|_| Errno::Invalid)?)
}

fn get(mut memory: GuestMemory<'_>, guest: &Guest, mut pointers: u32, mut bytes: u32) -> Answer {
    for argument in guest.argv() {
        memory.write_u32(pointers, bytes)?;
        memory.write(bytes, argument)?;
        let end = bytes.checked_add(u32::try_from(argument.len()).map_err(|_| Errno::Fault)?);
        let end = end.ok_or(Errno::Fault)?;
        memory.write(end, &[0])?;
        bytes = end.wrapping_add(1);
        pointers = pointers.wrapping_add(4);
    }
    Ok(())
}
