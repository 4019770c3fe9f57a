;; Exports a global where label_response must be.
(module
  (memory (export "memory") 1)
  (func (export "label_agent") (export "label_resource") (param i32 i32 i32 i32) (result i32) (i32.const 0))
  (global (export "label_response") i32 (i32.const 0)))
