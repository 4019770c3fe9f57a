;; Logs two lines, the second one three times, and then does what the first letter of the job's tool name says: s spins for
;; ever, f fills its memory and then spins. Any other letter gets a label.
(module
  (import "env" "host_log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "{\"agent\":{\"secrecy\":[],\"integrity\":[]},\"difc_mode\":\"filter\",\"normalized_policy\":{}}")
  (data (i32.const 256) "{\"resource\":{\"description\":\"ok\",\"secrecy\":[],\"integrity\":[]},\"operation\":\"read\"}")
  (data (i32.const 512) "began")
  (data (i32.const 600) "near the end")
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (local $letter i32) (local $page i32)
    (local.set $letter (i32.load8_u offset=14 (local.get $in)))
    (call $log (i32.const 2) (i32.const 512) (i32.const 5))
    (call $log (i32.const 3) (i32.const 600) (i32.const 12))
    (call $log (i32.const 3) (i32.const 600) (i32.const 12))
    (call $log (i32.const 3) (i32.const 600) (i32.const 12))
    (if (i32.eq (local.get $letter) (i32.const 0x66)) (then
      (block $full
        (loop $more
          (local.set $page (memory.grow (i32.const 1)))
          (br_if $full (i32.eq (local.get $page) (i32.const -1)))
          (memory.fill (i32.shl (local.get $page) (i32.const 16)) (i32.const 1) (i32.const 65536))
          (br $more)))
      (loop $on (br $on))))
    (if (i32.eq (local.get $letter) (i32.const 0x73)) (then (loop $on (br $on))))
    (memory.copy (local.get $out) (i32.const 256) (i32.const 80))
    (i32.const 80))
  (func (export "label_response") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.const 0)))
