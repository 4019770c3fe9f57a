;; A well-behaved guard without an allocator: its buffers are at the end of its memory. It checks that its
;; input begins with a brace, as far from its own memory as it is.
(module
  (memory (export "memory") 2)
  (data (i32.const 64) "{\"agent\":{\"secrecy\":[],\"integrity\":[]},\"difc_mode\":\"filter\",\"normalized_policy\":{}}")
  (data (i32.const 256) "{\"resource\":{\"description\":\"ok\",\"secrecy\":[],\"integrity\":[]},\"operation\":\"read\"}")
  (func $ok (param $out i32) (result i32)
    (memory.copy (local.get $out) (i32.const 256) (i32.const 80))
    (i32.const 80))
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (if (i32.ne (i32.load8_u (local.get $in)) (i32.const 123)) (then (return (i32.const -9))))
    (call $ok (local.get $out)))
  (func (export "label_response") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.const 0)))
