;; Traps before `_start`.
(module
  (func $trap unreachable)
  (start $trap)
  (func (export "_start")))
