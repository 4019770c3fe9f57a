;; Imports a function that the host does not have.
(module
  (import "env" "read_file" (func (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "label_agent") (export "label_resource") (export "label_response")
    (param i32 i32 i32 i32) (result i32) (i32.const 0)))
