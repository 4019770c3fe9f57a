"""Checks that end in yes or no: of a configuration, of a guard's corpus, of two runs; and why an item was kept back.

| file | what it holds |
| --- | --- |
| `agent_tags.py` | the tags that the GitHub guard gives an agent, from the policy alone |
| `lint.py` | what in a policy or a gateway's configuration cannot work |
| `corpus.py` | a guard's corpus, in two forms: cases with what is expected of them |
| `run_corpus.py` | a corpus labelled, decided and compared |
| `explain.py`, `search.py` | why something was kept back; which single change of a policy would admit it, found by trying |
| `diff.py`, `baseline.py` | two runs over the same calls compared; differences that are accepted |
| `coverage.py`, `junit.py` | what it met; its results as XML |
"""

from __future__ import annotations
