"""The page: one file that fetches nothing, and what a real browser makes of it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import browserkit
import reportkit
from guardpool.report import Summary, store
from guardpool.report.page import page
from guardpool.report.words import theirs

needs_browser = pytest.mark.skipif(browserkit.why_not() is not None, reason=browserkit.why_not() or "")
MIB = 1 << 20


def written(folder: Path, values: Any, old: Any = None, name: str = "report.html") -> Path:
    """A page of decisions."""
    summary = Summary().add_all(reportkit.records(values))
    before = Summary().add_all(reportkit.records(old)) if old is not None else None
    file = folder / name
    text = page(summary, before, title="Decisions", files_read=theirs(name), privacy="No arguments.", version="9.9")
    file.write_bytes(text)
    return file


class Parsed(HTMLParser):
    """What is in a page: elements with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inline.append((*self.elements[-1], data))


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    return Parsed(written(tmp_path_factory.mktemp("page"), reportkit.attacked()).read_text(encoding="utf-8"))


def test_the_policy_forbids_everything_but_the_digests_of_what_is_inline(parsed: Parsed) -> None:
    (policy,) = [attributes["content"] for _, attributes in parsed.elements if "http-equiv" in attributes]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    digests = set(re.findall(r"'sha256-[^']+'", policy))
    scripts = [text for tag, attributes, text in parsed.inline if tag == "script" and "type" not in attributes]
    styles = [text for tag, _, text in parsed.inline if tag == "style"]
    assert (len(scripts), len(styles)) == (2, 1)
    found = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (*scripts, *styles)]
    assert digests == {f"'sha256-{digest}'" for digest in found}


def test_nothing_is_fetched_and_no_markup_of_strangers_is_left(parsed: Parsed) -> None:
    names = {tag for tag, _ in parsed.elements}
    assert not names & {"img", "iframe", "object", "embed", "link", "base", "form", "audio", "video"}
    assert sum(tag == "script" for tag, _ in parsed.elements) == 3
    for tag, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset")], tag
        assert (attributes.get("href") or "#").startswith(("#", "https://"))


def test_the_chart_library_is_small_and_comes_with_its_licences(parsed: Parsed) -> None:
    folder = files("guardpool.report.page")
    assert len(folder.joinpath("chart.umd.min.js").read_bytes()) < MIB
    licence = folder.joinpath("chart.LICENSE.txt").read_text(encoding="utf-8")
    assert licence.count("Permission is hereby granted") == 2
    pages = "".join(text for _, _, text in parsed.inline)
    assert "Chart.js v" in pages
    assert "sourceMappingURL" not in pages


def test_the_same_decisions_make_the_same_page(tmp_path: Path) -> None:
    first = written(tmp_path, reportkit.decisions(60)).read_bytes()
    assert written(tmp_path, reportkit.decisions(60)).read_bytes() == first


@pytest.mark.slow
def test_a_page_of_100000_calls_stays_below_5_mb(tmp_path: Path) -> None:
    few = written(tmp_path, reportkit.decisions(100_000)).stat().st_size
    flagged = ({"unsafe": ["B5"], **each} for each in reportkit.decisions(100_000))
    assert few < 5_000_000
    assert written(tmp_path, flagged).stat().st_size < 5_000_000


# --- in a browser

# Follows each link of a column of calls, and gives those that lead to another number of calls.
EVERY_NUMBER = """async () => {
  const counts = new Set(["calls", "refused", "with a finding"]), differ = [];
  let followed = 0;
  for (const table of document.querySelectorAll("#findings table, #coverage table, #ends table, #panel table")) {
    const titles = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    for (const cell of table.querySelectorAll("tbody tr > *")) {
      const link = counts.has(titles[cell.cellIndex]) && cell.querySelector("a");
      if (!link) continue;
      const changed = new Promise((done) => addEventListener("hashchange", () => setTimeout(done), { once: true }));
      location.hash = link.hash;
      await changed;
      followed += 1;
      const [matching] = document.getElementById("matching").textContent.split(" ");
      if (matching !== link.textContent) differ.push([link.hash, link.textContent, matching]);
    }
  }
  return { followed, differ };
}"""

