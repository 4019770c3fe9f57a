;; label_agent never returns.
(module
  (memory (export "memory") 2)
  (func (export "label_agent") (param i32 i32 i32 i32) (result i32) (loop $ever (br $ever)) (unreachable))
  (func (export "label_resource") (param i32 i32 i32 i32) (result i32) (i32.const 0))
  (func (export "label_response") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
