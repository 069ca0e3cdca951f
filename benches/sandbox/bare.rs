//! The engine without a sandbox, in this process: what a unit costs at least.

use std::sync::Arc;

use wasmtime::{
    Caller, Config, Engine, Extern, InstanceAllocationStrategy, InstancePre, Linker, Module,
    PoolingAllocationConfig, Store,
};

/// A module ready to be instantiated, from a pool of one as in a runner child.
pub(crate) struct Program {
    engine: Engine,
    instance: InstancePre<Streams>,
}

/// What a guest reads and writes.
struct Streams {
    stdin: Arc<[u8]>,
    taken: usize,
    stdout: Vec<u8>,
}

impl Program {
    pub(crate) fn new(wasm: &[u8]) -> Program {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(1)
            .total_memories(1)
            .total_tables(1)
            .linear_memory_keep_resident(2 << 20);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        config.cranelift_nan_canonicalization(true).wasm_backtrace_max_frames(None);
        let engine = Engine::new(&config).expect("an engine");
        let mut linker = Linker::new(&engine);
        let preview1 = "wasi_snapshot_preview1";
        linker.func_wrap(preview1, "fd_read", read).expect("a new name");
        linker.func_wrap(preview1, "fd_write", write).expect("a new name");
        let module = Module::new(&engine, wasm).expect("the guest compiles");
        let instance = linker.instantiate_pre(&module).expect("the guest links");
        Program { engine, instance }
    }

    /// Runs it once and leaves in `stdout` what it wrote.
    pub(crate) fn run(&self, stdin: &Arc<[u8]>, stdout: &mut Vec<u8>) {
        stdout.clear();
        let streams =
            Streams { stdin: Arc::clone(stdin), taken: 0, stdout: std::mem::take(stdout) };
        let mut store = Store::new(&self.engine, streams);
        let instance = self.instance.instantiate(&mut store).expect("there is room for it");
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").expect("a command");
        start.call(&mut store, ()).expect("the guest ends well");
        *stdout = store.into_data().stdout;
    }
}

/// `fd_read` for guests that do nothing wrong: one slice, whatever the descriptor.
fn read(mut caller: Caller<'_, Streams>, _: i32, slices: i32, _: i32, count_at: i32) -> i32 {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return 1 };
    let (bytes, streams) = memory.data_and_store_mut(&mut caller);
    let (at, length) = slice(bytes, slices);
    let rest = &streams.stdin[streams.taken..];
    let count = rest.len().min(length);
    bytes[at..at + count].copy_from_slice(&rest[..count]);
    streams.taken += count;
    put(bytes, count_at, count);
    0
}

/// `fd_write` likewise.
fn write(mut caller: Caller<'_, Streams>, _: i32, slices: i32, _: i32, count_at: i32) -> i32 {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return 1 };
    let (bytes, streams) = memory.data_and_store_mut(&mut caller);
    let (at, length) = slice(bytes, slices);
    streams.stdout.extend_from_slice(&bytes[at..at + length]);
    put(bytes, count_at, length);
    0
}

fn slice(bytes: &[u8], slices: i32) -> (usize, usize) {
    let word = |at: usize| {
        let word = bytes[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(word) as usize
    };
    let at = usize::try_from(slices).expect("a small address");
    (word(at), word(at + 4))
}

fn put(bytes: &mut [u8], at: i32, count: usize) {
    let at = usize::try_from(at).expect("a small address");
    let count = u32::try_from(count).expect("a small count");
    bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
}
