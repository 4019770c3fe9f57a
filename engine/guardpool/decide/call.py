"""What a decision is made of: the agent's labels, and the labels of one call."""

from __future__ import annotations

from typing import Any, NamedTuple, Union

from msgspec import UNSET
from msgspec.structs import force_setattr, replace

from guardpool.contract.answers import parse_response_answer
from guardpool.contract.text import shown
from guardpool.decide.decided_item import DecidedItem
from guardpool.decide.items import Found, find
from guardpool.decide.sinks import NoGuard, Sink
from guardpool.decide.words import NO_TAGS, READ, DecideError, mode_of, tags_of
from guardpool.labels import DifcMode, Labels, Operation, PathLabel, Printed, ResourceLabel, ResponseLabel


class AgentState(Printed, frozen=True, gc=False):
    """An agent's labels at one moment.

    Args:
        secrecy: what the agent is cleared for, and in propagate also what it has read.
        integrity: what the agent demands of what it reads, and how far it is trusted where it writes.

    Raises:
        DecideError: tags are not a collection of strings.
    """

    secrecy: frozenset[str] = NO_TAGS
    integrity: frozenset[str] = NO_TAGS

    def __post_init__(self) -> None:
        force_setattr(self, "secrecy", tags_of(self.secrecy, "the agent's secrecy"))
        force_setattr(self, "integrity", tags_of(self.integrity, "the agent's integrity"))


_OPERATIONS = {operation.value: operation for operation in Operation}


class Asked(NamedTuple):
    """A call's operation.

    Attributes:
        operation: as the gateway takes it: what is not one of the three words is `write`.
        is_known: whether the guard gave one of the three words.
    """

    operation: Operation
    is_known: bool


# Labels that were made with other tags than frozen sets are refused: a guard's answers are parsed into these.


def _check_response(response: ResponseLabel) -> None:
    default = response.default_labels
    if default is not None:
        _check_labels(default, "the default label of a response")
    for path in response.labeled_paths:
        _check_labels(path, "a label of a response")
    for item in response.items or ():
        _check_labels(item.labels, "an item's label")


def _check_labels(labels: ResourceLabel | PathLabel | Labels, what: str) -> None:
    secrecy, integrity = labels.secrecy, labels.integrity
    if type(secrecy) is not frozenset or type(integrity) is not frozenset:
        wrong = integrity if type(secrecy) is frozenset else secrecy
        raise DecideError(f"the tags of {what} are frozen sets, not {shown(wrong)}")


_NOT_KNOWN = Asked(Operation.WRITE, False)
_KNOWN = {operation: Asked(operation, True) for operation in Operation}
_A_READ = _KNOWN[Operation.READ]
_A_WRITE = _KNOWN[Operation.WRITE]
_A_READ_WRITE = _KNOWN[Operation.READ_WRITE]


