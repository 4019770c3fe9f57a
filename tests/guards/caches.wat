;; Keeps what it sees, as the cache of a real guard does. By the first letter of the tool's name, which follows {"tool_name":" :
;;   g keeps 4 MiB, and traps if its memory has no room for them; f fills all of its memory and traps; l leaves three pages of
;;   it. Any other job keeps nothing.
(module
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 65536))
  (data (i32.const 64) "{\"agent\":{\"secrecy\":[],\"integrity\":[]},\"difc_mode\":\"filter\",\"normalized_policy\":{}}")
  (data (i32.const 256) "{\"resource\":{\"description\":\"ok\",\"secrecy\":[],\"integrity\":[]},\"operation\":\"read\"}")
  (func (export "alloc") (param $size i32) (result i32)
    (local $page i32)
    (local.set $page (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))))
    (if (i32.eq (local.get $page) (i32.const -1)) (then (return (i32.const 0))))
    (i32.shl (local.get $page) (i32.const 16)))
  (func (export "dealloc") (param i32 i32))
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (local $letter i32)
    (local.set $letter (i32.load8_u (i32.add (local.get $in) (i32.const 14))))
    (if (i32.eq (local.get $letter) (i32.const 0x66)) ;; f
      (then (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 1))))) unreachable))
    (if (i32.eq (local.get $letter) (i32.const 0x6c)) ;; l
      (then (loop $more (br_if $more
        (i32.and (i32.lt_u (memory.size) (i32.const 509)) (i32.ne (i32.const -1) (memory.grow (i32.const 1))))))))
    (if (i32.eq (local.get $letter) (i32.const 0x67)) ;; g
      (then (if (i32.eq (i32.const -1) (memory.grow (i32.const 64))) (then unreachable))))
    (memory.copy (local.get $out) (i32.const 256) (i32.const 80))
    (i32.const 80))
  (func (export "label_response") (param i32 i32 i32 i32) (result i32)
    (i32.const 0)))
