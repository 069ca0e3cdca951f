;; A segment of which one byte lies beyond memory.
(module
  (memory (export "memory") 256)
  (data (i32.const 16777213) "hi!\2a")
  (func (export "_start")))
