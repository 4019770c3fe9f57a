;; Grows each of its tables as far as it goes, also by all that fits into 32 bits, and refuses with the sum of their sizes.
;; Not by single entries: each growth copies the table, so that a hundred thousand of them take a minute.
(module
  (memory (export "memory") 2)
  (data (i32.const 64) "{\"agent\":{\"secrecy\":[],\"integrity\":[]},\"difc_mode\":\"filter\",\"normalized_policy\":{}}")
  (data (i32.const 256) "{\"resource\":{\"description\":\"ok\",\"secrecy\":[],\"integrity\":[]},\"operation\":\"read\"}")
  (table $first 1 funcref)
  (table $second 10 4000000000 funcref)
  (table $third 3 10 funcref)
  (elem declare func $ok)
  (func $ok (param $out i32) (result i32)
    (memory.copy (local.get $out) (i32.const 256) (i32.const 80))
    (i32.const 80))
  (func (export "label_agent") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (memory.copy (local.get $out) (i32.const 64) (i32.const 83))
    (i32.const 83))
  (func (export "label_resource") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (local $size i32)
    (drop (table.grow $first (ref.null func) (i32.const -1)))
    (drop (table.grow $first (ref.null func) (i32.const 2000000000)))
    (block $full
      (loop $more
        (br_if $full (i32.eq (table.grow $first (ref.func $ok) (i32.const 9999)) (i32.const -1)))
        (br $more)))
    (drop (table.grow $second (ref.func $ok) (i32.const 99990)))
    (drop (table.grow $second (ref.func $ok) (i32.const 1)))
    (drop (table.grow $third (ref.func $ok) (i32.const 7)))
    (drop (table.grow $third (ref.func $ok) (i32.const 1)))
    (i32.sub
      (i32.const 0)
      (i32.add (table.size $first) (i32.add (table.size $second) (table.size $third)))))
  (func (export "label_response") (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (i32.const 0)))
