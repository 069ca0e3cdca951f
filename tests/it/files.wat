;; Reads the file `data.txt` if there is one, writes `read N` with one digit of its length to standard
;; output, and keeps a copy as `out/sub/copy` if there is a folder `out`.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory"
    (func $path_create_directory (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  ;; 0: iovec, 8: bytes moved, 12: descriptor; 64: names; 1024: contents
  (memory (export "memory") 1)
  (data (i32.const 64) "data.txt")
  (data (i32.const 80) "out/sub/copy")
  (data (i32.const 96) "read 0\n")
  (func $write (param $fd i32) (param $at i32) (param $bytes i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $bytes))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (local $length i32)
    ;; the right to read
    (if (i32.eqz (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 8)
          (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 12)))
      (then
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 9))
        (drop (call $fd_read (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $length (i32.load (i32.const 8)))))
    (i32.store8 (i32.const 101) (i32.add (i32.const 48) (local.get $length)))
    (call $write (i32.const 1) (i32.const 96) (i32.const 7))
    (drop (call $path_create_directory (i32.const 3) (i32.const 80) (i32.const 7)))
    ;; the right to write, and create
    (if (i32.eqz (call $path_open (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 12)
          (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 12)))
      (then (call $write (i32.load (i32.const 12)) (i32.const 1024) (local.get $length))))))
