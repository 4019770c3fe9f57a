;; Looks through all of its memory for the letter Z and refuses with how many there are: -1 if there is none. Before it answers
;; it copies its input to places of its own, to the end of memory, and to its output buffer.
(module
  (memory (export "memory") 4)
  (data (i32.const 64) "{\"agent\":{\"secrecy\":[],\"integrity\":[]},\"difc_mode\":\"filter\",\"normalized_policy\":{}}")
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (local $at i32) (local $end i32) (local $found i32) (local $some i32)
    (local.set $end (i32.shl (memory.size) (i32.const 16)))
    (loop $next
      (local.set $found (i32.add (local.get $found) (i32.eq (i32.load8_u (local.get $at)) (i32.const 90))))
      (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $end))))
    (local.set $some (select (local.get $len) (i32.const 4000) (i32.lt_u (local.get $len) (i32.const 4000))))
    (memory.copy (i32.const 1024) (local.get $in) (local.get $some))
    (memory.copy (i32.const 100000) (local.get $in) (local.get $some))
    (memory.copy (i32.sub (local.get $end) (local.get $some)) (local.get $in) (local.get $some))
    (memory.copy (local.get $out) (local.get $in) (local.get $some))
    (i32.sub (i32.const -1) (local.get $found)))
  (func (export "label_response") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.const 0)))
