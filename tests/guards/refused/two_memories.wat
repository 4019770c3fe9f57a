;; Has two memories.
(module
  (memory (export "memory") 1)
  (memory 1)
  (func (export "label_agent") (export "label_resource") (export "label_response")
    (param i32 i32 i32 i32) (result i32) (i32.const 0)))
