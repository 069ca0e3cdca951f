;; Echoes its arguments, a line each, then all of its standard input. `exit=N` (one digit) as the
;; first argument is not echoed and becomes the exit code.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  ;; 0: argc, 4: bytes of arguments, 8: iovec, 16: bytes moved; 64: argv, 4096: the arguments; 65536: input
  (memory (export "memory") 3)
  (func $write (param $at i32) (param $bytes i32)
    (i32.store (i32.const 8) (local.get $at))
    (i32.store (i32.const 12) (local.get $bytes))
    (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16))))
  ;; Turns the zero at the end of an argument into a line break and answers its length with it.
  (func $line (param $at i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $at))
    (loop $next
      (if (i32.load8_u (local.get $end))
        (then (local.set $end (i32.add (local.get $end) (i32.const 1))) (br $next))))
    (i32.store8 (local.get $end) (i32.const 10))
    (i32.add (i32.sub (local.get $end) (local.get $at)) (i32.const 1)))
  (func (export "_start")
    (local $arg i32) (local $at i32) (local $code i32)
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (drop (call $args_get (i32.const 64) (i32.const 4096)))
    (local.set $arg (i32.const 1))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $arg) (i32.load (i32.const 0))))
        (local.set $at (i32.load (i32.add (i32.const 64) (i32.mul (local.get $arg) (i32.const 4)))))
        ;; "exit" as four bytes, then "="
        (if (i32.and (i32.eq (i32.load (local.get $at)) (i32.const 0x74697865))
                     (i32.eq (i32.load8_u offset=4 (local.get $at)) (i32.const 61)))
          (then (local.set $code (i32.sub (i32.load8_u offset=5 (local.get $at)) (i32.const 48))))
          (else (call $write (local.get $at) (call $line (local.get $at)))))
        (local.set $arg (i32.add (local.get $arg) (i32.const 1)))
        (br $next)))
    (block $end
      (loop $more
        (i32.store (i32.const 8) (i32.const 65536))
        (i32.store (i32.const 12) (i32.const 65536))
        (br_if $end (call $fd_read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 16)))
        (br_if $end (i32.eqz (i32.load (i32.const 16))))
        (call $write (i32.const 65536) (i32.load (i32.const 16)))
        (br $more)))
    (call $proc_exit (local.get $code))))
