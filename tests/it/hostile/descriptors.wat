;; Plays with descriptors, vectors and pointers. Exit code: 0, or the number of the first answer
;; that was another than expected. The two vectors of the seventh come out: 131,070 bytes.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (global $number (mut i32) (i32.const 0))
  (func $expect (param $answer i32) (param $expected i32)
    (global.set $number (i32.add (global.get $number) (i32.const 1)))
    (if (i32.ne (local.get $answer) (local.get $expected))
      (then (call $proc_exit (global.get $number)))))
  (func $vector (param $at i32) (param $from i32) (param $bytes i32)
    (i32.store (local.get $at) (local.get $from))
    (i32.store (i32.add (local.get $at) (i32.const 4)) (local.get $bytes)))
  (func (export "_start")
    ;; 1-4: descriptors that never were.
    (call $expect (call $fd_close (i32.const 99)) (i32.const 8))
    (call $expect (call $fd_close (i32.const -1)) (i32.const 8))
    (call $expect (call $fd_renumber (i32.const 1) (i32.const 99)) (i32.const 8))
    (call $expect (call $fd_renumber (i32.const -1) (i32.const 1)) (i32.const 8))
    ;; 5-6: more vectors than memory has room for, all of them empty as far as they exist.
    (call $expect (call $fd_write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 0)) (i32.const 21))
    (call $expect (call $fd_read (i32.const 0) (i32.const 0) (i32.const 0x20000000) (i32.const 0)) (i32.const 21))
    ;; 7-8: vectors that overlap, with no place for their count; one that sticks out of memory.
    (call $vector (i32.const 0) (i32.const 1) (i32.const 0xffff))
    (memory.copy (i32.const 8) (i32.const 0) (i32.const 8))
    (call $expect (call $fd_write (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 0xfffd)) (i32.const 21))
    (call $vector (i32.const 0) (i32.const 65535) (i32.const 2))
    (call $expect (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)) (i32.const 21))
    ;; 9-11: a read into its own vectors, and where the count goes, on top of them.
    (call $vector (i32.const 0) (i32.const 0) (i32.const 4))
    (call $vector (i32.const 8) (i32.const 8) (i32.const 4))
    (call $expect (call $fd_read (i32.const 0) (i32.const 0) (i32.const 2) (i32.const 0)) (i32.const 0))
    (call $expect (i32.load (i32.const 0)) (i32.const 8))
    (call $expect (i32.load (i32.const 8)) (i32.const 0x68676665))
    ;; 12-13: the wrong way round.
    (call $vector (i32.const 0) (i32.const 0) (i32.const 4))
    (call $expect (call $fd_write (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 64)) (i32.const 8))
    (call $expect (call $fd_read (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)) (i32.const 8))
    ;; 14-15: a status that sticks out of memory, and onto itself.
    (call $expect (call $fd_fdstat_get (i32.const 1) (i32.const 0xfff0)) (i32.const 21))
    (call $expect (call $fd_renumber (i32.const 1) (i32.const 1)) (i32.const 0))
    ;; 16-20: standard error takes the place of standard output and is gone from its own.
    (call $expect (call $fd_renumber (i32.const 2) (i32.const 1)) (i32.const 0))
    (call $expect (call $fd_close (i32.const 2)) (i32.const 8))
    (call $vector (i32.const 0) (i32.const 128) (i32.const 4))
    (call $expect (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)) (i32.const 0))
    (call $expect (call $fd_close (i32.const 1)) (i32.const 0))
    (call $expect (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)) (i32.const 8))))
