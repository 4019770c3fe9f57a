;; Calls its backend with its whole input as arguments and refuses with what came back, minus 100,000; but
;; what the backend wrote stays at 2048, in 64 bytes.
(module
  (import "env" "call_backend" (func $backend (param i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "{\"agent\":{\"secrecy\":[],\"integrity\":[]},\"difc_mode\":\"filter\",\"normalized_policy\":{}}")
  (data (i32.const 1024) "get_issue")
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.sub
      (call $backend (i32.const 1024) (i32.const 9) (local.get $in) (local.get $len) (i32.const 2048) (i32.const 64))
      (i32.const 100000)))
  (func (export "label_response") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.const 0)))
