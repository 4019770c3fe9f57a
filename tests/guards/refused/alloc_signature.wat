;; alloc has the signature of calloc, with two parameters.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32 i32) (result i32) (i32.const 0))
  (func (export "dealloc") (param i32 i32))
  (func (export "label_agent") (export "label_resource") (export "label_response")
    (param i32 i32 i32 i32) (result i32) (i32.const 0)))
