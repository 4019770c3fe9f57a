"""A guard's instance: makes its calls, one after the other, and turns each into a result.

Everything that comes back from the guest is hostile: pointers are unsigned and checked against memory, lengths
against the buffer that was offered, answers against the contract. A guest's mistake becomes a `CallResult`, never an
exception of Python's own.

An instance is linked in steps: the gate, the guard against it, the bridge against both and the quick judge;
`gate_and_bridge` says why.
One thread uses it, for one call at a time; the guest cannot enter itself through the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, Union

import msgspec

from guardpool.contract import judge, parse_agent_answer
from guardpool.errors import AnswerTooLarge, ContractError, GuardInitError, HostError
from guardpool.module.imports import ENV, PREVIEW1, PREVIEW1_MODULE
from guardpool.outcomes import LogLine, OutcomeError
from guardpool.protocol.control import NO_ALLOCATOR
from guardpool.protocol.log_tail import LogTail
from guardpool.protocol.wire import MAX_RESULT_BYTES, BackendTally
from guardpool.sizes import DEFAULT_MEMORY_PAGES, FIRST_OUTPUT_BYTES, PAGE_BYTES
from guardpool_worker import gate_and_bridge, linux
from guardpool_worker.backend import CallBackend, GuestBackend
from guardpool_worker.buffers import (
    MAX_OUTPUT_BYTES,
    BufferFault,
    Buffers,
    BuffersState,
    GuestAllocator,
    GuestMemory,
    TailAllocator,
    signed,
)
from guardpool_worker.engine.bundle import LoadedGuard
from guardpool_worker.engine.seam import EngineExtern, EngineInstance, EngineTrap, LinkError
from guardpool_worker.guest_log import GuestLog
from guardpool_worker.host import externs
from guardpool_worker.known_replies import KnownReplies
from guardpool_worker.near_replies import NearReplies
from guardpool_worker.reproducible import JobWorld

MAX_TRIES = 3
# What the bridge's `label` returns when the guard returned -2: no label, and -2 in the lower half.
_TOO_SMALL = 0xFFFFFFFE

OPS = {
    "label_resource": gate_and_bridge.OP_LABEL_RESOURCE,
    "label_response": gate_and_bridge.OP_LABEL_RESPONSE,
    "label_agent": gate_and_bridge.OP_LABEL_AGENT,
}
_WARNING = 2
_RAISE_DATA = "raise max_data_bytes: the worker has no memory left for this guard"


class InstanceSettings(msgspec.Struct, frozen=True):
    """What a guard's instance may do, and its name.

    Args:
        name: the guard's name, for messages.
        log_threshold: log lines below this level are dropped inside wasm: 0 keeps all, 4 none.
        keep_logs: whether outcomes carry the log lines. Nothing here depends on it.
        has_backend: whether calls of `call_backend` reach a backend.
        max_output_bytes: a longer answer is `invalid`.
        max_backend_calls: calls of `call_backend` for one job, over all its tries.
        max_log_bytes: what the log lines of one job may cost.
        memory_pages: what its linear memory may grow to.
        tells_replies: results tell which replies the guard used.
        near_bytes: what replies may take that are kept near the guard.
        seed: what random bytes are made of, and then clocks begin at the job's time; None: both are the machine's.
    """

    name: str
    log_threshold: int = 2
    keep_logs: bool = False
    has_backend: bool = False
    max_output_bytes: int = MAX_OUTPUT_BYTES
    max_backend_calls: int = 50
    max_log_bytes: int = 64 * 1024
    memory_pages: int = DEFAULT_MEMORY_PAGES
    tells_replies: bool = False
    near_bytes: int = 0
    seed: Union[bytes, None] = None


class Places(NamedTuple):
    """Where the host's buffers are in a guard's memory."""

    buffers: BuffersState
    out_cap: int


class CallResult(msgspec.Struct, array_like=True, gc=False):
    """The result of one call.

    Attributes:
        status: `"ok"`, `"refused"`, `"invalid"` or `"trap"`.
        label: the label as canonical JSON if `status` is `"ok"`, else None.
        error: why there is no label, else None.
        backend_calls: how often the backend was asked.
        logs: the log lines that passed the threshold.
        backend_errors: what the backend raised, last first.
        backend: what the guard asked; None if it asked nothing.
    """

    status: str
    label: bytes | None
    error: OutcomeError | None
    backend_calls: int
    logs: list[LogLine]
    backend_errors: tuple[str, ...] = ()
    backend: BackendTally | None = None


def prelink(loaded: LoadedGuard) -> bool:
    """Complete a guard's tables once, in the forkserver, and not in every worker for its first instance.

    wasmer completes a module's tables when it is first instantiated: 1.4 ms and 1.7 MB for a guard of 300 KB, and the memory
    is shared if they are made before the fork. No code of the guest runs: a module with a start function is left alone,
    and failures are left to the workers, which report them.

    Returns:
        Whether it was done.
    """
    if loaded.has_start or not loaded.engine.completes_modules_late:
        return False
    try:
        gate = loaded.gate.instantiate({})
        guard = _guard_on(gate, loaded)
        quick_judge = loaded.quick_judge.instantiate({}, beside=gate)
        memory = GuestMemory(guard)
        log, backend = GuestLog(memory, 0), GuestBackend(memory, None, 0)
        _bridge_on(gate, guard, quick_judge, loaded, externs(loaded.engine, log, backend, memory))
    except (EngineTrap, LinkError):
        return False
    return True


def _guard_on(gate: EngineInstance, loaded: LoadedGuard) -> EngineInstance:
    # Only the functions that the guard imports: all of preview 1 would double the time that an instance takes.
    offered = {"env": ENV, PREVIEW1_MODULE: PREVIEW1}
    imports: dict[str, dict[str, EngineExtern]] = {namespace: {} for namespace in offered}
    for namespace, name in loaded.guard.imports:
        if name in offered.get(namespace, ()):
            imports[namespace][name] = gate.extern(name)
    return loaded.guard.instantiate(imports, beside=gate)


def _bridge_on(
    gate: EngineInstance,
    guard: EngineInstance,
    quick_judge: EngineInstance,
    loaded: LoadedGuard,
    host: dict[str, EngineExtern],
) -> EngineInstance:
    exports = ("memory", "label_resource", "label_response", "label_agent")
    return loaded.bridge.instantiate(
        {
            "guest": {name: guard.extern(name) for name in exports},
            "gate": {name: gate.extern(name) for name in ("table", "threshold")},
            "quick_judge": {name: quick_judge.extern(name) for name in gate_and_bridge.OF_QUICK_JUDGE},
            "host": host,
        }
    )


class _Fault(Exception):
    """A call without an answer; `status` and `error` go into its result."""

    def __init__(self, status: str, error: OutcomeError) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


class GuardInstance:
    """An instance of a guard; calls `_initialize` if the guard exports it.

    Args:
        loaded: the guard's machine code.
        settings: limits and filters.
        backend: answers `call_backend`; only called if `settings.has_backend`.
        known: replies that it need not be called for.
        log_tail: where the last lines stand in case the worker is killed.
        bare: nothing of the guard is run but its start function: `take_over` makes the instance complete.

    Attributes:
        dead: a trap or an exit with a non-zero code ended the instance; it cannot be called again.
        init_logs: what the guard logged before its first job, in `_initialize` and `label_agent`.
        memory: the guard's linear memory.
        guard: the engine's instance, with all that the guard exports.

    Raises:
        GuardInitError: the module could not be instantiated, trapped in its start function or in `_initialize`, or has
            no room for the buffers.
    """

    def __init__(
        self,
        loaded: LoadedGuard,
        settings: InstanceSettings,
        backend: CallBackend | None = None,
        known: KnownReplies | None = None,
        log_tail: LogTail | None = None,
        *,
        bare: bool = False,
    ) -> None:
        self.name = settings.name
        self.dead = False
        self.init_logs: list[LogLine] = []
        self._max_memory_bytes = settings.memory_pages * PAGE_BYTES
        self._max_answer = settings.max_output_bytes
        self._max_label = MAX_RESULT_BYTES - settings.max_log_bytes  # they travel together
        self._log_tail = log_tail
        self._end_log: Callable[[], object] = int
        self._out_cap = 0
        self._world: JobWorld | None = None
        guard = self.guard = self._link(loaded, settings, backend if settings.has_backend else None, known)
        self._allocator = self._allocator_of(guard)
        self._buffers = Buffers(self._allocator)
        if not bare:
            self._initialize(guard)
            self._open_buffers(settings.log_threshold)

    def label_agent(self, payload: bytes) -> bytes:
        """Initialise the guard with its policy, before any other call.

        Returns:
            The guard's answer, which `contract.parse_agent_answer` accepts.

        Raises:
            GuardInitError: the guard trapped or refused, or its answer is not valid. The instance must not be used.
        """
        try:
            self._run("label_agent", payload)
            answer = self.answer("label_agent")
            parse_agent_answer(answer)
        except _Fault as fault:
            self._init_failed("label_agent", fault, self._take_logs())
        except ContractError as error:
            raise GuardInitError(f"guard {self.name!r}: label_agent: {error}", guard=self.name) from error
        finally:
            self._end_start()
        self._first_memory_bytes = self.memory.size()
        return answer

    def places(self) -> Places:
        """Where the host's buffers are in its memory, for `take_over`."""
        return Places(self._buffers.state(), self._out_cap)

    def take_over(self, places: Places) -> None:
        """Use the buffers that another instance had, or this one had before: what is in memory is that one's, too.

        Args:
            places: told by `places` when memory, globals and tables were as they are now.
        """
        if self._out_cap != places.out_cap or self._buffers.state() != places.buffers:
            self._buffers.go_back(places.buffers)
            self._offer(places.out_cap)

    def make_room(self, size: int) -> bool:
        """Have the guard's allocator take `size` bytes and get them back, so that a job that needs as much finds it there.

        Only if memory may grow to far more than that. Not for guards without an allocator.

        Returns:
            False if the guard trapped or gave an impossible address: the instance must not be used.
        """
        allocator = self._allocator
        if isinstance(allocator, TailAllocator) or self.memory.size() + 4 * size > self._max_memory_bytes:
            return True
        try:
            ptr = allocator.take(size)
            if ptr is not None:
                allocator.give(ptr, size)
        except (EngineTrap, BufferFault):
            return False
        self._take_logs()
        self._forget_questions()
        return True

    def let_go(self) -> None:
        """Have nothing but its caller hold it, so that it goes when the caller lets it go. It must not be used again."""
        self.memory.let_go()
        self._backend.let_go()

    def grow(self, bytes_more: int) -> bool:
        """Grow its memory by whole pages of 64 KiB; False if it cannot."""
        return not bytes_more or self._grow(bytes_more // PAGE_BYTES) != -1

    @property
    def full(self) -> int:
        """What its linear memory has of what it may have, in thousandths; 0 if it has not grown since `label_agent`."""
        size = self.memory.size()
        return size * 1000 // self._max_memory_bytes if size > self._first_memory_bytes else 0

    def call(self, op: str, payload: bytes, time_us: int = 0) -> CallResult:
        """Label one tool call.

        Args:
            op: `"label_resource"` or `"label_response"`.
            payload: the input as JSON, not longer than the pool's limit.
            time_us: where the guard's clocks begin, in microseconds since 1970, if the settings have a seed.

        Raises:
            HostError: the instance is dead.
        """
        result = self.label(op, payload, time_us)
        return CallResult("ok", result, None, 0, []) if isinstance(result, bytes) else result

    def label(self, op: str, payload: bytes, time_us: int = 0) -> bytes | CallResult:
        """Like `call`, but returns the bare label if it is `ok` and there is nothing else to tell, as nearly always."""
        try:
            length = self._run(op, payload, time_us)
            label = self._labels[:length].tobytes() if length else judge(op, self.answer(op))
        except _Fault as fault:
            return self._result(fault.status, None, fault.error)
        except ContractError as error:
            code = "output_too_large" if isinstance(error, AnswerTooLarge) else "invalid_answer"
            return self._result("invalid", None, OutcomeError(code=code, message=str(error)))
        if len(label) > self._max_label:
            message = f"the label made of the answer of {op} is {len(label)} bytes; the limit is {self._max_label}"
            return self._result("invalid", None, OutcomeError("output_too_large", message))
        log, backend = self._log, self._backend
        if not (log.dirty or backend.asked or backend.hits[0] or backend.owes):
            return label
        tally = None if log.dirty or backend.owes else backend.plain_tally()
        if tally is None:
            return self._result("ok", label, None)
        return CallResult("ok", label, None, tally.asked, [], (), tally)

    def _link(
        self,
        loaded: LoadedGuard,
        settings: InstanceSettings,
        backend: CallBackend | None,
        known: KnownReplies | None,
    ) -> EngineInstance:
        try:
            gate = loaded.gate.instantiate({})
            self._exited, self._exit_code = gate.global_("exited"), gate.global_("exit_code")
            guard = _guard_on(gate, loaded)
            self.memory = GuestMemory(guard)
            self._log = GuestLog(self.memory, settings.max_log_bytes, self._log_tail)
            self._backend = GuestBackend(
                self.memory, backend, settings.max_backend_calls, known, settings.tells_replies
            )
            quick_judge = loaded.quick_judge.instantiate({}, beside=gate)
            if settings.seed is not None:
                self._world = JobWorld(settings.seed)
            host = externs(loaded.engine, self._log, self._backend, self.memory, self._world)
            bridge = _bridge_on(gate, guard, quick_judge, loaded, host)
        except EngineTrap as trap:
            self._init_failed("the start function", self._trapped(trap))
        except LinkError as error:
            hint = "" if linux.can_map(self._max_memory_bytes) else f"; {_RAISE_DATA}"
            raise GuardInitError(
                f"guard {self.name!r} cannot be instantiated: {error}{hint}", guard=self.name
            ) from error
        gate.global_("threshold").value = settings.log_threshold
        self._has_backend = backend is not None
        gate.global_("backend").value = int(self._has_backend)
        self._asked = gate.global_("asked")
        self._end_log = bridge.function("end_log")
        # An engine may drop an instance although others import its functions, and then calls of those fail.
        self._helpers = (gate, quick_judge, bridge)
        near = None if known is None or backend is None else NearReplies.beside(quick_judge, settings.near_bytes)
        if near is not None:
            self._backend.use_near(near)
            bridge.global_("near").value = 1
        self._returned = 0
        self._longest_quick: int = quick_judge.function("longest")()
        self._labels = quick_judge.memory_view()[quick_judge.function("label_at")() :]
        self._label = bridge.function("label")
        self._set_buffers = bridge.function("set_buffers")
        self._grow = bridge.function("grow")
        return guard

    def _initialize(self, guard: EngineInstance) -> None:
        try:
            initialize = guard.function("_initialize")
        except KeyError:
            return
        try:
            initialize()
        except EngineTrap as trap:
            self._init_failed("_initialize", self._trapped(trap), self._take_logs())
        finally:
            self._end_start()

    def _end_start(self) -> None:
        """A call before the first job is over."""
        self.init_logs += self._take_logs()
        self._backend.end_start()
        self._forget_questions()

    def _allocator_of(self, guard: EngineInstance) -> GuestAllocator | TailAllocator:
        try:
            return GuestAllocator(self.memory, guard.function("alloc"), guard.function("dealloc"))
        except KeyError:
            return TailAllocator(self.memory, self._grow)

    def _open_buffers(self, log_threshold: int) -> None:
        allocator = self._allocator
        if isinstance(allocator, TailAllocator) and log_threshold <= _WARNING:
            self.init_logs.append(LogLine(_WARNING, NO_ALLOCATOR))
        try:
            try:
                self._prepare(0)
            except BufferFault:
                if isinstance(allocator, GuestAllocator) or not allocator.use_existing():
                    raise
                self._prepare(0)
        except EngineTrap as trap:
            self._init_failed("alloc", self._trapped(trap), self._take_logs())
        except BufferFault as fault:
            hint = f"; {self._way_to_more_room()}" if fault.code == "no_room" else ""
            raise GuardInitError(f"guard {self.name!r}: {fault}{hint}", guard=self.name) from None

    def _way_to_more_room(self) -> str:
        """Which limit leaves the guard no room."""
        if linux.can_map(FIRST_OUTPUT_BYTES):
            return "raise memory_pages, or build it with more memory"
        return _RAISE_DATA

    def _prepare(self, length: int) -> None:
        self._buffers.prepare(length)
        self._offer(self._buffers.out_size)

    def _offer(self, out_cap: int) -> None:
        """Tell the bridge the buffers' addresses, and how much of the output buffer the guard may use."""
        buffers = self._buffers
        self._out_cap = out_cap
        self._answer_limit = min(out_cap, self._max_answer)
        # The bridge copies pieces of 64 bytes, and must find whole ones in the buffer.
        quick_cap = min(self._answer_limit, self._longest_quick, buffers.out_size & ~63)
        self._set_buffers(signed(buffers.in_ptr), signed(buffers.out_ptr), out_cap, quick_cap)
        self.memory.size()

    def _run(self, op: str, payload: bytes, time_us: int = 0) -> int:
        """Have the guard answer one input, or raise a `_Fault`.

        Returns:
            The length of the label that the quick judge made of the answer; 0: see `answer`.
        """
        if self.dead:
            raise HostError(f"guard {self.name!r}: this instance ended and cannot be called again")
        length = len(payload)
        buffers = self._buffers
        try:
            if not buffers.over < length <= buffers.upto:
                self._prepare(length)
            ptr = buffers.in_ptr
            self.memory.bytes[ptr : ptr + length] = payload
            if self._backend.near is not None:
                self._backend.look_at_clock()
            if self._world is not None:  # after the allocator ran: whether it does depends on the jobs before
                self._world.begin(op, payload, time_us)
            returned = self._returned = self._label(OPS[op], length)
            if returned == _TOO_SMALL:
                returned = self._run_again(op, payload, time_us)
        except EngineTrap as trap:
            raise self._trapped(trap) from None
        except BufferFault as fault:
            raise _Fault("invalid", OutcomeError(code=fault.code, message=str(fault))) from None
        made: int = returned >> 32
        if made and buffers.out_size > FIRST_OUTPUT_BYTES:
            buffers.answered(0)  # an answer for the quick judge is far shorter than the first output buffer
        return made

    def answer(self, op: str) -> bytes:
        """What the guard answered last, or a `_Fault` if it gave a code or a length that cannot be."""
        size, buffers = _signed_low(self._returned), self._buffers
        if not 0 <= size <= self._answer_limit:
            self._no_answer(op, size)
        ptr = buffers.out_ptr
        answer = self.memory.bytes[ptr : ptr + size].tobytes()
        if buffers.out_size > FIRST_OUTPUT_BYTES:
            buffers.answered(size)
        return answer

    def _run_again(self, op: str, payload: bytes, time_us: int) -> int:
        """Try again after a first try that ended in -2; what the bridge's `label` returned at last."""
        for _ in range(MAX_TRIES - 1):
            self._offer_more(op)
            if self._world is not None:  # anew: where earlier jobs left a larger buffer there is one try less
                self._world.begin(op, payload, time_us)
            ptr = self._buffers.in_ptr
            self.memory.bytes[ptr : ptr + len(payload)] = payload
            returned: int = self._label(OPS[op], len(payload))
            self._returned = returned
            if returned != _TOO_SMALL:
                return returned
        message = f"{op} found the buffer too small {MAX_TRIES} times, the last time with {self._out_cap} bytes"
        raise _Fault("invalid", OutcomeError(code="output_too_large", message=message))

    def _offer_more(self, op: str) -> None:
        """After -2, offer the size that the guard left in its output buffer, or twice the last one if it left none."""
        buffers = self._buffers
        out = buffers.out_ptr
        hint = int.from_bytes(self.memory.bytes[out : out + 4], "little")
        ceiling = min(MAX_OUTPUT_BYTES, max(self._max_answer, FIRST_OUTPUT_BYTES))
        if hint > ceiling or (not hint and self._out_cap >= ceiling):
            asked = hint or f"more than {self._out_cap}"
            message = f"{op} asks for an output buffer of {asked} bytes, more than the largest allowed ({ceiling})"
            raise _Fault("invalid", OutcomeError(code="output_too_large", message=message))
        size = hint or min(max(2 * self._out_cap, FIRST_OUTPUT_BYTES), ceiling)
        if size <= buffers.out_size:
            self._offer(size)
            buffers.forget()
            return
        found = buffers.grow_output(size, hint or self._out_cap + 1)
        self._offer(buffers.out_size)
        if not found:
            message = (
                f"{op} asks for a larger output buffer than {self._out_cap} bytes, and the guard has no room for it"
            )
            raise _Fault("invalid", OutcomeError(code="no_room", message=message))

    def _no_answer(self, op: str, size: int) -> NoReturn:
        if size < 0:
            raise _Fault("refused", OutcomeError("guard_refused", f"{op} returned {size}", guard_code=size))
        if size > self._out_cap:
            message = f"{op} returned {size}, more than the {self._out_cap} bytes of its output buffer"
            raise _Fault("invalid", OutcomeError("answer_past_buffer", message))
        message = f"{op} answered {size} bytes; the limit is {self._max_answer}"
        raise _Fault("invalid", OutcomeError("output_too_large", message))

    def _trapped(self, trap: EngineTrap) -> _Fault:
        """The fault that a trap stands for. `proc_exit` traps as well: code 0 costs only the answer, others the instance."""
        if not self._exited.value:
            self.dead = True
            return _Fault("trap", OutcomeError("trap", str(trap), trap=trap.kind))
        self._exited.value = 0
        code = self._exit_code.value & 0xFFFFFFFF
        message = f"the guard called proc_exit({code}) instead of answering"
        if code == 0:
            return _Fault("invalid", OutcomeError("exited", message, exit_code=0))
        self.dead = True
        return _Fault("trap", OutcomeError("trap", message, trap="exit", exit_code=code))

    def _result(self, status: str, label: bytes | None, error: OutcomeError | None) -> CallResult:
        """The result of a call, with what it logged; makes everything ready for the next one."""
        backend = self._backend
        backend.take_hits()
        if not backend.asked and not backend.owes:
            return CallResult(status, label, error, 0, self._take_logs())
        calls, errors = backend.calls, tuple(reversed(backend.errors))
        tally = backend.tally(backend.asked if self._has_backend else max(backend.asked, self._asked.value))
        self._forget_questions()
        if error is not None and errors:
            error = msgspec.structs.replace(error, backend=errors)
        return CallResult(status, label, error, calls, self._take_logs(), errors, tally)

    def _take_logs(self) -> list[LogLine]:
        """The lines of the call that ended."""
        if not self._log.dirty:
            return []
        # Not by the log itself: it and the bridge would hold each other, and wasmer never frees what does.
        self._end_log()  # tells of the repeats that the bridge has counted
        return self._log.take()

    def _forget_questions(self) -> None:
        self._backend.reset()
        if not self._has_backend:
            self._asked.value = 0

    def _init_failed(self, where: str, fault: _Fault, last: Sequence[LogLine] = ()) -> NoReturn:
        """Turn a fault before the first job into the error that the pool's start fails with.

        Most guards' panic handlers log the reason before they trap, so the last line logged goes into the message.
        """
        self.dead = True
        what = f"trapped ({fault.error.trap}): " if fault.status == "trap" else ""
        message = f"guard {self.name!r}: {where}: {what}{fault.error.message}"
        self.init_logs += last
        if last:
            message += f"; it last logged: {last[-1].text[:300]}"
        raise GuardInitError(message, guard=self.name)


def _signed_low(number: int) -> int:
    """The lower half of an i64 as a signed i32."""
    return ((number & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
