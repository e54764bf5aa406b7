"""The metrics by name: what a table says about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Group = Literal["localization", "faithfulness"]


@dataclass(frozen=True)
class Metric:
    """One metric. Its value for one image lies in [0, 1]."""

    name: str
    title: str
    group: Group
    """Localization compares the map with a true region, faithfulness asks the network."""
    higher_is_better: bool
    percent: bool
    """Shown in per cent, as the papers do."""
    meaning: str
    """One line."""

    def shown(self, value: float) -> float:
        """A value, or a difference of values, in the unit in which it is shown."""
        return 100 * value if self.percent else value


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("ebpg", "EBPG", "localization", True, True, "share of the map's sum inside the true region"),
        Metric("miou", "mIoU", "localization", True, True, "overlap of the top 20 % pixels with the true region"),
        Metric("bbox", "Bbox", "localization", True, True, "share of the top |G| pixels inside the true region G"),
        Metric("drop", "Drop", "faithfulness", False, True, "score lost when only the top 15 % pixels are kept"),
        Metric("increase", "Increase", "faithfulness", True, True, "images whose score grows with the top 15 % alone"),
        Metric("deletion", "Deletion", "faithfulness", False, False, "area under p while the top pixels are removed"),
        Metric("insertion", "Insertion", "faithfulness", True, False, "area under p while the top pixels are revealed"),
    )
}
"""In the order of tables."""
