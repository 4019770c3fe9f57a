"""What a decision says to the agent, in guardpool's own words: what was withheld, and what the policy asks for.

The gateway's words advise what cannot be done, such as dropping tags. These name the rules and the tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guardpool.decide.words import Failure, Rule, Verdict

_MOST_TAGS = 8


def refusal(verdict: Verdict, failed: Sequence[Failure], error: str | None) -> str:
    """Why the agent gets an error in the place of a result."""
    if verdict is Verdict.LABELLING_ERROR:
        return f"The guard could not label this call, so nothing of it is shown: {error or 'no reason is known'}."
    reasons = reasons_of(failed)
    if verdict is Verdict.STRICT_BLOCK:
        return f"The response is withheld because the policy does not allow all of its items. {reasons}"
    if verdict is Verdict.SINGLE_ITEM_ERROR:
        return f"The item is withheld because the policy does not allow it. {reasons}"
    return f"The policy does not allow this call. {reasons}"


def notice(filtered: int, total: int, failed: Sequence[Failure]) -> str:
    """What stands beside a response of which items were taken out."""
    return f"{filtered} of {total} items are withheld by the policy; counts in this result include them. {reasons_of(failed)}"


def reasons_of(failed: Iterable[Failure]) -> str:
    """Each failed rule in a sentence, every sentence once."""
    return " ".join(dict.fromkeys(_reason(failure) for failure in failed))


def _reason(failure: Failure) -> str:
    rule = failure.rule
    if rule is Rule.READ_INTEGRITY:
        return f"The content is trusted less than the policy demands: it lacks {_tags(failure.missing)}."
    if rule is Rule.READ_SECRECY:
        return f"The agent is not cleared for content that is {_tags(failure.extra)}."
    if rule is Rule.WRITE_INTEGRITY:
        return f"The agent is trusted less than the target demands: it lacks {_tags(failure.missing)}."
    if rule is Rule.WRITE_SECRECY:
        return f"The agent is cleared for {_tags(failure.extra)}, which the target may not receive."
    return f"Rule {rule}: {failure.detail}."


def _tags(tags: frozenset[str]) -> str:
    names = sorted(tags)
    shown = ", ".join(names[:_MOST_TAGS])
    return shown if len(names) <= _MOST_TAGS else f"{shown} and {len(names) - _MOST_TAGS} more"
