"""What is read below a folder, and that nothing in the folder leads elsewhere: with openat2, and where a kernel lacks it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from guardpool.recordings import beneath

SECRET = b'["secret"]'
INSIDE = b'[{"number":7}]'


@pytest.fixture(params=["openat2", "step by step"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `s1/q1/payload.json`, and a secret beside it."""
    if request.param == "step by step":

        def refused(*_: object) -> int:
            raise OSError(errno.ENOSYS, "no such call")

        monkeypatch.setattr(beneath, "_openat2", refused)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "payload.json").write_bytes(SECRET)
    inside = tmp_path / "run" / "s1" / "q1" / "payload.json"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(INSIDE)
    return tmp_path / "run"


def take(folder: Path, *names: str, most: int = 1000) -> bytes | None:
    before = len(os.listdir("/proc/self/fd"))
    data = beneath.read(str(folder), names, most)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"
    return data


def test_regular_file_is_read(folder: Path) -> None:
    assert take(folder, "s1", "q1", "payload.json") == INSIDE
    assert take(folder, "s1", "q2", "payload.json") is None


def test_kernel_of_the_tests_has_openat2(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_PATH)
    (tmp_path / "file").touch()
    try:
        os.close(beneath._openat2(top, "file", os.O_RDONLY))
        with pytest.raises(OSError, match="Invalid cross-device link"):
            beneath._openat2(top, "../file", os.O_RDONLY)
    finally:
        os.close(top)


def test_filter_that_refuses_openat2_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EPERM, "refused")

    monkeypatch.setattr(beneath, "_openat2", refused)
    (tmp_path / "file").write_bytes(INSIDE)
    assert take(tmp_path, "file") == INSIDE


@pytest.mark.parametrize("at", ["s1", "s1/q1", "s1/q1/payload.json"])
@pytest.mark.parametrize("is_absolute", [True, False])
def test_symbolic_link_is_not_followed_wherever_it_stands(folder: Path, at: str, is_absolute: bool) -> None:
    place = folder / at
    place.rename(folder.parent / "moved")
    target = folder.parent / "moved"
    place.symlink_to(target if is_absolute else os.path.relpath(target, place.parent))
    assert place.exists()
    assert take(folder, "s1", "q1", "payload.json") is None


def test_symbolic_link_within_the_folder_is_not_followed_either(folder: Path) -> None:
    (folder / "s2").symlink_to("s1")
    assert take(folder, "s2", "q1", "payload.json") is None


@pytest.mark.parametrize("names", [("..", "secret", "payload.json"), ("s1", "..", "q1"), ("/etc/passwd",), ("s1/q1",)])
def test_names_that_are_not_one_step_down_are_refused(folder: Path, names: tuple[str, ...]) -> None:
    assert take(folder, *names) is None


def test_pipe_is_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert take(folder, "pipe") is None


def test_device_is_not_opened_for_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        os.mknod(folder / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    opened = []
    real = beneath.open_beneath

    def watched(top: int, names: tuple[str, ...], flags: int) -> int:
        opened.append(flags)
        return real(top, names, flags)

    monkeypatch.setattr(beneath, "open_beneath", watched)
    assert take(folder, "zero") is None
    assert opened == [os.O_PATH]


def test_folder_is_no_file(folder: Path) -> None:
    assert take(folder, "s1", "q1") is None


def test_file_past_the_limit_is_not_read(folder: Path) -> None:
    (folder / "exact").write_bytes(b"x" * 1000)
    (folder / "more").write_bytes(b"x" * 1001)
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert take(folder, "exact") == b"x" * 1000
    assert take(folder, "more") is None
    assert take(folder, "huge") is None