class CallLabels(Printed, frozen=True, dict=True):
    """One call with its labels.

    Args:
        tool_name: the tool's name.
        mode: `strict`, `filter` or `propagate`, as `label_agent` answered, in any case; empty is `strict`.
        operation: the guard's word; left out it is that of `resource`. What is not one of `read`, `write` and `read-write` is
            what the rules make of it. Sinks and servers without a guard have their own.
        resource: what `label_resource` answered, or the `Sink` or `NoGuard` that stands for the server; None if it gave no
            label.
        response: what `label_response` answered: its bytes, or the label that was made of them; None for no answer.
        tool_result: the tool's result, any JSON value; left out where there is none.
        resource_error: why `label_resource` gave no label.
        response_error: why `label_response` gave no label: the guard trapped, refused, or its answer was not valid.
        tool_known: whether the guard knows the tool; None where it is not known.
        read_only_hint: the tool's `readOnlyHint` in the server's list of tools; None if it has none.
        item_limit: how many items the guard labels at most. None if it is not known: then a guard that labelled the first 100
            or more items and none after them is taken to have stopped there.

    Raises:
        DecideError: an argument is not of its kind.
    """

    tool_name: str
    mode: DifcMode | str = ""
    operation: Operation | str | None = None
    resource: Union[ResourceLabel, Sink, NoGuard, None] = None
    response: Union[bytes, ResponseLabel, None] = None
    tool_result: Any = UNSET
    resource_error: str | None = None
    response_error: str | None = None
    tool_known: bool | None = None
    read_only_hint: bool | None = None
    item_limit: int | None = None

    def __post_init__(self) -> None:
        if type(self.mode) is not DifcMode:
            force_setattr(self, "mode", mode_of(self.mode))
        if not isinstance(self.tool_name, str):
            raise DecideError(f"a tool's name is a string, not {shown(self.tool_name)}")
        if self.operation is not None and not isinstance(self.operation, str):
            raise DecideError(f"an operation is read, write or read-write, not {shown(self.operation)}")
        resource, response = self.resource, self.response
        if type(resource) is ResourceLabel:
            _check_labels(resource, "the resource's label")
        elif resource is not None and not isinstance(resource, (ResourceLabel, Sink, NoGuard)):
            raise DecideError(f"a resource is a ResourceLabel, a Sink or NoGuard, not {shown(resource)}")
        if type(response) is ResponseLabel:
            _check_response(response)
        elif response is not None and not isinstance(response, (ResponseLabel, bytes)):
            raise DecideError(f"a response is a ResponseLabel, the guard's bytes or None, not {shown(response)}")
        if self.item_limit is not None and (type(self.item_limit) is not int or self.item_limit < 0):
            raise DecideError(f"an item limit is a whole number from 0 on, not {shown(self.item_limit)}")

    # Both rule sets, and what is decided in other modes, look at the same answer and result. So both are read once, and what
    # came of it is kept in the instance's dict: `functools.cached_property` would take a tenth of a decision.

    @property
    def answer(self) -> ResponseLabel | None:
        """What `label_response` answered, read.

        Raises:
            ContractError: its bytes are no valid answer.
        """
        answer = self.response
        if not isinstance(answer, bytes):
            return answer
        kept: dict[str, Any] = self.__dict__
        if "answer" not in kept:
            kept["answer"] = parse_response_answer(answer)
        return kept["answer"]  # type: ignore[no-any-return]

    @property
    def found(self) -> Found | None:
        """The items of the result, as the answer finds them; None if it finds none.

        Raises:
            ContractError: the answer is not valid, or does not fit the result.
        """
        kept: dict[str, Any] = self.__dict__
        if "found" not in kept:
            answer = self.answer
            kept["found"] = None if answer is None else find(answer, self.tool_result)
        return kept["found"]  # type: ignore[no-any-return]

    def items_judged(self, agent: AgentState, denies: bool) -> list[DecidedItem] | None:
        """The items as they were judged for this agent, if they were, in a mode that denies or in one that does not."""
        kept: tuple[AgentState, bool, list[DecidedItem]] | None = self.__dict__.get("judged")
        return kept[2] if kept is not None and kept[1] is denies and kept[0] == agent else None

    def keep_judged(self, agent: AgentState, denies: bool, items: list[DecidedItem]) -> None:
        """Keep the items as they were judged last, for `items_judged`."""
        self.__dict__["judged"] = agent, denies, items

    def in_mode(self, mode: DifcMode) -> CallLabels:
        """The same call in another mode; what was read of it already is not read again."""
        if mode is self.mode:
            return self
        other = replace(self, mode=mode)
        other.__dict__.update(self.__dict__)
        return other

    @property
    def asked(self) -> Asked:
        """What the guard said that the call does."""
        resource, word = self.resource, self.operation
        if type(resource) is ResourceLabel and word is None and resource.operation is READ and not resource.warnings:
            return _A_READ  # as nearly all are
        if type(resource) is Sink:
            return _A_WRITE
        if type(resource) is NoGuard:
            return _A_READ_WRITE
        if word is None and type(resource) is ResourceLabel:
            word = resource.operation
        operation = None if word is None else _OPERATIONS.get(word)
        if operation is None:
            return _NOT_KNOWN
        if type(resource) is ResourceLabel and resource.warnings and operation == resource.operation:
            # The label says `write` for a word that is none of the three, and has a warning that it does.
            return Asked(operation, all(code != "operation_unknown" for code, _ in resource.warnings))
        return _KNOWN[operation]

    @property
    def label(self) -> ResourceLabel | None:
        """The labels of what the call touches; None if there are none."""
        resource = self.resource
        if resource is None or type(resource) is ResourceLabel:
            return resource
        return resource.label(self.tool_name)  # type: ignore[union-attr]
