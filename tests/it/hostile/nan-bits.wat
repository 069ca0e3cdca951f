;; Makes NaNs out of a NaN with other bits. Exit code: 0 if each has the bits that are the same
;; everywhere.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (local $odd f64) (local $wrong i32)
    (local.set $odd (f64.reinterpret_i64 (i64.const 0xfff4000000000123)))
    (local.set $wrong (i64.ne (i64.const 0x7ff8000000000000)
      (i64.reinterpret_f64 (f64.add (local.get $odd) (f64.const 1)))))
    (local.set $wrong (i32.or (local.get $wrong) (i64.ne (i64.const 0x7ff8000000000000)
      (i64.reinterpret_f64 (f64.ceil (local.get $odd))))))
    (local.set $wrong (i32.or (local.get $wrong) (i32.ne (i32.const 0x7fc00000)
      (i32.reinterpret_f32 (f32.demote_f64 (local.get $odd))))))
    (call $proc_exit (local.get $wrong))))
