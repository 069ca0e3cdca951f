;; Never ends, and never calls out.
(module (func (export "_start") (loop $again (br $again))))
