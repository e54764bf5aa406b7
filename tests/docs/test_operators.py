"""docs/operators.md lists the operators that have a gradient rule, and no other."""

from __future__ import annotations

import re

from sightline.exporter.rules import NO_GRADIENT, RULES
from tests.docs.markdown import ROOT, prose


def test_the_page_agrees_with_the_rules() -> None:
    _, ruled, ended, _ = prose(ROOT / "docs" / "operators.md").split("\n## ")
    listed = [
        operator
        for row in re.findall(r"^\| (`.*?) \|", ruled, re.MULTILINE)
        for operator in re.findall(r"`(\w+)`", row)
    ]
    assert sorted(listed) == sorted(RULES)
    assert set(re.findall(r"`(\w+)`", ended)) == NO_GRADIENT
