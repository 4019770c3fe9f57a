"""The wire codec: whatever way the bytes come, the same frames; whatever the bytes are, frames or one documented error."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, strategies as st

from guardpool.errors import GuardPoolError
from guardpool.outcomes import LogLine, OutcomeError
from guardpool.protocol import wire
from guardpool.protocol.wire import (
    MAX_FRAME_BYTES,
    MAX_RESULTS,
    BackendCall,
    BackendReply,
    Bye,
    Drain,
    FrameReader,
    GuardLog,
    Hello,
    InitFailure,
    JobItem,
    Jobs,
    LargeItem,
    LargeJobs,
    Place,
    ProtocolError,
    Recall,
    ResultItem,
    Results,
    encode,
)

Frame = Any

ERROR = OutcomeError("trap", "unreachable", trap="unreachable")
FROM_WORKER: list[Frame] = [
    Hello(1, 4711, {"seccomp": "on", "landlock": "off: too old"}, [b'{"agent":{}}'], [GuardLog(0, 2, "grüße")], None),
    Hello(1, 1, {}, [], [], InitFailure("guard", 3, "label_agent trapped")),
    Results([]),
    Results([ResultItem(1, "ok", b'{"secrecy":[]}', 42, 0, []), ResultItem(2, "trap", ERROR, 7, 3, [LogLine(3, "x")])]),
    Results([ResultItem(2**63, "ok", b"\x00\xff" * 300, 0, 0, [])]),
    BackendCall(9, 1, "get_repo", b'{"owner":"o"}'),
    Bye(),
]
TO_WORKER: list[Frame] = [
    Jobs([]),
    Jobs([JobItem(1, 0, "label_resource", b"{}"), JobItem(2, 1, "label_response", b"x" * 1000, 9_000_000_000_000_000)]),
    LargeJobs([LargeItem(1, 0, "label_resource", Place(1 << 20, 70_000), 5), LargeItem(2, 1, "label_response", b"{}")]),
    BackendReply(3, b"null", None),
    BackendReply(3, None, "it is down"),
    Recall(),
    Drain(),
]


def reader_for(frame: Frame) -> FrameReader[Any]:
    return FrameReader.to_worker() if frame in TO_WORKER else FrameReader.from_worker()


def framed(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def packed(*fields: Any) -> bytes:
    """A frame written by the other implementation of msgpack."""
    return framed(msgpack.packb(fields, use_bin_type=True))


# --- cutting


@pytest.mark.parametrize("frame", FROM_WORKER + TO_WORKER, ids=lambda frame: type(frame).__name__)
def test_a_frame_comes_back_equal_whole_and_byte_by_byte(frame: Frame) -> None:
    data = encode(frame)
    assert reader_for(frame).feed(data) == [frame]
    reader = reader_for(frame)
    got = [reader.feed(data[at : at + 1]) for at in range(len(data))]
    assert got == [[]] * (len(data) - 1) + [[frame]]
    assert reader.buffered_bytes == 0


@pytest.mark.parametrize("frame", FROM_WORKER + TO_WORKER, ids=lambda frame: type(frame).__name__)
def test_a_frame_may_be_split_anywhere_and_followed_by_another(frame: Frame) -> None:
    data = encode(frame)
    for at in range(len(data) + 1):
        reader = reader_for(frame)
        first = reader.feed(data[:at])
        assert first == ([frame] if at == len(data) else [])
        assert reader.buffered_bytes == (0 if at == len(data) else at)
        assert first + reader.feed(data[at:] + data[:5]) == [frame]
        assert reader.buffered_bytes == 5
        assert reader.feed(data[5:]) == [frame]


def test_many_frames_in_one_read_come_in_order_and_the_rest_waits() -> None:
    data = b"".join(map(encode, FROM_WORKER))
    reader = FrameReader.from_worker()
    assert reader.feed(data + data[:7]) == FROM_WORKER
    assert reader.buffered_bytes == 7
    assert reader.feed(data[7:]) == FROM_WORKER
    assert reader.feed(b"") == []


@given(st.lists(st.sampled_from(FROM_WORKER), max_size=6), st.data())
def test_any_cut_of_any_frames_gives_the_same_frames(frames: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encode, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader = FrameReader.from_worker()
    got = [frame for start, end in zip([0, *cuts], [*cuts, len(stream)]) for frame in reader.feed(stream[start:end])]
    assert got == frames
    assert reader.buffered_bytes == 0


# --- against the other implementation


def test_the_other_msgpack_reads_what_we_write() -> None:
    item = ResultItem(5, "trap", ERROR, 1, 2, [LogLine(1, "é")])
    body = msgpack.unpackb(encode(Results([item]))[4:], raw=False)
    error = {"code": "trap", "message": "unreachable", "trap": "unreachable"}
    assert body == ["RESULTS", [[5, "trap", error, 1, 2, [[1, "é"]], None]]]
    body = msgpack.unpackb(encode(Jobs([JobItem(1, 0, "label_resource", b"\xff{}")]))[4:], raw=False)
    assert body == ["JOBS", [[1, 0, "label_resource", b"\xff{}", 0]]]
    assert msgpack.unpackb(encode(BackendReply(1, None, "no"))[4:], raw=False) == ["BACKEND_REPLY", 1, None, "no"]


@pytest.mark.parametrize("frame", FROM_WORKER + TO_WORKER, ids=lambda frame: type(frame).__name__)
def test_we_read_what_the_other_msgpack_writes(frame: Frame) -> None:
    fields = msgpack.unpackb(encode(frame)[4:], raw=False)
    assert reader_for(frame).feed(packed(*fields)) == [frame]


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
seqs = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
bodies = st.one_of(st.binary(max_size=300), st.builds(OutcomeError, texts, texts, signal=st.none() | texts))
items = st.builds(
    ResultItem,
    seqs,
    st.sampled_from(("ok", "refused", "invalid", "trap", "rejected", "memory")),
    bodies,
    st.integers(0, 2**53 - 1),
    st.integers(0, 1000),
    st.lists(st.builds(LogLine, st.integers(-5, 5), texts), max_size=3),
)


@given(st.lists(items, max_size=5))
def test_results_round_trip_through_both_implementations(results: list[ResultItem]) -> None:
    frame = Results(results)
    fields = msgpack.unpackb(encode(frame)[4:], raw=False)
    assert fields == ["RESULTS", [_as_sent(item) for item in results]]
    assert FrameReader.from_worker().feed(packed(*fields)) == [frame]


def _as_sent(item: ResultItem) -> list[Any]:
    body = item.body
    if isinstance(body, OutcomeError):
        body = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not None}
    logs = [[line.level, line.text] for line in item.logs]
    return [item.seq, item.status, body, item.duration_us, item.backend_calls, logs, None]


# --- limits


def test_a_frame_over_the_limit_is_refused_by_its_header_alone() -> None:
    reader = FrameReader.from_worker()
    with pytest.raises(ProtocolError, match=f"{MAX_FRAME_BYTES + 1} bytes is over the limit of {MAX_FRAME_BYTES}"):
        reader.feed(struct.pack("<I", MAX_FRAME_BYTES + 1))
    assert FrameReader.from_worker().feed(struct.pack("<I", MAX_FRAME_BYTES)) == []


def test_a_frame_as_long_as_the_limit_passes_and_one_byte_more_does_not() -> None:
    data = encode(BackendCall(1, 0, "t", b"x" * 100))
    limit = len(data) - 4
    assert len(FrameReader.from_worker(limit).feed(data)) == 1
    with pytest.raises(ProtocolError):
        FrameReader.from_worker(limit - 1).feed(data)


def test_a_frame_over_the_limit_is_not_encoded() -> None:
    fits = Jobs([JobItem(1, 0, "label_resource", b"x" * (MAX_FRAME_BYTES - 100))])
    assert len(encode(fits)) < MAX_FRAME_BYTES + 4
    with pytest.raises(ProtocolError, match="over the limit"):
        encode(Jobs([JobItem(1, 0, "label_resource", b"x" * MAX_FRAME_BYTES)]))


def test_no_more_results_than_two_frames_of_jobs() -> None:
    item = ResultItem(1, "ok", b"", 0, 0, [])
    assert len(FrameReader.from_worker().feed(encode(Results([item] * MAX_RESULTS)))[0].results) == MAX_RESULTS
    with pytest.raises(ProtocolError, match="length"):
        FrameReader.from_worker().feed(encode(Results([item] * (MAX_RESULTS + 1))))


def test_what_is_held_never_exceeds_the_limit_and_one_read() -> None:
    limit, read = 1000, 64
    reader: FrameReader[Any] = FrameReader.from_worker(limit)
    reader.feed(struct.pack("<I", limit))
    most = 0
    with pytest.raises(ProtocolError):  # the frame is whole but not valid
        while True:
            reader.feed(b"\x00" * read)
            most = max(most, reader.buffered_bytes)
    assert most < limit + 4 + read
    assert reader.buffered_bytes == 0


def test_a_large_frame_in_small_pieces_leaves_nothing_behind() -> None:
    data = encode(Jobs([JobItem(1, 0, "label_resource", b"x" * 3_000_000)]))
    reader = FrameReader.to_worker()
    frames = [frame for at in range(0, len(data), 65536) for frame in reader.feed(data[at : at + 65536])]
    assert len(frames) == 1
    assert reader.buffered_bytes == 0


# --- bytes that are not frames


def test_after_an_error_the_reader_is_dead_and_holds_nothing() -> None:
    reader = FrameReader.from_worker()
    with pytest.raises(ProtocolError):
        reader.feed(encode(Bye()) + framed(b"\xc1"))
    assert reader.buffered_bytes == 0
    for data in (encode(Bye()), b""):
        with pytest.raises(ProtocolError, match="failed before"):
            reader.feed(data)


def test_a_protocol_error_is_a_guardpool_error() -> None:
    assert issubclass(ProtocolError, GuardPoolError)


ITEM = [1, "ok", b"{}", 5, 0, []]


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("RESULTS",),
        ("RESULTS", None),
        ("RESULTS", [], 1),
        ("results", []),
        (b"RESULTS", []),
        (5, []),
        ("JOBS", []),
        ("DRAIN",),
        ("BYE", None),
        ("RESULTS", [ITEM[:-1]]),
        ("RESULTS", [[*ITEM, 1]]),
        ("RESULTS", [{"seq": 1}]),
        ("RESULTS", [["1", *ITEM[1:]]]),
        ("RESULTS", [[1.0, *ITEM[1:]]]),
        ("RESULTS", [[True, *ITEM[1:]]]),
        ("RESULTS", [[None, *ITEM[1:]]]),
        ("RESULTS", [[-1, *ITEM[1:]]]),
        ("RESULTS", [[1, "fine", *ITEM[2:]]]),
        ("RESULTS", [[1, "timeout", *ITEM[2:]]]),
        ("RESULTS", [[1, "ok", "text", 5, 0, []]]),
        ("RESULTS", [[1, "ok", {"code": "x"}, 5, 0, []]]),
        ("RESULTS", [[1, "trap", {"code": 5, "message": "x"}, 5, 0, []]]),
        ("RESULTS", [[1, "ok", b"", -5, 0, []]]),
        ("RESULTS", [[1, "ok", b"", 5, -1, []]]),
        ("RESULTS", [[1, "ok", b"", 5, 0, [["info", "x"]]]]),
        ("RESULTS", [[1, "ok", b"", 5, 0, [[1, b"x"]]]]),
        ("HELLO", 1, 2, {}, [], []),
        ("HELLO", 1, 2, {"a": 1}, [], [], None),
        ("HELLO", 1, 2, {}, ["text"], [], None),
        ("HELLO", 1, 2, {}, [], [], ["nobody", 0, "x"]),
        ("BACKEND_CALL", 1, 0, b"tool", b""),
        ("BACKEND_CALL", 1, 0, "tool", "args"),
    ],
    ids=repr,
)
def test_wrong_types_missing_and_extra_fields_are_refused(fields: tuple[Any, ...]) -> None:
    with pytest.raises(ProtocolError):
        FrameReader.from_worker().feed(packed(*fields))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x93",
        b"\xa7RESULTS",
        b"\x92\xa7RESULTS\x90\xc0",  # trailing bytes within the frame
        b"\x92\xa7RESULTS\xdd\xff\xff\xff\xff",  # four thousand million results, says the header
        b"\x92\xa7RESULTS\xdc\x01\x00",
        b"\xdd\xff\xff\xff\xff\xa7RESULTS",
        b"\x92\xa7RESULTS\x91\xdd\xff\xff\xff\xff",
        b"\x92\xa7RESULTS\x91\x96\x01\xa2ok\xc6\xff\xff\xff\xff",
        b"\x92\xa7RESULTS\x91\x96\x01\xa2ok\xc4\x00\x01\x01\xdd\xff\xff\xff\xff",
        b"\x97\xa5HELLO\x01\x01\xdf\xff\xff\xff\xff",
        b"\x91\xdb\xff\xff\xff\xff",
        b"\x91" * 200_000,
        b"\x81\xa4code" * 100_000,
        b"\x92\xa7RESULTS\x91\x96\x01\xa2ok\x83\xa4code\xa1x\xa7message\xa1y\xa1z" + b"\x91" * 200_000,
        b"\x95\xacBACKEND_CALL\x01\x00\xa1\xff\xc4\x00",  # the tool's name is not UTF-8
        b"\x95\xacBACKEND_CALL\x01\x00\xa3\xed\xa0\x80\xc4\x00",  # a surrogate
        b"\x91\xa3\xff\xff\xff",
        b"\xd8\x01" + b"x" * 16,
        b"\x92\xa7RESULTS\x91\x96\xcb\x7f\xf8\0\0\0\0\0\0\xa2ok\xc4\x00\x01\x01\x90",  # NaN for a number
    ],
    ids=lambda body: repr(body[:40]),
)
def test_hostile_bodies_are_refused_at_once(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a frame"):
        FrameReader.from_worker().feed(framed(body))


def test_a_huge_count_is_not_believed() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for count in (b"\xdd\x7f\xff\xff\xff", b"\xdd\x00\xff\xff\xff"):
        for prefix in (
            b"\x92\xa7RESULTS",
            b"\x92\xa7RESULTS\x91\x96\x01\xa2ok\xc4\x00\x01\x01",
            b"\x97\xa5HELLO\1\1\x80",
        ):
            with pytest.raises(ProtocolError):
                FrameReader.from_worker().feed(framed(prefix + count + b"\x90" * 1000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB


def check_anything(data: bytes, cut: int) -> None:
    reader = FrameReader.from_worker(1 << 16)
    try:
        for part in (data[:cut], data[cut:]):
            for frame in reader.feed(part):
                assert isinstance(frame, (Hello, Results, BackendCall, Bye))
            assert reader.buffered_bytes <= len(data)
    except ProtocolError:
        assert reader.buffered_bytes == 0


@given(st.binary(max_size=200), st.integers(0, 200))
def test_property_arbitrary_bytes_give_frames_or_the_one_error(data: bytes, cut: int) -> None:
    check_anything(data, cut)
    check_anything(framed(data), cut)


packable = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.binary(max_size=9), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.one_of(texts, st.integers(0, 9)), inner)),
    max_leaves=12,
)
nearly = st.tuples(st.sampled_from(("HELLO", "RESULTS", "BACKEND_CALL", "BYE")), st.lists(packable, max_size=7)).map(
    lambda both: msgpack.packb([both[0], *both[1]], use_bin_type=True)
)


@given(nearly, st.integers(0, 60))
def test_property_nearly_valid_frames_give_frames_or_the_one_error(body: bytes, cut: int) -> None:
    check_anything(framed(body), cut)


@given(st.sampled_from(FROM_WORKER), st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_property_damaged_frames_give_frames_or_the_one_error(frame: Frame, at: int, junk: bytes) -> None:
    data = encode(frame)
    place = at % len(data)
    check_anything(data[:place] + junk + data[place + len(junk) :], at)


def test_every_kind_of_frame_is_tested() -> None:
    kinds = {kind for union in (wire.FromWorker, wire.ToWorker) for kind in union.__args__}
    assert {type(frame) for frame in FROM_WORKER + TO_WORKER} == kinds


def test_a_buffer_that_is_kept_holds_just_the_last_frame() -> None:
    buffer = bytearray(wire.HEADER_BYTES)
    large = Jobs([JobItem(1, 0, "label_resource", b"x" * 100_000)])
    for frame in (Drain(), large, Drain(), Jobs([])):
        wire.encode_into(frame, buffer)
        assert bytes(buffer) == encode(frame)


def test_a_buffer_that_is_kept_keeps_its_memory() -> None:
    buffer = bytearray()
    wire.encode_into(Jobs([JobItem(1, 0, "label_resource", b"x" * 100_000)]), buffer)
    for _ in range(3):
        wire.encode_into(Drain(), buffer)
        assert buffer.__alloc__() > 100_000


def test_what_is_fed_may_be_overwritten_afterwards() -> None:
    frames = [Results([ResultItem(seq, "ok", b"label %d" % seq, 1, 0, [])]) for seq in range(3)]
    stream = b"".join(map(encode, frames))
    reader = FrameReader.from_worker()
    buffer = bytearray(40)
    found: list[Frame] = []
    for at in range(0, len(stream), len(buffer)):
        part = stream[at : at + len(buffer)]
        buffer[: len(part)] = part
        found += reader.feed(memoryview(buffer)[: len(part)])
    buffer[:] = bytes(len(buffer))
    assert found == frames
