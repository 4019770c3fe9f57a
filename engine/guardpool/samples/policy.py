"""The policy that comes with the sample guard."""

from __future__ import annotations

from typing import Any

POLICY: dict[str, Any] = {
    "allow-only": {
        "repos": "all",
        "min-integrity": "approved",
        "blocked-users": ["spam-merchant", "mallory-x"],
        "trusted-users": ["octo-lead", "release-captain"],
        "approval-labels": ["ready-for-agent", "accepted"],
        "refusal-labels": ["needs-triage", "suspicious"],
    },
    "trusted-bots": ["renovate[bot]", "octo-ci[bot]"],
}
