;; Calls itself for ever, never from the last place.
(module
  (func $deeper (export "_start") (call $deeper) (call $deeper)))
