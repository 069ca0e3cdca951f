;; Never gets as far as `_start`.
(module
  (func $never (loop $again (br $again)))
  (start $never)
  (func (export "_start")))
