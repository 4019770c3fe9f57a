;; Its memory is shared between threads.
(module
  (memory (export "memory") 1 2 shared)
  (func (export "label_agent") (export "label_resource") (export "label_response")
    (param i32 i32 i32 i32) (result i32) (i32.const 0)))
