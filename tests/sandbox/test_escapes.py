"""The escape kit: nothing that native code would try in a worker works in the sandbox, and all of it does without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import enginekit
import escape_kit
from escape_scene import ALLOWED, KILLED, SECRET_NAME
from paths import KITS
from sandboxkit import whole_sandbox

pytestmark = whole_sandbox


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kit") / "bundle"
    path.write_bytes(enginekit.compile_bundle(enginekit.wat_to_wasm(escape_kit.HOOKED_GUARD)))
    return path


USERS = ["root", "nobody"] if os.geteuid() == 0 else ["user"]
Verdicts = dict[tuple[str, str], str]


@pytest.fixture(scope="module", params=USERS)
def escapes(request: pytest.FixtureRequest, bundle: Path) -> Verdicts:
    """(attempt, layers) -> verdict, for a whole run of the kit in a process of its own."""
    command = [sys.executable, str(KITS / "escape_kit.py"), "--bundle", str(bundle), "--json"]
    command += ["--nobody"] * (request.param == "nobody")
    environment = {**os.environ, SECRET_NAME: "secret"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = json.loads(done.stdout)
    print(f"\nas {request.param}:")
    escape_kit.print_table(results)
    verdicts = {(result["name"], result["layers"]): result["verdict"] for result in results}
    verdicts["user", "is root"] = str(request.param == "root")
    return verdicts


def test_the_escape_kit_has_at_least_80_attempts() -> None:
    names = [one.name for one in escape_kit.KIT]
    assert len(names) == len(set(names)) >= 80


def test_every_attempt_is_denied_in_the_sandbox(escapes: Verdicts) -> None:
    wrong = {
        one.name: (escapes[one.name, "sandbox"], one.expected)
        for one in escape_kit.KIT
        if escapes[one.name, "sandbox"] != one.expected
    }
    assert not wrong
    assert ALLOWED not in {one.expected for one in escape_kit.KIT}


def test_the_same_attempts_succeed_without_the_sandbox(escapes: Verdicts) -> None:
    is_root = escapes["user", "is root"] == "True"
    wrong = {}
    for one in escape_kit.KIT:
        verdict = escapes[one.name, "none"]
        if one.plain == "allowed" or (one.plain == "root" and is_root):
            good = verdict == ALLOWED
        elif one.expected == KILLED:
            good = verdict != KILLED
        else:
            good = verdict in (ALLOWED, one.expected)
        if not good:
            wrong[one.name] = verdict
    assert not wrong


def test_the_replies_are_for_reading_whatever_is_closed_around_a_process(escapes: Verdicts) -> None:
    attempts = [one for one in escape_kit.KIT if "the replies" in one.name]
    assert len(attempts) == 3
    for one in attempts:
        assert {escapes[one.name, layers] for layers in ("none", "sandbox", "seccomp")} == {one.expected}


def test_landlock_holds_alone(escapes: Verdicts) -> None:
    expected = {one.name: one.landlock for one in escape_kit.KIT if one.landlock is not None}
    assert {name: escapes[name, "landlock"] for name in expected} == expected
    assert len(expected) > 25


# The attempts that succeed in both processes around workers. They can open, connect and start nothing, and reach no process.
PARENTS_MAY = {
    "look at a file's size (stat)",
    "read a link (/proc/self/exe)",
    "read a descriptor that was inherited",  # they are started with their own descriptors only
    "copy a descriptor (dup)",
    "copy a descriptor (fcntl)",
    "have signals sent for a descriptor (fcntl)",
    "ioctl on a descriptor",
    "start a thread",
    "map writable and executable memory",
    "make memory executable (mprotect)",
    "make memory executable (pkey_mprotect)",
    "make existing code writable (mprotect)",
    "put pages into a pipe (vmsplice)",
    "another kind of descriptor (epoll_create1)",
    "another Landlock domain",
    "be dumpable again (prctl)",
    "more memory than the limit",
    "a timer that outlives the job",
    "what machine this is (uname)",
    "how much memory there is (sysinfo)",
}
FORKSERVER_MAY = PARENTS_MAY | {
    "fork",
    "fork by clone",
    "vfork by clone",
    "signal the process group",  # its own: its workers and itself
    "look for every process (kill -1)",
    "open the parent (pidfd_open)",  # and do nothing with it
    "another filter (seccomp)",
    "another filter, for every thread (seccomp, TSYNC)",
    "set capabilities",  # to none, which is what is left
    "shared memory (mmap)",  # it has no limit on memory
    "memory that counts as a stack (mmap)",
    "a larger stack (mremap)",
}


@pytest.mark.parametrize(("process", "may"), [("forkserver", FORKSERVER_MAY), ("compiler", PARENTS_MAY)])
def test_forkserver_and_compiler_can_do_what_is_listed_and_no_more(
    escapes: Verdicts, process: str, may: set[str]
) -> None:
    assert {one.name for one in escape_kit.KIT if escapes[one.name, process] == ALLOWED} == may


def test_seccomp_holds_alone(escapes: Verdicts) -> None:
    # These errors come from other steps: descriptors are closed, the environment emptied, memory limited.
    others = {"EBADF", "ENOENT", "ENOMEM"}
    expected = {one.name: one.expected for one in escape_kit.KIT if one.expected not in others}
    assert {name: escapes[name, "seccomp"] for name in expected} == expected
    assert len(expected) > 60
