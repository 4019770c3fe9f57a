"""The sample jobs and their backend."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

import pytest

from guardpool import samples
from guardpool.jobs import Job
from guardpool.samples import repositories
from guardpool_worker.instance import GuardInstance, InstanceSettings
from samplekit import loaded

# Jobs

MANY = 20_000


@cache
def _sample_jobs() -> tuple[Job, ...]:
    return tuple(samples.jobs(MANY))


def _inside(result: Any) -> Any:
    if isinstance(result, dict) and "content" in result:
        try:
            return json.loads("".join(p["text"] for p in result["content"] if p["type"] == "text"))
        except ValueError:
            return None
    return result


def test_jobs_are_deterministic() -> None:
    first = [*samples.jobs(500, seed=3)]
    assert [*samples.jobs(500, seed=3)] == first
    assert [*samples.jobs(40, seed=3)] == first[:40]
    assert [*samples.jobs(500, seed=4)] != first
    assert [*samples.jobs(0)] == []
    with pytest.raises(ValueError, match="-1"):
        samples.jobs(-1)


def test_jobs_are_numbered_and_mixed() -> None:
    jobs = _sample_jobs()
    assert [job.id for job in jobs] == list(range(MANY))
    ops = Counter(job.op for job in jobs)
    assert 0.72 < ops["label_resource"] / MANY < 0.78
    assert ops["label_resource"] + ops["label_response"] == MANY
    assert len({job.tool_name for job in jobs if job.op == "label_resource"}) >= 30
    assert len({job.tool_name for job in jobs if job.op == "label_response"}) >= 15


def test_results_are_realistic() -> None:
    results = {id(job.tool_result): job.tool_result for job in _sample_jobs() if job.op == "label_response"}
    sizes = [len(json.dumps(result, ensure_ascii=False).encode()) for result in results.values()]
    assert max(sizes) <= 110_000
    assert sum(size > 50_000 for size in sizes) > 10
    assert sum(size >= 1000 for size in sizes) > 0.9 * len(sizes)
    inside = [_inside(result) for result in results.values()]
    pages = [page if isinstance(page, list) else page.get("items") for page in inside if page]
    counts = {len(page) for page in pages if page}
    assert {1, 100} <= counts
    assert max(counts) == 100
    wrapped = sum("content" in result for result in results.values() if isinstance(result, dict))
    assert 0.3 < wrapped / len(results) < 0.7


def test_results_hold_many_scripts_and_nest_deeply() -> None:
    text = "".join(json.dumps(job.tool_result, ensure_ascii=False) for job in _sample_jobs()[:2000])
    names = {unicodedata.name(c, "").split()[0] for c in set(text) if ord(c) > 127}
    assert {"CJK", "HIRAGANA", "HANGUL", "ARABIC", "HEBREW", "CYRILLIC"} <= names
    assert any(ord(c) >= 0x1F300 for c in text)

    def depth(value: Any) -> int:
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + max(map(depth, children), default=0)

    assert max(depth(_inside(job.tool_result)) for job in _sample_jobs()) >= 12


def test_every_job_is_labelled() -> None:
    limits = InstanceSettings("github", has_backend=True)

    def answer(tool: str, args: bytes) -> bytes:
        return json.dumps(samples.backend(tool, json.loads(args))).encode()

    instance = GuardInstance(loaded(), limits, answer)
    instance.label_agent(json.dumps(samples.POLICY).encode())
    secrecy: Counter[bool] = Counter()
    integrity: Counter[int] = Counter()
    questions = 0
    for job in _sample_jobs()[:3000]:
        call = {"tool_name": job.tool_name, "tool_args": job.tool_args, "tool_result": job.tool_result}
        outcome = instance.call(job.op, json.dumps(call).encode())
        assert outcome.status == "ok", (job, outcome.error)
        questions += outcome.backend_calls
        if job.op == "label_resource":
            label = json.loads(outcome.label or b"")
            secrecy[bool(label["secrecy"])] += 1
            integrity[len(label["integrity"])] += 1
    assert min(secrecy.values()) > 300
    assert set(integrity) == {1, 2, 3, 4}
    assert 30 < questions < 300


def test_backend_knows_the_sample_repositories() -> None:
    def found(name: str) -> Any:
        page = samples.backend("search_repositories", {"query": f"repo:{name}", "perPage": 10})
        assert page["total_count"] == len(page["items"])
        return [(item["full_name"], item["private"]) for item in page["items"]]

    assert found("octo/widgets") == [("octo/widgets", False)]
    assert found("Octo/Handbook") == [("octo/handbook", True)]
    assert found("who/knows") == []
    assert {job.tool_args["owner"] for job in _sample_jobs() if "owner" in job.tool_args} <= {
        name.split("/")[0] for name in repositories.REPOSITORIES
    }
    with pytest.raises(LookupError, match="search_repositories"):
        samples.backend("delete_repository", {})
    with pytest.raises(LookupError, match="repo:owner/name"):
        samples.backend("search_repositories", {"query": "everything"})
