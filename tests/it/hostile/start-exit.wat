;; Ends before `_start`, which would trap. Exit code: 7.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (func $early (call $proc_exit (i32.const 7)))
  (start $early)
  (func (export "_start") unreachable))
