;; Grows its memory page by page until that fails. Exit code: the pages it got, or 0 if one large
;; step beyond the cap was granted after all.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (if (i32.ne (memory.grow (i32.const 65535)) (i32.const -1)) (then (call $proc_exit (i32.const 0))))
    (call $proc_exit (memory.size))))
