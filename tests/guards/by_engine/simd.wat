;; Copies its answer by vectors, from a global and through a local, a block and a select of v128; a function of its own takes
;; and returns vectors, and is exported.
(module
  (memory (export "memory") 2)
  (data (i32.const 64) "{\"agent\":{\"secrecy\":[],\"integrity\":[]},\"difc_mode\":\"filter\",\"normalized_policy\":{}}")
  (data (i32.const 256) "{\"resource\":{\"description\":\"ok\",\"secrecy\":[],\"integrity\":[]},\"operation\":\"read\"}")
  (global $zero v128 (v128.const i64x2 0 0))
  (func $add (export "add") (param v128 v128) (result v128) (i8x16.add (local.get 0) (local.get 1)))
  (func $ok (param $out i32) (result i32)
    (memory.copy (local.get $out) (i32.const 256) (i32.const 80))
    (i32.const 80))
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (local $at i32) (local $part v128)
    (loop $more
      (local.set $part (v128.load (i32.add (i32.const 256) (local.get $at))))
      (v128.store
        (i32.add (local.get $out) (local.get $at))
        (call $add
          (block (result v128) (select (result v128) (local.get $part) (global.get $zero) (i32.const 1)))
          (i8x16.splat (i32.const 0))))
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (br_if $more (i32.lt_u (local.get $at) (i32.const 80))))
    (i32.const 80))
  (func (export "label_response") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.const 0)))
