;; Gives labels that depend on more than the job. By the first letter of the tool's name, which follows {"tool_name":" :
;;   c how many such jobs this instance has had; r a seed that it drew at random for its first such job, mixed with the job's
;;   length, as hash maps are seeded; t the realtime clock; k none of them, so that it is honest. The description is eight
;;   letters a-p, four bits each.
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "{\22agent\22:{\22secrecy\22:[],\22integrity\22:[]},\22difc_mode\22:\22filter\22,\22normalized_policy\22:{}}")
  (data (i32.const 256) "{\22resource\22:{\22description\22:\22")
  (data (i32.const 384) "\22,\22secrecy\22:[],\22integrity\22:[]},\22operation\22:\22read\22}")
  (global $jobs (mut i32) (i32.const 0))
  (global $seed (mut i32) (i32.const 0))
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func $seed (result i32)
    (if (i32.eqz (global.get $seed)) (then
      (drop (call $random (i32.const 1024) (i32.const 4)))
      (global.set $seed (i32.or (i32.load (i32.const 1024)) (i32.const 1)))))
    (global.get $seed))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (local $letter i32) (local $value i32) (local $at i32)
    (local.set $letter (i32.load8_u offset=14 (local.get $in)))
    (local.set $value (i32.mul (local.get $len) (i32.const 0x01000193)))
    (if (i32.eq (local.get $letter) (i32.const 0x63)) ;; c
      (then (local.set $value (global.get $jobs))
        (global.set $jobs (i32.add (global.get $jobs) (i32.const 1)))))
    (if (i32.eq (local.get $letter) (i32.const 0x72)) ;; r
      (then (local.set $value (i32.mul (call $seed) (local.get $value)))))
    (if (i32.eq (local.get $letter) (i32.const 0x74)) ;; t
      (then
        (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 1032)))
        (local.set $value (i32.load (i32.const 1032)))))
    (memory.copy (local.get $out) (i32.const 256) (i32.const 28))
    (loop $next
      (i32.store8 offset=28 (i32.add (local.get $out) (local.get $at))
        (i32.add (i32.const 97) (i32.and (local.get $value) (i32.const 15))))
      (local.set $value (i32.shr_u (local.get $value) (i32.const 4)))
      (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const 8))))
    (memory.copy (i32.add (local.get $out) (i32.const 36)) (i32.const 384) (i32.const 50))
    (i32.const 86))
  (func (export "label_response") (param i32 i32 i32 i32) (result i32)
    (i32.const 0)))
