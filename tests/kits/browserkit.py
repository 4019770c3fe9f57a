"""A real Chromium that looks at pages, in a process of its own, so that nothing of it is left in the tests' process.

Install it with `apt-get update && apt-get install --no-install-recommends chromium`; Playwright, which drives it, is among the
development dependencies. `look(page, script)` opens a page and runs the steps of a script of Playwright; what the steps return
comes back, with everything that the page did and should not have done.

    python tests/kits/browserkit.py PAGE FOLDER light      # screenshots of a page into a folder
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

INSTALL = "apt-get update && apt-get install --no-install-recommends chromium"
TIMEOUT_S = 120.0
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
_READY = "document.documentElement.dataset.ready || !document.getElementById('broken').hidden"


def why_not() -> str | None:
    """Why there is no browser here, and how to install one; None if there is one."""
    if importlib.util.find_spec("playwright") is None:
        return "no Playwright here: make install"
    return None if _chromium() else f"no Chromium here: {INSTALL}"


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def look(page: Path, steps: str, *, scheme: str = "light", width: int = 1280) -> dict[str, Any]:
    """Open a page and take steps.

    Args:
        page: the file.
        steps: Python, with `page` of Playwright and `found`, a dict that comes back.
        scheme: `light` or `dark`.
        width: of the window.

    Returns:
        What `found` holds, and under `complaints` what the page wrote to the console, its errors, its dialogs, and every
        address that it asked for but its own.
    """
    with tempfile.TemporaryDirectory() as profile:
        asked = {"page": str(page), "steps": steps, "scheme": scheme, "width": width, "profile": profile}
        done = subprocess.run(
            [sys.executable, __file__],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _look(asked: dict[str, Any]) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    found: dict[str, Any] = {"complaints": []}
    complain = found["complaints"].append
    address = Path(asked["page"]).resolve().as_uri()
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            asked["profile"],
            executable_path=_chromium(),
            headless=True,
            args=list(_FLAGS),
            color_scheme=asked["scheme"],
            viewport={"width": asked["width"], "height": 900},
            offline=True,
        )
        page = context.pages[0]
        page.set_default_timeout(30_000)
        page.on("console", lambda message: complain(f"console: {message.text}"))
        page.on("pageerror", lambda error: complain(f"error: {error}"))
        page.on("dialog", lambda dialog: (complain(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url == address or complain(f"request: {request.url}"))
        page.goto(address)
        page.wait_for_function(_READY)
        exec(asked["steps"], {"page": page, "found": found})  # the tests' own steps
        context.close()
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        file, folder, scheme = sys.argv[1:4]
        shot = f"page.screenshot(path={str(Path(folder, scheme + '.png'))!r}, full_page=True)"
        print(look(Path(file), shot, scheme=scheme))
    else:
        print(json.dumps(_look(json.load(sys.stdin))))
