"""Label recorded tool calls with untrusted WebAssembly guards, on every core, and lose none.

    from guardpool import Guard, GuardPool, Job

    guard = Guard.from_file("github.wasm", policy={"allow-only": {"repos": "all", "min-integrity": "approved"}})
    with GuardPool([guard]) as pool:
        outcome = pool.label_resource("get_issue", {"owner": "o", "repo": "r", "issue_number": 1})

Names are imported when they are first used, so that `import guardpool` is quick and works without an engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from guardpool import (
        backends as backends,
        contract as contract,
        decide as decide,
        recordings as recordings,
        samples as samples,
    )
    from guardpool.artifacts.cache import ModuleCache as ModuleCache
    from guardpool.artifacts.compilation import (
        CompileLimits as CompileLimits,
        compile_guard as compile,  # noqa: A004, F401
    )
    from guardpool.async_pool import AsyncGuardPool as AsyncGuardPool
    from guardpool.decide.record import DecisionRecord as DecisionRecord, RecordError as RecordError
    from guardpool.errors import (
        CallerError as CallerError,
        CompileError as CompileError,
        ContractError as ContractError,
        EngineMissing as EngineMissing,
        EngineUnknown as EngineUnknown,
        GuardError as GuardError,
        GuardInitError as GuardInitError,
        GuardPoolError as GuardPoolError,
        HostError as HostError,
        InvalidJob as InvalidJob,
        LimitsError as LimitsError,
        ModuleError as ModuleError,
        PolicyError as PolicyError,
        PoolBroken as PoolBroken,
        PoolClosed as PoolClosed,
        SandboxUnavailable as SandboxUnavailable,
    )
    from guardpool.guard import Guard as Guard
    from guardpool.jobs import UNSET as UNSET, Job as Job, Op as Op
    from guardpool.labels import (
        AgentLabels as AgentLabels,
        DifcMode as DifcMode,
        LabeledItem as LabeledItem,
        Labels as Labels,
        LabelWarning as LabelWarning,
        Operation as Operation,
        PathLabel as PathLabel,
        ResourceLabel as ResourceLabel,
        ResponseLabel as ResponseLabel,
    )
    from guardpool.limits import Limits as Limits
    from guardpool.module.inspection import Inspection as Inspection, inspect as inspect
    from guardpool.outcomes import (
        BackendUse as BackendUse,
        GuardAnswerInvalid as GuardAnswerInvalid,
        GuardRefused as GuardRefused,
        GuardTrapped as GuardTrapped,
        JobCancelled as JobCancelled,
        JobCrashed as JobCrashed,
        JobError as JobError,
        JobOutOfMemory as JobOutOfMemory,
        JobRejected as JobRejected,
        JobTimedOut as JobTimedOut,
        JobUnanswered as JobUnanswered,
        LogLine as LogLine,
        Outcome as Outcome,
        OutcomeError as OutcomeError,
        Question as Question,
        Status as Status,
    )
    from guardpool.pool import GuardPool as GuardPool
    from guardpool.replay_summary import ReplaySummary as ReplaySummary
    from guardpool.replaying import Replay as Replay, ReplayError as ReplayError, replay as replay
    from guardpool.stats import PoolStats as PoolStats, ToolStats as ToolStats

# module -> the names it gives; a name "public=private" is called otherwise in its module, "*" is the module itself.
_HOMES = {
    "artifacts.cache": "ModuleCache",
    "artifacts.compilation": "CompileLimits compile=compile_guard",
    "backends": "*",
    "contract": "*",
    "decide": "*",
    "decide.record": "DecisionRecord RecordError",
    "errors": "CallerError CompileError ContractError EngineMissing EngineUnknown GuardError GuardInitError GuardPoolError "
    "HostError InvalidJob LimitsError ModuleError PolicyError PoolBroken PoolClosed SandboxUnavailable",
    "guard": "Guard",
    "jobs": "Job Op UNSET",
    "labels": "AgentLabels DifcMode LabeledItem LabelWarning Labels Operation PathLabel ResourceLabel ResponseLabel",
    "limits": "Limits",
    "module.inspection": "Inspection inspect",
    "outcomes": "BackendUse GuardAnswerInvalid GuardRefused GuardTrapped JobCancelled JobCrashed JobError JobOutOfMemory "
    "JobRejected JobTimedOut JobUnanswered LogLine Outcome OutcomeError Question Status",
    "pool": "GuardPool",
    "async_pool": "AsyncGuardPool",
    "recordings": "*",
    "replay_summary": "ReplaySummary",
    "replaying": "Replay ReplayError replay",
    "samples": "*",
    "stats": "PoolStats ToolStats",
}
_HOME_OF: dict[str, tuple[str, str | None]] = {}
for _module, _names in _HOMES.items():
    for _name in _names.split():
        _public, _, _private = _name.partition("=")
        _HOME_OF[_module if _public == "*" else _public] = (_module, None if _public == "*" else _private or _public)

__all__ = sorted([*_HOME_OF, "__version__"])

# Modules that have their own names in the documents, `guardpool.arrow.table`. Some need an extra, so a star does not mean them.
_MODULES = ("arrow", "batch", "checks", "gateway_config", "proving", "ray", "report", "telemetry", "testing")


def __getattr__(name: str) -> Any:
    home = (name, None) if name in _MODULES else _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'guardpool' has no attribute {name!r}")
    module = importlib.import_module(f"guardpool.{home[0]}")
    value = module if home[1] is None else getattr(module, home[1])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported already or not, without what this module needs itself."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
