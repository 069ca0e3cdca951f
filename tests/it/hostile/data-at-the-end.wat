;; A segment that ends where memory does. Exit code: its last byte.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 256)
  (data (i32.const 16777212) "hi!\2a")
  (func (export "_start") (call $proc_exit (i32.load8_u (i32.const 16777215)))))
