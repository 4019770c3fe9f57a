;; Imports host_log as if it gave a result.
(module
  (import "env" "host_log" (func (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "label_agent") (export "label_resource") (export "label_response")
    (param i32 i32 i32 i32) (result i32) (i32.const 0)))
