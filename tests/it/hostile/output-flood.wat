;; Writes 2 MiB and one byte to standard output, the byte last.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 4) "\00\00\01\00\00\00\00\00\01\00\00\00")
  (func (export "_start")
    (local $left i32)
    (local.set $left (i32.const 32))
    (loop $next
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 65536)))
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 65536)))))
