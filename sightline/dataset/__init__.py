"""Whole sets of images explained: by processes or on Ray, into Parquet, whatever happens in between (docs/datasets.md).

::

    from sightline import dataset

    if __name__ == "__main__":
        dataset.explain_set("steel.sightline", "month/", "out/", workers=8)
    for row in dataset.read("out/"):
        row.path, row.label, row.score, row.saliency
"""

from sightline.dataset.reading import Explained, ExplainedSet, read
from sightline.dataset.rows import Failure
from sightline.dataset.run import Outcome, explain_set
from sightline.dataset.watcher import Watcher

__all__ = ["Explained", "ExplainedSet", "Failure", "Outcome", "Watcher", "explain_set", "read"]
