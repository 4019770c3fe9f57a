;; label_agent asks the backend, and refuses the policy with -3 where that gives no answer. label_resource works for about
;; 200 ms where the tool's name begins with w, and answers at once otherwise. The name's first letter is at offset 14.
(module
  (import "env" "call_backend" (func $backend (param i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "{\22agent\22:{\22secrecy\22:[],\22integrity\22:[]},\22difc_mode\22:\22filter\22,\22normalized_policy\22:{}}")
  (data (i32.const 256) "{\22resource\22:{\22description\22:\22ok\22,\22secrecy\22:[],\22integrity\22:[]},\22operation\22:\22read\22}")
  (data (i32.const 512) "ask{}")
  (func $busy (param $turns i32)
    (loop $again
      (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
      (br_if $again (local.get $turns))))
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (if (i32.lt_s
        (call $backend (i32.const 512) (i32.const 3) (i32.const 515) (i32.const 2) (i32.const 1024) (i32.const 256))
        (i32.const 0))
      (then (return (i32.const -3))))
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (if (i32.eq (i32.load8_u (i32.add (local.get $in) (i32.const 14))) (i32.const 0x77))
      (then (call $busy (i32.const 500000000))))
    (memory.copy (local.get $out) (i32.const 256) (i32.const 80))
    (i32.const 80))
  (func (export "label_response") (param i32 i32 i32 i32) (result i32)
    (i32.const 0)))
