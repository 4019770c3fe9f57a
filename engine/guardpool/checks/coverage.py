"""What a corpus exercised of a guard: tools, operations, levels and rules; and what it never met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from guardpool.checks.run_corpus import Result
from guardpool.contract.policy import LEVELS
from guardpool.decide import Rule, Verdict, level_of
from guardpool.labels import Labels, Operation, ResourceLabel

# Of a guard's cases only these can fail: the others are about configuration and limits.
RULES = (Rule.READ_INTEGRITY, Rule.READ_SECRECY, Rule.WRITE_INTEGRITY, Rule.WRITE_SECRECY)
_NO_LEVEL = "no level"
_KEPT_BACK = "secret"


class Coverage:
    """Counts over results.

    Attributes:
        tools: cases of each tool.
        passed: those of them that passed.
        operations, verdicts: calls by what they do, and by what the agent gets.
        levels: calls and items by the highest level among their integrity tags; `secret` are those with secrecy tags.
        rules: calls and items that a rule kept back.
        statuses: labels by their outcome.
    """

    def __init__(self, results: Iterable[Result] = ()) -> None:
        self.tools: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.levels: Counter[str] = Counter()
        self.rules: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        for result in results:
            self.add(result)

    def add(self, result: Result) -> None:
        """Count one more result."""
        tool, decision = result.case.tool_name, result.decision
        self.tools[tool] += 1
        self.passed[tool] += result.passed
        label = result.resource.label
        if isinstance(label, ResourceLabel):
            self.operations[str(label.operation)] += 1
            self._add_level(label)
        self.verdicts[str(decision.verdict)] += 1
        for item in decision.items or ():
            self._add_level(item.labels)
        for failures in (decision.failed, *(item.failed for item in decision.filtered)):
            self.rules.update(str(failure.rule) for failure in failures)
        self.statuses.update(str(each.status) for each in (result.resource, result.response) if each is not None)

    def _add_level(self, label: Labels | ResourceLabel) -> None:
        self.levels[level_of(label.integrity) or _NO_LEVEL] += 1
        if label.secrecy:
            self.levels[_KEPT_BACK] += 1

    @property
    def never(self) -> dict[str, list[str]]:
        """The operations, levels and rules that no case met."""
        wanted = {
            "operations": [operation.value for operation in Operation],
            "levels": [*LEVELS, _KEPT_BACK],
            "rules": [rule.value for rule in RULES],
        }
        met = {"operations": self.operations, "levels": self.levels, "rules": self.rules}
        return {name: [word for word in words if not met[name][word]] for name, words in wanted.items()}

    def to_dict(self) -> dict[str, Any]:
        """All of it, for a program."""
        return {
            "tools": {
                tool: {"cases": count, "passed": self.passed[tool]} for tool, count in sorted(self.tools.items())
            },
            "operations": dict(sorted(self.operations.items())),
            "levels": dict(sorted(self.levels.items())),
            "rules": dict(sorted(self.rules.items())),
            "verdicts": {
                verdict.value: self.verdicts[verdict.value] for verdict in Verdict if self.verdicts[verdict.value]
            },
            "statuses": dict(sorted(self.statuses.items())),
            "never": self.never,
        }
