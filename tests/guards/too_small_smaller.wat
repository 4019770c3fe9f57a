;; Says that its buffer is too small and asks for 1,000 bytes, which is what it must then get. label_response
;; refuses with the negative size of its buffer.
(module
  (memory (export "memory") 2)
  (data (i32.const 64) "{\"agent\":{\"secrecy\":[],\"integrity\":[]},\"difc_mode\":\"filter\",\"normalized_policy\":{}}")
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (if (i32.ne (local.get $cap) (i32.const 1000))
      (then (i32.store (local.get $out) (i32.const 1000)) (return (i32.const -2))))
    (i32.const 1001))
  (func (export "label_response") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.sub (i32.const 0) (local.get $cap))))
