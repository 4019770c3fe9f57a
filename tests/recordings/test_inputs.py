"""What may be read: files, folders, globs, compressed files, growing files, very long lines, and damaged ones."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, strategies as st

from guardpool import recordings
from guardpool.recordings import Call, InputError, UnknownFormat
from guardpool.recordings.inputs import OpenInput, find
from guardpool.recordings.reader import Reader
from paths import folder_that_cannot_be_listed

LINE = (
    b'{"timestamp":"t","event":"rpc_request","_schema":"rpc-message/v2","direction":"OUT","server_id":"github",'
    b'"method":"tools/call","payload":{"params":{"name":"get_me","arguments":{}}}}\n'
)
ANSWER = (
    b'{"timestamp":"t","event":"rpc_response","_schema":"rpc-message/v2","direction":"IN","server_id":"github",'
    b'"payload":{"id":1,"result":{"content":[{"type":"text","text":"\\"[]\\""}]}}}\n'
)
EVENT = b'{"event":"difc_filtered","_schema":"difc-filtered/v2","server_id":"github","tool_name":"get_me"}\n'


def read(*paths: Path | str) -> tuple[list[Call], Reader]:
    reader = recordings.read(paths)
    calls = list(reader)
    assert reader.tally.lines == reader.tally.in_calls + sum(reader.tally.reasons.values())
    return calls, reader


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_compression_is_told_by_content_and_not_by_name(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    path = tmp_path / "log.txt"
    path.write_bytes(pack(LINE) + pack(ANSWER))  # two members are one stream
    (call,), _ = read(path)
    assert (call.call, call.tool) == ("log.txt#1", "get_me")


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_what_came_before_a_cut_counts(tmp_path: Path, compress: object) -> None:
    assert callable(compress)
    path = tmp_path / "log"
    path.write_bytes(compress(LINE) + compress(os.urandom(100_000))[:50_000])
    calls, reader = read(path)
    assert [call.tool for call in calls] == ["get_me"]
    assert reader.tally.reasons["truncated-input"] == 1


def test_a_zstd_window_of_more_than_128_mib_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    path = tmp_path / "log"
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(stream.compress(LINE) + stream.flush())
    calls, reader = read(path)
    assert (calls, dict(reader.tally.reasons)) == ([], {"truncated-input": 1})


def test_folders_are_read_in_the_order_of_names_and_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(LINE)
    for name in ("b/log", "a/log"):
        path = tmp_path / "runs" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(LINE)
    (tmp_path / "runs" / "link").symlink_to(secret)
    calls, _ = read(tmp_path / "runs")
    assert [call.call for call in calls] == ["a/log#1", "b/log#1"]


@pytest.mark.parametrize("below", ["", "sandbox/agent/logs"])
def test_a_folder_in_the_folder_that_cannot_be_listed_is_counted(tmp_path: Path, below: str) -> None:
    run = tmp_path / "run"
    (run / below).mkdir(parents=True)
    (run / "log.jsonl").write_bytes(LINE)
    folder_that_cannot_be_listed(run / below)
    _, reader = read(tmp_path)
    assert reader.tally.reasons["unreadable-file"] == 1


def test_a_file_that_is_meant_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(LINE)
    calls, _ = read(tmp_path, str(tmp_path / "*.jsonl"), tmp_path / "log.jsonl")
    assert len(calls) == 1


def test_a_path_that_is_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone: cannot be read: No such file"):
        recordings.read(tmp_path / "gone")
    with pytest.raises(InputError, match="no recording is named"):
        recordings.read([])
    with pytest.raises(InputError, match=r"null (character|byte)"):
        recordings.read("a\0b")
    with pytest.raises(InputError, match="b'log': a path is a string"):
        recordings.read(b"log")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no file fits this pattern"):
        recordings.read(tmp_path / "*.jsonl")
    with pytest.raises(UnknownFormat, match="there are: calls, rpc-messages"):
        recordings.read(tmp_path, format="xml")


def test_a_file_that_grows_is_read_to_the_line_it_ended_in(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    (source,) = find([path])
    file = OpenInput(source)
    try:
        with path.open("ab") as more:
            more.write(b"o\nthree\n")
        parts = iter(file.read, b"")
        assert b"".join(parts) == b"one\ntwo\n"
    finally:
        file.close()


def test_a_line_of_300_mb_is_counted_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.write(LINE)
        for _ in range(300):
            file.write(b"x" * 1_000_000)
        file.write(b"\n" + ANSWER)
    code = (
        "import re, sys; from guardpool import recordings; r = recordings.read(sys.argv[1]); c = list(r);"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1];"
        "print(len(c), r.tally.reasons['line-too-long'], peak)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    calls, too_long, peak_kib = map(int, done.stdout.split())
    path.unlink()
    assert (calls, too_long) == (1, 1)
    assert peak_kib < 160 * 1024  # the 64 MiB that a line may have, and the interpreter


@pytest.mark.slow  # reads 100,000 lines four times
def test_a_document_of_many_lines_that_never_ends_takes_flat_memory(tmp_path: Path) -> None:
    path, small = tmp_path / "log", tmp_path / "small"
    line = b"1,     \n"
    path.write_bytes(b"[\n" + line * 100_000 + LINE + ANSWER)
    small.write_bytes(b"[\n" + line * 400 + LINE + ANSWER)
    code = (
        "import re, sys; from guardpool import recordings\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "list(recordings.read(sys.argv[1])); before = peak()\n"
        "r = recordings.read(sys.argv[2]); c = list(r)\n"
        "print(len(c), sum(r.tally.reasons.values()), peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(small), str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    calls, others, more_kib = map(int, done.stdout.split())
    assert (calls, others) == (1, 100_001)
    assert more_kib < 6 * 1024  # 4 MiB, for the lines of one portion; 9 where a list of all lines is made


def test_a_document_over_many_lines_is_counted_with_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{\n "a": [\n  1\n ]\n}\n' + LINE + b'{\n "cut":\n' + LINE)
    calls, reader = read(path)
    assert len(calls) == 2
    assert reader.tally.reasons == {"unknown-format": 5, "not-json": 2}


def test_blank_lines_and_lines_of_no_format_have_a_reason_and_an_example(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\xef\xbb\xbf" + LINE + b"\n\x1b[31mred\n" + ANSWER + b'{"a":1}')
    calls, reader = read(path)
    assert len(calls) == 1
    assert reader.tally.reasons == {"blank": 1, "not-json": 1, "unknown-format": 1}
    assert reader.tally.examples["not-json"] == ("log#3", "\\x1b[31mred")


pieces = st.one_of(
    st.sampled_from((LINE, ANSWER, EVENT, b"\n", b"{\n", b"}\n", b"[\n", b'{"a":1}\n')), st.binary(max_size=40)
)


@given(st.lists(pieces, max_size=12), st.integers(0, 4000), st.binary(max_size=4))
def test_any_bytes_give_calls_or_counted_reasons(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], at: int, junk: bytes
) -> None:
    data = b"".join(parts)
    at %= len(data) + 1
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data[:at] + junk + data[at + len(junk) // 2 :])
    calls, reader = read(path)
    for call in calls:
        assert Call.from_json(call.to_json()) == call == Call.from_dict(call.to_dict())
        assert b"\n" not in call.to_json()
    assert reader.tally.calls == len(calls)
