"""A seccomp filter: which system calls a process may still make, and with which arguments.

The filter is a classic BPF program that the kernel runs before each system call. It is assembled here, by hand: a
policy gives names their verdicts, and `assemble` turns it into instructions for a machine.

The three policies that are installed stand in `filters`.

Source: Documentation/userspace-api/seccomp_filter.rst, `include/uapi/linux/{bpf_common,filter,seccomp,audit}.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple, Union

from guardpool_worker import linux, syscalls

# Classic BPF, as far as it is needed: load a word of the call's data, compare, mask, return.
LD_W_ABS: Final = 0x20
JEQ: Final = 0x15
JGE: Final = 0x35
JSET: Final = 0x45
RET: Final = 0x06

KILL_PROCESS: Final = 0x80000000
ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
DENY: Final = ERRNO | errno.EPERM
UNKNOWN: Final = ERRNO | errno.ENOSYS

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]; both machines are little endian.
_NR: Final = 0
_ARCH: Final = 4
_ARGS: Final = 16

AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT: Final = 0x40000000

OWN_PID: Final = 0xFFFFFFFF
"""In a policy: the pid of the process that installs the filter. No process has this one."""

_SET_MODE_FILTER: Final = 1

_INSTRUCTION: Final = struct.Struct("=HBBI")

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip if true, instructions to skip if false, operand."""


class Clear(NamedTuple):
    """Holds if none of `bits` (of the low 32) is set in argument `arg`."""

    arg: int
    bits: int


class Set(NamedTuple):
    """Holds if the one bit `bit` (of the low 32) is set in argument `arg`."""

    arg: int
    bit: int


class OneOf(NamedTuple):
    """Holds if argument `arg`, an int for the kernel (32 bits), is one of `values`."""

    arg: int
    values: tuple[int, ...]


class Null(NamedTuple):
    """Holds if argument `arg`, a pointer (64 bits), is null."""

    arg: int


Condition = Union[Clear, Set, OneOf, Null]


class If(NamedTuple):
    """A verdict that depends on the arguments: `then` if all conditions hold, else `otherwise`."""

    conditions: tuple[Condition, ...]
    then: int = ALLOW
    otherwise: int = DENY


class Policy:
    """What becomes of each system call.

    Args:
        calls: name -> verdict. Names that a machine does not have are left out there. The first are found fastest.
        otherwise: the verdict for calls that the table knows and `calls` does not name.
        unknown: the verdict for numbers above the table's last.
    """

    __slots__ = ("calls", "otherwise", "unknown")

    def __init__(self, calls: Mapping[str, Union[int, If]], otherwise: int, unknown: int = UNKNOWN) -> None:
        self.calls = calls
        self.otherwise = otherwise
        self.unknown = unknown


def assemble(policy: Policy, machine: str) -> list[Instruction]:
    """The program for a machine of `syscalls.TABLES`.

    It first kills a process that calls by another ABI, whose numbers mean other calls: 32-bit code (another value of
    `arch`), and on x86-64 the x32 ABI (bit 30 of the number).
    """
    table = syscalls.TABLES[machine]
    program = [
        (LD_W_ABS, 0, 0, _ARCH),
        (JEQ, 1, 0, AUDIT_ARCH[machine]),
        (RET, 0, 0, KILL_PROCESS),
        (LD_W_ABS, 0, 0, _NR),
    ]
    if machine == "x86_64":
        program += [(JSET, 0, 1, X32_BIT), (RET, 0, 0, KILL_PROCESS)]
    for name, verdict in policy.calls.items():
        if name in table:
            body = _verdict(verdict)
            program += [(JEQ, 0, len(body), table[name]), *body]
    program += [(JGE, 0, 1, max(table.values()) + 1), (RET, 0, 0, policy.unknown), (RET, 0, 0, policy.otherwise)]
    return program


def install(policy: Policy) -> None:
    """Put the filter in force for this thread and all that come from it; needs no_new_privs (or root).

    Raises:
        OSError: the kernel has no seccomp filters, or a container denies them; ENOSYS for an unknown machine.
    """
    code = program(policy, syscalls.MACHINE, os.getpid())
    header = _SockFprog(len(code) // _INSTRUCTION.size, ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p))
    linux.syscall("seccomp", _SET_MODE_FILTER, 0, ctypes.addressof(header))


def program(policy: Policy, machine: str, pid: int) -> bytes:
    """The program as the kernel takes it, for the process with this pid.

    Assembling costs half a millisecond, and only the pid differs between workers: after `prepare` in the process that
    forks them they only fill in the pid.
    """
    code, pid_offsets = _template(policy, machine)
    filled = bytearray(code)
    for offset in pid_offsets:
        struct.pack_into("=I", filled, offset, pid)
    return bytes(filled)


def prepare(policy: Policy) -> None:
    """Assemble the policy's program now, for the children that will install it."""
    if syscalls.MACHINE in AUDIT_ARCH:
        _template(policy, syscalls.MACHINE)


@cache
def _template(policy: Policy, machine: str) -> tuple[bytes, tuple[int, ...]]:
    """The program with `OWN_PID` in it, and the offsets at which that stands."""
    if machine not in AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"there is no filter for the machine {machine}")
    instructions = assemble(policy, machine)
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions)
    operand = _INSTRUCTION.size - 4
    own = [i for i, (op, _, _, k) in enumerate(instructions) if (op, k) == (JEQ, OWN_PID)]
    return code, tuple(i * _INSTRUCTION.size + operand for i in own)


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _verdict(verdict: int | If) -> list[Instruction]:
    """Instructions that return the verdict, reached with the call's number matched."""
    if isinstance(verdict, int):
        return [(RET, 0, 0, verdict)]
    code: list[Instruction] = [(RET, 0, 0, verdict.then), (RET, 0, 0, verdict.otherwise)]
    for condition in reversed(verdict.conditions):
        # A condition that does not hold skips to the last instruction.
        code = _condition(condition, len(code) - 1) + code
    return code


def _condition(condition: Condition, skip: int) -> list[Instruction]:
    """Instructions that fall through while the condition holds, else skip `skip` instructions after themselves."""
    low = _ARGS + 8 * condition.arg
    if isinstance(condition, Clear):
        return [(LD_W_ABS, 0, 0, low), (JSET, skip, 0, condition.bits)]
    if isinstance(condition, Set):
        return [(LD_W_ABS, 0, 0, low), (JSET, 0, skip, condition.bit)]
    if isinstance(condition, Null):
        return [(LD_W_ABS, 0, 0, low), (JEQ, 0, skip + 2, 0), (LD_W_ABS, 0, 0, low + 4), (JEQ, 0, skip, 0)]
    code: list[Instruction] = [(LD_W_ABS, 0, 0, low)]
    last = len(condition.values) - 1
    for index, value in enumerate(condition.values):
        code.append((JEQ, last - index, skip if index == last else 0, value & 0xFFFFFFFF))
    return code
