"""Labels that a server itself sends with a result, in `_meta.ifc`: a second opinion on the guard's.

One label for the whole result, the meet of its items: `integrity` is `trusted` or `untrusted`, `confidentiality` is `public` or
`private`, or an array of these. The gateway drops it.

Source: github/github-mcp-server, pkg/ifc (header `X-MCP-Features: ifc_labels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guardpool.decide.decision import Decision
from guardpool.decide.words import Verdict, level_of
from guardpool.labels import Labels, ResourceLabel

PRIVATE, UNTRUSTED = "private", "untrusted"
MEANINGS = {
    PRIVATE: "the server says that it is private, and by the guard's labels nothing of it is",
    UNTRUSTED: "the server says that it is untrusted, and by the guard's labels all of it is approved or better",
}


def contradicted(decision: Decision, resource: ResourceLabel | None, sent: Any) -> tuple[str, ...]:
    """What the server's label says of a result and the guard's labels deny: of `private` and `untrusted`, what is so.

    Args:
        decision: with the items of the result, if it has any.
        resource: the label of the call, which stands for a result without items; None if it has none.
        sent: the server's label, of any shape, as everything that a server sends.
    """
    labels: Sequence[Labels | ResourceLabel] = [item.labels for item in decision.items or ()]
    if not labels and resource is not None:
        labels = [resource]
    if not labels or not isinstance(sent, dict) or decision.verdict is Verdict.LABELLING_ERROR:
        return ()
    secrecy = sent.get("confidentiality")
    is_private = PRIVATE in secrecy if isinstance(secrecy, (str, list)) else False
    is_untrusted = sent.get("integrity") == UNTRUSTED
    found = []
    if is_private and not any(label.secrecy for label in labels):
        found.append(PRIVATE)
    if is_untrusted and all(level_of(label.integrity) in ("approved", "merged") for label in labels):
        found.append(UNTRUSTED)
    return tuple(found)
