;; Begins with 600 pages of memory, more than the default cap of 512.
(module
  (memory (export "memory") 600)
  (func (export "label_agent") (export "label_resource") (export "label_response")
    (param i32 i32 i32 i32) (result i32) (i32.const 0)))
