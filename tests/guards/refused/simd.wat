;; Adds vectors, which this engine compiles wrong.
(module
  (memory (export "memory") 1)
  (func $add (param v128 v128) (result v128) (i32x4.add (local.get 0) (local.get 1)))
  (func (export "label_agent") (export "label_resource") (export "label_response")
    (param i32 i32 i32 i32) (result i32) (i32.const 0)))
