;; Writes 1.5 MB to standard output without a single newline: the same text, 200 times at once, 100 times
;; over.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
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
    (local $left i32)
    (local.set $left (i32.const 200))
    (loop $list
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (i32.store (i32.add (i32.const 4096) (i32.shl (local.get $left) (i32.const 3))) (i32.const 256))
      (i32.store offset=4 (i32.add (i32.const 4096) (i32.shl (local.get $left) (i32.const 3))) (i32.const 77))
      (br_if $list (local.get $left)))
    (local.set $left (i32.const 100))
    (loop $more
      (drop (call $write (i32.const 1) (i32.const 4096) (i32.const 200) (i32.const 1200)))
      (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (call $ok (local.get $out)))
  (func (export "label_response") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.const 0)))
