;; Sleeps for a hundred years, and then for as long as can be said, twice. Exit code: the years that
;; the clock had moved after the first sleep, or 0 if it ever went backwards.
(module
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func $now (result i64)
    (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 0)))
    (i64.load (i32.const 0)))
  (func $sleep (param $ns i64)
    (i32.store (i32.const 116) (i32.const 1))
    (i64.store (i32.const 124) (local.get $ns))
    (drop (call $poll_oneoff (i32.const 100) (i32.const 200) (i32.const 1) (i32.const 300))))
  (func (export "_start")
    (local $before i64) (local $after i64) (local $years i32)
    (local.set $before (call $now))
    (call $sleep (i64.const 3155760000000000000))
    (local.set $after (call $now))
    (local.set $years (i32.wrap_i64 (i64.div_u
      (i64.sub (local.get $after) (local.get $before)) (i64.const 31557600000000000))))
    (call $sleep (i64.const -1))
    (call $sleep (i64.const -1))
    (if (i64.lt_u (call $now) (local.get $after)) (then (local.set $years (i32.const 0))))
    (call $proc_exit (local.get $years))))
