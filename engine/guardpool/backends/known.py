"""What a backend is known to answer before it is asked."""

from __future__ import annotations

from guardpool.backends.first import First
from guardpool.backends.replies import BackendFailed, Replies
from guardpool.guard import Backend


def known_replies(backend: Backend) -> tuple[dict[bytes, bytes | BackendFailed], bool]:
    """What its tables hold. A subclass that answers in a way of its own does not count as a table.

    Returns:
        Each question (`replies.question_of`) with its answer as JSON, or why there is none; and whether the backend knows
        nothing else, so that every other question has no answer.
    """
    if isinstance(backend, Replies) and type(backend).__call__ is Replies.__call__:
        return dict(backend.items()), True
    known: dict[bytes, bytes | BackendFailed] = {}
    if isinstance(backend, First) and type(backend).__call__ is First.__call__:
        for one in backend.backends:
            replies, is_all = known_replies(one)
            known = {**replies, **known}
            if not is_all:  # what comes behind it is asked only if this one does not know
                return known, False
        return known, True
    return known, False
