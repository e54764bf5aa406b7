"""RISE of dianna, on the path of an ONNX file, as its documentation has it."""

from __future__ import annotations

import warnings

import numpy as np

from .contender import RISE_CELLS, RISE_KEPT, Case, Contender, Counter, Map, Opened
from .counting import count_calls


def open_dianna(case: Case) -> Opened:
    import dianna
    import onnxruntime

    counter = Counter()
    # dianna opens its sessions itself, a new one for every batch: what it sends is counted at their class.
    count_calls(
        onnxruntime.InferenceSession, "run", counter, lambda _session, _outputs, feed: len(next(iter(feed.values())))
    )

    def explain() -> Map:
        np.random.seed(case.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maps = dianna.explain_image(
                str(case.onnx),
                case.image,
                method="RISE",
                labels=[case.target],
                n_masks=case.passes,
                feature_res=RISE_CELLS,
                p_keep=RISE_KEPT,
                axis_labels={0: "channels"},
            )
        return np.asarray(maps[0])

    return Opened(explain, counter, "onnxruntime")


CONTENDERS = (
    Contender(
        "dianna RISE",
        ("dianna", "dianna.methods.rise_image", "xarray", "onnxruntime"),  # it imports the middle two late
        "batch 100 (its default), p_keep given (its default spends 900 passes on finding one), "
        "a session per batch with the default threads: neither can be changed",
        open_dianna,
    ),
)
