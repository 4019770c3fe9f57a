;; label_agent answers with a tag that differs in every instance: a letter from the random source.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "{\22agent\22:{\22secrecy\22:[],\22integrity\22:[\22xxxxxxxxxxxxxxxx\22]},\22difc_mode\22:\22filter\22,\22normalized_policy\22:{}}")
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (local $at i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 101))
    (drop (call $random (i32.add (local.get $out) (i32.const 37)) (i32.const 16)))
    ;; 16 letters a-p: one chance in 2^64 that two instances agree
    (loop $next
      (i32.store8 (i32.add (i32.add (local.get $out) (i32.const 37)) (local.get $at))
        (i32.add (i32.const 97)
          (i32.and (i32.load8_u (i32.add (i32.add (local.get $out) (i32.const 37)) (local.get $at))) (i32.const 15))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 16))))
    (i32.const 101))
  (func (export "label_resource") (param i32 i32 i32 i32) (result i32) (i32.const 0))
  (func (export "label_response") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
