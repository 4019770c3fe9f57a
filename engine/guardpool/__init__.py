"""Label recorded tool calls with untrusted WebAssembly guards, on every core, and lose none.

    from guardpool import Guard, GuardPool, Job

    guard = Guard.from_file("github.wasm", policy={"allow-only": {"repos": "all", "min-integrity": "approved"}})
    with GuardPool([guard]) as pool:
        outcome = pool.label_resource("get_issue", {"owner": "o", "repo": "r", "issue_number": 1})

Names are imported when they are first used, so that `import guardpool` is quick and works where no engine does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from guardpool import contract as contract
    from guardpool import samples as samples
    from guardpool.cache import ModuleCache as ModuleCache
    from guardpool.compilation import CompileLimits as CompileLimits
    from guardpool.compilation import compile_guard as compile  # noqa: A004, F401
    from guardpool.errors import (
        CallerError as CallerError,
    )
    from guardpool.errors import (
        CompileError as CompileError,
    )
    from guardpool.errors import (
        ContractError as ContractError,
    )
    from guardpool.errors import (
        EngineMissing as EngineMissing,
    )
    from guardpool.errors import (
        GuardAnswerInvalid as GuardAnswerInvalid,
    )
    from guardpool.errors import (
        GuardError as GuardError,
    )
    from guardpool.errors import (
        GuardInitError as GuardInitError,
    )
    from guardpool.errors import (
        GuardPoolError as GuardPoolError,
    )
    from guardpool.errors import (
        GuardRefused as GuardRefused,
    )
    from guardpool.errors import (
        GuardTrapped as GuardTrapped,
    )
    from guardpool.errors import (
        HostError as HostError,
    )
    from guardpool.errors import (
        JobCancelled as JobCancelled,
    )
    from guardpool.errors import (
        JobCrashed as JobCrashed,
    )
    from guardpool.errors import (
        JobError as JobError,
    )
    from guardpool.errors import (
        JobOutOfMemory as JobOutOfMemory,
    )
    from guardpool.errors import (
        JobRejected as JobRejected,
    )
    from guardpool.errors import (
        JobTimedOut as JobTimedOut,
    )
    from guardpool.errors import (
        LimitsError as LimitsError,
    )
    from guardpool.errors import (
        ModuleError as ModuleError,
    )
    from guardpool.errors import (
        PolicyError as PolicyError,
    )
    from guardpool.errors import (
        PoolBroken as PoolBroken,
    )
    from guardpool.errors import (
        PoolClosed as PoolClosed,
    )
    from guardpool.errors import (
        SandboxUnavailable as SandboxUnavailable,
    )
    from guardpool.guard import Guard as Guard
    from guardpool.inspection import Inspection as Inspection
    from guardpool.inspection import inspect as inspect
    from guardpool.jobs import Job as Job
    from guardpool.jobs import Op as Op
    from guardpool.labels import (
        AgentLabels as AgentLabels,
    )
    from guardpool.labels import (
        DifcMode as DifcMode,
    )
    from guardpool.labels import (
        LabeledItem as LabeledItem,
    )
    from guardpool.labels import (
        Labels as Labels,
    )
    from guardpool.labels import (
        Operation as Operation,
    )
    from guardpool.labels import (
        PathLabel as PathLabel,
    )
    from guardpool.labels import (
        ResourceLabel as ResourceLabel,
    )
    from guardpool.labels import (
        ResponseLabel as ResponseLabel,
    )
    from guardpool.limits import Limits as Limits
    from guardpool.outcomes import LogLine as LogLine
    from guardpool.outcomes import Outcome as Outcome
    from guardpool.outcomes import OutcomeError as OutcomeError
    from guardpool.outcomes import Status as Status
    from guardpool.pool import GuardPool as GuardPool
    from guardpool.stats import PoolStats as PoolStats

# module -> the names it gives; a name "public=private" is called otherwise in its module, "*" is the module itself.
_HOMES = {
    "cache": "ModuleCache",
    "compilation": "CompileLimits compile=compile_guard",
    "contract": "*",
    "errors": "CallerError CompileError ContractError EngineMissing GuardAnswerInvalid GuardError GuardInitError "
    "GuardPoolError GuardRefused GuardTrapped HostError JobCancelled JobCrashed JobError JobOutOfMemory JobRejected "
    "JobTimedOut LimitsError ModuleError PolicyError PoolBroken PoolClosed SandboxUnavailable",
    "guard": "Guard",
    "inspection": "Inspection inspect",
    "jobs": "Job Op",
    "labels": "AgentLabels DifcMode LabeledItem Labels Operation PathLabel ResourceLabel ResponseLabel",
    "limits": "Limits",
    "outcomes": "LogLine Outcome OutcomeError Status",
    "pool": "GuardPool",
    "samples": "*",
    "stats": "PoolStats",
}
_HOME_OF: dict[str, tuple[str, str | None]] = {}
for _module, _names in _HOMES.items():
    for _name in _names.split():
        _public, _, _private = _name.partition("=")
        _HOME_OF[_module if _public == "*" else _public] = (_module, None if _public == "*" else _private or _public)

__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'guardpool' has no attribute {name!r}")
    module = importlib.import_module(f"guardpool.{home[0]}")
    value = module if home[1] is None else getattr(module, home[1])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
