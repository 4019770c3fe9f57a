;; Calls its backend 60 times and refuses with the negative number of calls that were answered.
(module
  (import "env" "call_backend" (func $backend (param i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "{\"agent\":{\"secrecy\":[],\"integrity\":[]},\"difc_mode\":\"filter\",\"normalized_policy\":{}}")
  (data (i32.const 1024) "ask")
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (local $left i32) (local $good i32)
    (local.set $left (i32.const 60))
    (loop $more
      (if (i32.ge_s (call $backend (i32.const 1024) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 64)) (i32.const 0))
        (then (local.set $good (i32.add (local.get $good) (i32.const 1)))))
      (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.sub (i32.const 0) (local.get $good)))
  (func (export "label_response") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.const 0)))
