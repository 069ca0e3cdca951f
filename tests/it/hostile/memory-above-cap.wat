;; Starts with one page more than the job's limit.
(module (memory (export "memory") 257) (func (export "_start")))
