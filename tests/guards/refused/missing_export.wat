;; Has no label_response.
(module
  (memory (export "memory") 1)
  (func (export "label_agent") (export "label_resource") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
