;; Grows a table until that fails. Exit code: the elements it got.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (table $table 1 funcref)
  (func (export "_start")
    (loop $more
      (br_if $more (i32.ne (table.grow $table (ref.null func) (i32.const 9)) (i32.const -1))))
    (loop $one
      (br_if $one (i32.ne (table.grow $table (ref.null func) (i32.const 1)) (i32.const -1))))
    (call $proc_exit (table.size $table))))
