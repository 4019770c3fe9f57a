"""Results in the XML of JUnit, which every CI shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from guardpool.printable import escaped, printable

_NAME_CHARS = 200


class JUnitCase(NamedTuple):
    """One test.

    Attributes:
        name: of the test.
        group: what it belongs to, as JUnit's `classname`.
        failure: why it failed, a line each; empty: it passed.
        error: why it could not be run; None: it was.
        skipped: why it was not counted; None: it was.
        seconds: how long it took.
    """

    name: str
    group: str
    failure: Sequence[str] = ()
    error: str | None = None
    skipped: str | None = None
    seconds: float = 0.0


class JUnitSuite(NamedTuple):
    """Tests under one name."""

    name: str
    cases: Sequence[JUnitCase]


def to_xml(suites: Sequence[JUnitSuite]) -> bytes:
    """The file, in UTF-8. Names and texts are other people's, so characters that cannot be printed are escaped."""
    root = ElementTree.Element("testsuites")
    _count(root, [case for suite in suites for case in suite.cases])
    for suite in suites:
        element = ElementTree.SubElement(root, "testsuite", name=printable(suite.name, _NAME_CHARS))
        _count(element, suite.cases)
        for case in suite.cases:
            _add(element, case)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _count(element: ElementTree.Element, cases: Sequence[JUnitCase]) -> None:
    element.set("tests", str(len(cases)))
    element.set("failures", str(sum(bool(case.failure) for case in cases)))
    element.set("errors", str(sum(case.error is not None for case in cases)))
    element.set("skipped", str(sum(case.skipped is not None for case in cases)))
    element.set("time", f"{sum(case.seconds for case in cases):.3f}")


def _add(parent: ElementTree.Element, case: JUnitCase) -> None:
    element = ElementTree.SubElement(
        parent,
        "testcase",
        name=printable(case.name, _NAME_CHARS),
        classname=printable(case.group, _NAME_CHARS),
        time=f"{case.seconds:.3f}",
    )
    if case.failure:
        failure = ElementTree.SubElement(element, "failure", message=printable(case.failure[0], 500))
        failure.text = "\n".join(map(escaped, case.failure))
    if case.error is not None:
        ElementTree.SubElement(element, "error", message=printable(case.error, 500))
    if case.skipped is not None:
        ElementTree.SubElement(element, "skipped", message=printable(case.skipped, 500))