TOUR = """
rows = lambda: page.locator("#panel tbody tr").count()
found["headings"] = [each.inner_text() for each in page.get_by_role("heading").all()]
found["tabs"] = page.get_by_role("tab").all_inner_texts()

# A number leads to its calls.
cell = page.locator("#findings tbody tr", has_text="B5").locator("td.number a").first
found["number"] = cell.inner_text()
cell.click()
page.wait_for_function("document.getElementById('which').textContent.includes('B5')")
found["matching"] = page.locator("#matching").inner_text()
found["focused"] = page.evaluate("document.activeElement.id")
button = page.locator("#listed button.call").first
button.press("Enter")
found["expanded"] = button.get_attribute("aria-expanded")
found["details"] = page.locator("#listed tr.details").inner_text()
page.screenshot(path=FOLDER + "/calls.png")
page.get_by_role("button", name="Take away").click()
page.wait_for_function("!document.getElementById('which').textContent.includes('B5')")
found["all"] = page.locator("#matching").inner_text()
page.get_by_role("searchbox", name="Filter calls", exact=True).fill("linear")
found["filtered"] = sorted(set(page.locator("#listed tbody tr td:nth-child(2)").all_inner_texts()))

# Every number of calls leads to as many.
found["differ"] = page.evaluate(EVERY_NUMBER)

# Tabs by keyboard, then a filter and an order.
page.get_by_role("tab", name="tool", exact=True).focus()
page.keyboard.press("ArrowRight")
page.keyboard.press("ArrowRight")
found["selected"] = page.locator("[role=tab][aria-selected=true]").inner_text()
found["rows"] = rows()
page.get_by_role("searchbox", name="Filter shares").fill("user1")
found["names"] = page.locator("#panel tbody th").all_inner_texts()
page.get_by_role("searchbox", name="Filter shares").fill("")
head = page.locator("#panel thead th", has_text="hidden").first
head.get_by_role("button").click()
found["order"] = head.get_attribute("aria-sort")
found["hidden"] = page.locator("#panel tbody tr td:nth-child(6)").all_inner_texts()
found["chart"] = page.locator("#panel canvas").get_attribute("aria-label")
found["pixels"] = page.evaluate(
    "(() => { const c = document.querySelector('#panel canvas');"
    " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
    " for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; })()"
)
background = "getComputedStyle(document.body).backgroundColor"
found["light"] = page.evaluate(background)
page.screenshot(path=FOLDER + "/light.png", full_page=True)
page.emulate_media(color_scheme="dark")
found["dark"] = page.evaluate(background)
page.screenshot(path=FOLDER + "/dark.png", full_page=True)
page.get_by_role("button", name="Light", exact=True).click()
found["switched"] = page.evaluate(background)
"""


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A page of 100 calls, toured: what was found, and the folder of the screenshots. Some calls are counted only."""
    folder = tmp_path_factory.mktemp("tour")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "MAX_FLAGGED", 15)
        patch.setattr(store, "MAX_PLAIN", 20)
        patch.setattr(store, "GROUP_EXAMPLES", 0)
        file = written(folder, reportkit.decisions(100), reportkit.decisions(100, seed=1))
    steps = f"FOLDER, EVERY_NUMBER = {str(folder)!r}, {EVERY_NUMBER!r}\n{TOUR}"
    return browserkit.look(file, steps), folder


@needs_browser
def test_a_page_opens_from_disk_and_complains_of_nothing(toured: tuple[dict[str, Any], Path]) -> None:
    found, _ = toured
    assert found["complaints"] == []
    assert found["headings"][:4] == ["Decisions", "Findings", "Coverage", "What the agent got"]
    assert found["tabs"][:3] == ["tool", "repository touched", "author"]


@needs_browser
def test_a_number_leads_to_as_many_calls_and_their_reasons(toured: tuple[dict[str, Any], Path]) -> None:
    found, _ = toured
    assert found["matching"].startswith(f"{found['number']} calls match")
    assert found["focused"] == "calls-title"
    assert found["expanded"] == "true"
    assert "B5: the result was flattened" in found["details"]
    assert "/total_count" in found["details"]
    assert found["all"] == "100 calls match. 35 are listed; 65 are counted in groups below."
    assert found["differ"]["differ"] == []
    assert found["differ"]["followed"] > 30
    assert found["filtered"]
    assert all(tool.startswith("linear ") for tool in found["filtered"])


@needs_browser
def test_shares_are_chosen_by_keyboard_filtered_and_sorted(toured: tuple[dict[str, Any], Path]) -> None:
    found, _ = toured
    assert found["selected"] == "author"
    assert found["rows"] == 12
    assert sorted(found["names"]) == ["user1", "user10", "user11"]
    assert found["order"] == "descending"
    hidden = [int(text.replace(",", "")) for text in found["hidden"]]
    assert hidden == sorted(hidden, reverse=True)
    assert hidden[0] > 0
    assert "The table below has the same numbers." in found["chart"]
    assert found["pixels"] > 1000


@needs_browser
def test_a_page_is_light_or_dark_as_the_reader_wants_it(toured: tuple[dict[str, Any], Path]) -> None:
    found, folder = toured
    assert found["light"] != found["dark"]
    assert found["switched"] == found["light"]
    for name in ("calls", "light", "dark"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "light.png").read_bytes() != (folder / "dark.png").read_bytes()


ATTACKED = """
found["elements"] = page.evaluate("[...new Set([...document.querySelectorAll('*')].map((each) => each.localName))]")
for tab in page.get_by_role("tab").all():
    tab.click()
for button in page.locator("#listed button.call").all():
    button.click()
found["links"] = page.evaluate("[...document.links].map((each) => each.getAttribute('href'))")
found["markup"] = page.locator("main img, main script, main iframe, main a[href^='javascript']").count()
found["text"] = page.locator("body").inner_text()
for link in page.locator("#panel tbody th a").all():
    link.click()
    page.wait_for_function("document.getElementById('which').textContent !== ''")
found["title"] = page.title()
"""


@needs_browser
def test_words_of_strangers_stay_words_in_a_browser(tmp_path: Path) -> None:
    found = browserkit.look(written(tmp_path, reportkit.attacked()), ATTACKED)
    assert found["complaints"] == []
    assert found["markup"] == 0
    assert found["title"] == "Decisions"
    assert all(link.startswith(("#", "https://")) for link in found["links"])
    assert "<script>alert(1)</script>" in found["text"]
    assert "\\u202edesrever" in found["text"]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", found["text"])
