"""The quick judge gives the bytes that `judge` gives, or leaves the answer to it; no guest has a hand in it.

Most answers go through an instance of a guard that echoes its input, so the bridge, the copy and the host's part are tested
with them.
"""

from __future__ import annotations

import functools
import json
import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings

import answerkit
import enginekit
import guardkit
import samplekit
import strategies
from answerkit import OPS, RESOURCE, RESPONSE, Echo, by_python
from guardpool import samples
from guardpool.contract import judge
from guardpool.errors import GuardInitError
from guardpool.sizes import FIRST_OUTPUT_BYTES, PAGE_BYTES, QUICK_JUDGE_BYTES
from guardpool.submit.payload import encode_job
from guardpool_worker.instance import GuardInstance, InstanceSettings
from paths import VECTORS

LONGEST = 128 * 1024


def described(description: str = '"d"', secrecy: str = '["a"]') -> str:
    return f'{{"description":{description},"secrecy":{secrecy},"integrity":["i"]}}'


def resource(labels: str, rest: str = ',"operation":"read"') -> str:
    return f'{{"resource":{labels}{rest}}}'


def response(members: str) -> str:
    return f'{{"labeled_paths":[{{{members}}}]}}'


L = described()
BARE = '{"secrecy":["a"],"integrity":[]}'


@functools.cache
def echo() -> Echo:
    return Echo()


def is_quick(op: str, answer: bytes, guard: Echo | None = None) -> bool:
    """Whether the quick judge took the answer; what came of it must be what Python makes of it."""
    guard = guard or echo()
    slow = guard.slow
    assert guard(op, answer) == by_python(op, answer)
    return guard.slow == slow


def resource_of_size(size: int) -> bytes:
    frame = resource(described('""'))
    return frame.replace('""', f'"{"d" * (size - len(frame))}"').encode()


# ---- which answers it takes ----


def assert_samples_are_quick(count: int) -> None:
    counted = SimpleNamespace(slow=0)
    guard = samplekit.Labeller().instance
    with answerkit.counting(counted):
        for job in samples.jobs(count):
            result = guard.call(job.op, encode_job(job))
            assert result.status == "ok"
            assert result.label == judge(job.op, guard.answer(job.op))
    assert counted.slow == 0


def test_all_sample_answers_are_judged_quickly_and_to_the_same_bytes() -> None:
    assert_samples_are_quick(2000)


@pytest.mark.slow
def test_twenty_thousand_sample_answers_are_judged_quickly() -> None:
    assert_samples_are_quick(20_000)


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        *(("label_resource", resource(L, f',"operation":"{word}"')) for word in ("read", "write", "read-write")),
        ("label_resource", f'{{"operation":"read","resource":{L}}}'),
        ("label_resource", f' {{ "resource" :\t{L}\r\n, "operation" : "read" }} \n'),
        ("label_resource", resource(described('"*"'))),
        ("label_resource", resource(described('"é日\U0001f600\x7f\u2028"'))),
        ("label_resource", resource(described(r'"\"\\\b\f\n\r\t"'))),
        ("label_resource", resource(described(secrecy='[ "b" , "a","é","b","","\U0001f600","\uffff" ]'))),
        ("label_response", ""),
        ("label_response", '{"labeled_paths":[]}'),
        ("label_response", f'{{"default_labels":{BARE},"labeled_paths":[{{"labels":{L},"path":"/0"}}]}}'),
        ("label_response", f'{{"items_path":"/\\"\\\\","labeled_paths":[{{"path":"","labels":{BARE}}}]}}'),
        ("label_response", '{"labeled_paths":[ ],"default_labels":null,"items_path":null}'),
        ("label_response", RESPONSE.decode()),
    ],
)
def test_usual_answers_are_judged_quickly(op: str, answer: str) -> None:
    assert is_quick(op, answer.encode())


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        ("label_resource", ""),
        ("label_resource", "null"),
        ("label_resource", resource(BARE)),
        ("label_resource", resource(L, "")),
        ("label_resource", resource(L, ',"operation":"READ"')),
        ("label_resource", resource(L) + "x"),
        ("label_resource", "\ufeff" + resource(L)),
        ("label_resource", resource(L, ',"operation":"read","operation":"read"')),
        ("label_resource", resource(L, ',"operation":"read","extra":0')),
        ("label_resource", resource(described(secrecy='["a",null]'))),
        ("label_resource", resource(described(secrecy='["*"]'))),
        ("label_resource", resource(described(secrecy='["a\\n"]'))),
        ("label_resource", resource(described(secrecy=json.dumps([str(n) for n in range(33)])))),
        ("label_resource", resource(described('"\\u0041"'))),
        ("label_resource", resource(described('"\x1f"'))),
        ("label_response", "null"),
        ("label_response", '{"items":[]}'),
        ("label_response", '{"labeled_paths":null}'),
        ("label_response", f'{{"labeled_paths":[],"default_labels":{L},"default_labels":{BARE}}}'),
        ("label_response", response(f'"path":"/0","labels":{L},"labels":{BARE}')),
        ("label_response", response(f'"path":"\\/0","labels":{L}')),
        ("label_response", response(f'"p\\u0061th":"/0","labels":{L}')),
        ("label_response", response(f'"path":"/0","labels":{L},')),
    ],
)
def test_unusual_answers_are_left_to_python(op: str, answer: str) -> None:
    assert not is_quick(op, answer.encode())


