;; Asks for 512 MiB of randomness, 8 MiB at a time, and prints the last 16 bytes.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 129)
  (data (i32.const 8388608) "\f0\ff\7f\00\10\00\00\00")
  (func (export "_start")
    (local $left i32)
    (local.set $left (i32.const 64))
    (loop $next
      (drop (call $random_get (i32.const 0) (i32.const 8388608)))
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (drop (call $fd_write (i32.const 1) (i32.const 8388608) (i32.const 1) (i32.const 8388624)))))
