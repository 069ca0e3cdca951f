;; Looks at the clock until ten seconds have passed by it. Exit code: how many looks that took.
(module
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (local $end i64) (local $looks i32)
    (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 0)))
    (local.set $end (i64.add (i64.load (i32.const 0)) (i64.const 10000000000)))
    (loop $again
      (local.set $looks (i32.add (local.get $looks) (i32.const 1)))
      (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 0)))
      (br_if $again (i64.lt_u (i64.load (i32.const 0)) (local.get $end))))
    (call $proc_exit (local.get $looks))))
