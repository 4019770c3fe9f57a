"""The rules of the guard contract as plain functions: no I/O, no state.

Each takes whatever it is given and either returns a value or raises a `ContractError` that says what was got and what
was expected; hostile bytes and hostile JSON included.
"""

from __future__ import annotations

from guardpool.contract.answers import parse_agent_answer, parse_resource_answer, parse_response_answer
from guardpool.contract.expansion import expand
from guardpool.contract.inputs import normalise
from guardpool.contract.judging import judge
from guardpool.contract.policy import check_policy
from guardpool.errors import ContractError, PolicyError
from guardpool.labels import (
    AgentLabels,
    DifcMode,
    LabeledItem,
    Labels,
    LabelWarning,
    Operation,
    PathLabel,
    ResourceLabel,
    ResponseLabel,
)

__all__ = [
    "AgentLabels",
    "ContractError",
    "DifcMode",
    "LabeledItem",
    "LabelWarning",
    "Labels",
    "Operation",
    "PathLabel",
    "PolicyError",
    "ResourceLabel",
    "ResponseLabel",
    "check_policy",
    "expand",
    "judge",
    "normalise",
    "parse_agent_answer",
    "parse_resource_answer",
    "parse_response_answer",
]
