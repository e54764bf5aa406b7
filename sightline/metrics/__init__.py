"""How good is a map? The field's metrics, as numbers per image, and their means with intervals.

::

    from sightline import metrics

    region = metrics.region_on_grid(mask, (224, 224))           # H×W booleans, of boxes: metrics.boxes_mask
    metrics.energy_pointing_game(explanation.saliency, region)  # EBPG, in [0, 1]
    subject = metrics.Subject(array, explanation.saliency, explanation.target)
    (faithful,) = metrics.faithfulness([subject], explainer.classify)
    faithful.drop, faithful.increase, faithful.deletion, faithful.insertion
"""

from sightline.metrics.annotations import Annotation, annotation_of, read_annotations
from sightline.metrics.catalogue import METRICS, Metric
from sightline.metrics.intervals import Estimate, bootstrap
from sightline.metrics.localization import bounding_box_score, energy_pointing_game, intersection_over_union
from sightline.metrics.perturbation import Classify, Faithfulness, Subject, area, blurred, faithfulness
from sightline.metrics.truth import Box, boxes_mask, region_on_grid

__all__ = [
    "METRICS",
    "Annotation",
    "Box",
    "Classify",
    "Estimate",
    "Faithfulness",
    "Metric",
    "Subject",
    "annotation_of",
    "area",
    "blurred",
    "bootstrap",
    "bounding_box_score",
    "boxes_mask",
    "energy_pointing_game",
    "faithfulness",
    "intersection_over_union",
    "read_annotations",
    "region_on_grid",
]
