;; An honest recursion: a million frames, then the way back. Exit code: how many there were.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (func $count (param $left i32) (result i32)
    (if (result i32) (local.get $left)
      (then (i32.add (i32.const 1) (call $count (i32.sub (local.get $left) (i32.const 1)))))
      (else (i32.const 0))))
  (func (export "_start") (call $proc_exit (call $count (i32.const 1000000)))))
