;; Imports from the JavaScript glue of another toolchain.
(module
  (import "wbg" "__wbindgen_throw" (func (param i32 i32)))
  (memory (export "memory") 1)
  (func (export "label_agent") (export "label_resource") (export "label_response")
    (param i32 i32 i32 i32) (result i32) (i32.const 0)))