def test_thirty_two_tags_are_judged_quickly_and_more_are_not() -> None:
    for count, quick in ((32, True), (33, False)):
        tags = [f"tag-{n}" for n in range(count)] * 2
        assert is_quick("label_resource", resource(described(secrecy=json.dumps(tags))).encode()) is quick


@pytest.mark.parametrize("op", OPS)
def test_answers_recorded_from_the_gateway_are_judged_as_by_python(op: str) -> None:
    lines = (VECTORS / f"{op.removeprefix('label_')}_answer.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["output"].encode() for line in lines]
    quick = [is_quick(op, answer) for answer in answers]
    assert any(quick)
    assert not all(quick)


# ---- answers that are damaged in every way ----


@pytest.mark.parametrize("op", OPS)
def test_any_byte_anywhere_is_judged_as_by_python(op: str) -> None:
    answer = RESOURCE if op == "label_resource" else RESPONSE
    for at in range(len(answer)):
        for byte in b'\0\x1f \n!"*,:[]{}\\nt0a\x7f\x80\xc2\xe2\xff':
            is_quick(op, answer[:at] + bytes([byte]) + answer[at + 1 :])
            is_quick(op, answer[:at] + bytes([byte]) + answer[at:])
    for at in range(len(answer)):
        is_quick(op, answer[:at])
        is_quick(op, answer[:at] + answer[at + 1 :])


def test_utf8_is_checked_at_every_bound() -> None:
    for first in b"\x7f\x80\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff":
        for second in b"\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0":
            for rest in (b"", b"\x7f", b"\x80", b"\xbf", b"\xc0", b"\x80\x7f", b"\x80\x80", b"\xbf\xbf", b"\xbf\xc0"):
                text = bytes([first, second]) + rest
                is_quick("label_resource", RESOURCE.replace(b"an issue", text))
                is_quick("label_resource", RESOURCE.replace(b"none:o/r", b"0123456" + text))


def test_characters_of_every_length_are_judged_quickly_at_any_place() -> None:
    for padding in range(9):
        for text in ("é", "日", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"):
            assert is_quick("label_resource", RESOURCE.replace(b"none:o/r", b"x" * padding + text.encode()))


def test_tags_are_in_the_order_of_code_points() -> None:
    dice = random.Random(17)
    letters = "abz~\x7fé\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
    for _ in range(300):
        tags = ["".join(dice.choice(letters) for _ in range(dice.randrange(11))) for _ in range(dice.randrange(33))]
        tags += dice.choices(tags, k=dice.randrange(9)) if tags else []
        tags = ["private:" * dice.randrange(3) + tag for tag in tags][:32]
        answer = resource(described(secrecy=json.dumps(tags, ensure_ascii=False))).encode()
        assert is_quick("label_resource", answer)
        label = echo()("label_resource", answer)[1]
        assert json.loads(label)["secrecy"] == sorted(set(tags))


def assert_damaged_answers_are_judged_as_by_python(seed: int, count: int) -> None:
    dice, guard = random.Random(seed), echo()
    texts = [RESOURCE, RESPONSE, b'{"items":[{"data":{},"labels":{"secrecy":["s"]}}]}', b'{"labeled_paths":[]}', b"{}"]
    usual = [(op, text) for text in texts for op in OPS]
    usual += [("label_resource", RESOURCE), ("label_response", RESPONSE)] * 12
    slow = guard.slow
    for number in range(count):
        op, answer = dice.choice(usual)
        bad = answerkit.damaged(answer, dice)
        found, expected = guard(op, bad), by_python(op, bad)
        assert found == expected, (seed, number, op, bad)
    # Neither nearly all nor next to none were judged quickly.
    assert 0.2 < (guard.slow - slow) / count < 0.8


def test_damaged_answers_are_judged_as_by_python() -> None:
    assert_damaged_answers_are_judged_as_by_python(17, 20_000)


@pytest.mark.slow
def test_many_damaged_answers_are_judged_as_by_python() -> None:
    for seed in range(20):
        assert_damaged_answers_are_judged_as_by_python(seed, 50_000)


@settings(max_examples=strategies.examples(50))
@given(strategies.as_bytes(strategies.resource_answers), strategies.as_bytes(strategies.response_answers))
def test_answers_that_are_nearly_right_are_judged_as_by_python(of_resource: bytes, of_response: bytes) -> None:
    is_quick("label_resource", of_resource)
    is_quick("label_response", of_response)


# ---- lengths and buffers ----


def test_the_longest_answer_is_judged_quickly_and_one_byte_more_is_not() -> None:
    for size in (LONGEST - 1, LONGEST):
        assert is_quick("label_resource", resource_of_size(size))
    assert not is_quick("label_resource", resource_of_size(LONGEST + 1))
    assert is_quick("label_resource", RESOURCE)  # nothing is left of the long ones


def test_huge_answers_of_every_shape_are_judged_as_by_python() -> None:
    path = f'{{"path":"","labels":{BARE}}}'
    for paths in (1000, LONGEST // len(path) - 1, LONGEST // len(path) + 1):
        answer = f'{{"labeled_paths":[{",".join([path] * paths)}]}}'.encode()
        assert is_quick("label_response", answer) is (len(answer) <= LONGEST)
    tags = json.dumps(["a" * 200 + str(n % 32) for n in range(600)])
    assert is_quick("label_resource", resource(described(secrecy=tags)).encode())
    for bomb in (
        b"[" * 200_000,
        b'{"resource":' * 20_000,
        b'{"labeled_paths":[' + b"{}," * 60_000,
        b'"' + b"\\" * 200_000,
    ):
        for op in OPS:
            assert not is_quick(op, bomb)


def test_an_answer_at_the_very_end_of_memory_is_judged_without_a_look_behind_it() -> None:
    guard = Echo()
    buffers = guard.instance._buffers
    buffers.out_ptr, buffers.out_size = guard.instance.memory.size() - 120, 120
    guard.instance._offer(120)
    assert is_quick("label_response", b'{"labeled_paths":[]}', guard)
    assert is_quick("label_response", b'{"labeled_paths":[]}'.ljust(64), guard)
    # The bridge copies pieces of 64 bytes, and a second one does not fit.
    assert not is_quick("label_response", b'{"labeled_paths":[]}'.ljust(65), guard)
    assert not is_quick("label_response", b'{"labeled_paths":[]}'.ljust(120), guard)


def test_an_answer_past_the_pools_limit_is_invalid_though_it_is_usual() -> None:
    guard = Echo(max_output_bytes=len(RESOURCE))
    assert is_quick("label_resource", RESOURCE, guard)
    status, _, code, message = guard("label_resource", RESOURCE + b" ")
    assert (status, code) == ("invalid", "output_too_large")
    assert f"the limit is {len(RESOURCE)}" in message


def test_a_label_past_its_limit_is_invalid_though_it_was_made_quickly() -> None:
    guard = Echo()
    guard.instance._max_label = 200
    assert guard("label_resource", RESOURCE)[0] == "ok"
    status, label, code, message = guard("label_response", RESPONSE)
    assert (status, label, code) == ("invalid", None, "output_too_large")
    assert "the label made of the answer of label_response is" in message
    assert guard.slow == 0


@pytest.mark.parametrize("hint", [answerkit.HINT, ""])
def test_answers_of_a_second_try_are_judged_quickly_in_the_buffer_that_grew(hint: str) -> None:
    guard = Echo(too_small=hint)
    guard.instance._offer(96)  # as after a first try with too little room
    assert is_quick("label_resource", RESOURCE, guard)
    long = resource_of_size(FIRST_OUTPUT_BYTES + 1000)
    where = guard.instance._buffers.out_ptr
    assert not is_quick("label_resource", long, guard)
    moved = guard.instance._buffers.out_ptr
    assert (moved != where, guard.instance._buffers.out_size > FIRST_OUTPUT_BYTES) == (True, True)
    # In the large buffer, then in the ordinary one, which a quick answer asks for as a slow one does.
    assert is_quick("label_response", RESPONSE, guard)
    assert is_quick("label_response", RESPONSE, guard)
    assert guard.instance._buffers.out_size == FIRST_OUTPUT_BYTES


def test_an_empty_answer_is_no_labels_for_a_response_and_invalid_for_a_resource() -> None:
    assert echo()("label_response", b"") == ("ok", b"null", None, None)
    status, _, code, message = echo()("label_resource", b"")
    assert (status, code) == ("invalid", "invalid_answer")
    assert "empty answer" in message


def test_answers_of_label_agent_are_not_judged_quickly() -> None:
    guard = Echo().instance
    for answer in (RESOURCE, RESPONSE, b""):
        assert guard._run("label_agent", answer) == 0
        assert guard.answer("label_agent") == answer


# ---- the guest ----

# It keeps its answer at the end of a larger memory, overwrites all the rest, and answers with the copy.
_OVERWRITES = """
    (local.set $kept (i32.shl (memory.grow (i32.const 1)) (i32.const 16)))
    (if (i32.eq (local.get $kept) (i32.const -65536)) (then (local.set $kept (i32.const {last}))))
    (memory.copy (local.get $kept) (local.get $in) (local.get $len))
    (memory.fill (i32.const 0) (i32.const {byte}) (local.get $kept))
    (memory.fill (i32.add (local.get $kept) (local.get $len)) (i32.const {byte})
      (i32.sub (i32.const 65536) (local.get $len)))
    (local.set $in (local.get $kept))
"""


@pytest.mark.parametrize("byte", [0x00, 0x22, 0x7B, 0xFF])
def test_a_guard_that_overwrites_all_its_memory_while_it_answers_changes_no_label(byte: int) -> None:
    last = (160 - 1) * PAGE_BYTES
    guard = Echo(cap=160, before=_OVERWRITES.format(byte=byte, last=last))
    dice = random.Random(byte)
    # Past the 160 pages it overwrites the last of them on and on.
    for number in range(100):
        op, answer = (OPS[0], RESOURCE) if number % 2 else (OPS[1], RESPONSE)
        assert is_quick(op, answer, guard)
        is_quick(op, answerkit.damaged(answer, dice), guard)


def test_the_label_and_the_copy_stand_in_no_memory_of_the_guard() -> None:
    guard = Echo().instance
    marked = RESOURCE.replace(b"an issue", b"a very rare description")
    assert guard.call("label_resource", marked).status == "ok"
    _, quick, _ = guard._helpers
    ours, its = quick.memory_view(), guard.memory.view(1 << 32)
    assert bytes(ours).count(b"a very rare description") == 2  # the copy and the label
    assert bytes(its).count(b"a very rare description") == 2  # the input and the answer, which are the guard's
    its[:] = b"\0" * len(its)
    assert bytes(ours).count(b"a very rare description") == 2
    ours[:64] = its[:64] = b"x" * 64
    assert bytes(its[64:128]) == bytes(64)


def test_the_memory_of_a_quick_judge_is_what_the_limits_count() -> None:
    """Limits.data_bytes adds it for each guard; more of them than 64 MiB has room for would not start."""
    quick = guardkit.instance("good")._helpers[1]
    assert len(quick.memory_view()) == QUICK_JUDGE_BYTES


def test_instances_have_quick_judges_of_their_own() -> None:
    loaded = guardkit.loaded("good")
    guards = [GuardInstance(loaded, InstanceSettings("good")) for _ in range(2)]
    first, second = (guard._helpers[1].memory_view() for guard in guards)
    label = guards[0].call("label_resource", guardkit.RESOURCE).label
    assert label is not None
    assert label in bytes(first)
    assert label not in bytes(second)


def test_a_guard_cannot_import_the_quick_judge() -> None:
    text = '(module (import "quick_judge" "judge" (func (param i32 i32) (result i32))) (memory (export "memory") 1))'
    loaded = guardkit.load(enginekit.wat_to_wasm(text))
    with pytest.raises(GuardInitError, match="cannot be instantiated"):
        GuardInstance(loaded, InstanceSettings("curious"))


def test_an_instance_keeps_the_instances_that_it_calls() -> None:
    """An engine may drop an instance whose functions another one imports: one job in 100,000 trapped."""
    guard = guardkit.instance("good")
    gate, quick, bridge = guard._helpers
    assert gate.global_("threshold").value == 0
    assert quick.function("longest")() == LONGEST
    assert bridge.function("grow")(0) == len(guard.memory.view(0)) // PAGE_BYTES
