;; Raises every signal there is. Exit code: what each was answered, all bits together.
(module
  (import "wasi_snapshot_preview1" "proc_raise" (func $proc_raise (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (func (export "_start")
    (local $signal i32) (local $answers i32)
    (loop $next
      (local.set $answers (i32.or (local.get $answers) (call $proc_raise (local.get $signal))))
      (local.set $signal (i32.add (local.get $signal) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $signal) (i32.const 300))))
    (call $proc_exit (local.get $answers))))
