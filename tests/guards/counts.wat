;; Keeps state: refuses with -100 less the number of jobs it has had since label_agent, or with -1000 less the number
;; of times that label_agent was called, where that is not once. Traps if its input is longer than 1,000 bytes.
(module
  (memory (export "memory") 2)
  (data (i32.const 64) "{\"agent\":{\"secrecy\":[],\"integrity\":[]},\"difc_mode\":\"filter\",\"normalized_policy\":{}}")
  (global $agents (mut i32) (i32.const 0))
  (global $jobs (mut i32) (i32.const 0))
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (global.set $agents (i32.add (global.get $agents) (i32.const 1)))
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (if (i32.ne (global.get $agents) (i32.const 1))
      (then (return (i32.sub (i32.const -1000) (global.get $agents)))))
    (if (i32.gt_u (local.get $len) (i32.const 1000)) (then unreachable))
    (global.set $jobs (i32.add (global.get $jobs) (i32.const 1)))
    (i32.sub (i32.const -100) (global.get $jobs)))
  (func (export "label_response") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.const 0)))
