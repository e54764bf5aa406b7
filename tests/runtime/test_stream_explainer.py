"""Streams on a real explainer: the same explanations as alone, masks packed together, deadlines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline import Explainer
from sightline.bundle import Bundle
from sightline.runtime.prediction import Prediction
from sightline.runtime.stream import Stream
from tests.runtime import tiny
from tests.runtime.test_stream import ended, until


@pytest.mark.parametrize("method", ["sise", "ada-sise", "score-cam", "grad-cam", "rise"])
@pytest.mark.parametrize(
    "asked", [{}, {"target": "pit", "max_passes": 5}, {"target": [0, 3], "deadline": 1000.0}], ids=str
)
def test_every_frame_is_explained_as_if_alone(
    bundle: Bundle, method: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    pictures: list[Any] = [np.random.default_rng(n).integers(0, 256, (30 + n, 40, 3), dtype=np.uint8) for n in range(4)]
    Image.fromarray(pictures[0]).save(tmp_path / "0.png")
    with Explainer(bundle, method, batch_size=16, threads=1) as explainer:
        found = list(explainer.stream([tmp_path / "0.png", *pictures[1:]], **asked))
        for result, picture in zip(found, pictures, strict=True):
            alone = explainer(picture, **asked)
            listed = alone if isinstance(alone, list) else [alone]
            assert [one.target for one in result.explanations] == [one.target for one in listed]
            for one, other in zip(result.explanations, listed, strict=True):
                np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-5)
                assert (one.passes, one.completeness) == (other.passes, other.completeness)
            assert result.picture is not None
            np.testing.assert_array_equal(np.asarray(result.picture), picture)


def test_masks_of_neighbours_share_batches(bundle: Bundle) -> None:
    results: Stream
    frames = [tiny.image(number) for number in range(6)]

    def only_if(prediction: Prediction) -> bool:
        seen.append(prediction)
        if len(seen) < len(frames):
            until(results._pipeline._decoded, 1)
        return True

    seen: list[Prediction] = []
    with Explainer(bundle, batch_size=64, threads=1) as explainer:
        run = explainer._passes.engine.run
        runs: list[None] = []
        explainer._passes.engine.run = lambda: runs.append(run())  # type: ignore[method-assign]
        results = explainer.stream(frames, only_if=only_if)
        passes = sum(result.explanations[0].passes for result in results)
    assert len(runs) == -(-passes // 64) < 6


def test_only_what_is_wanted_takes_passes(bundle: Bundle) -> None:
    with Explainer(bundle, batch_size=4, threads=1) as explainer:
        frames = [tiny.image(number) for number in range(8)]
        probabilities = np.concatenate(list(explainer.classify(frames)))
        scores = probabilities.max(axis=1)
        limit = float(np.median(scores))
        found = list(explainer.stream(frames, only_if=lambda prediction: prediction.score < limit))
        assert [result.state == "explained" for result in found] == list(scores < limit)
        predictions = [result.prediction for result in found if result.prediction]
        np.testing.assert_allclose([prediction.score for prediction in predictions], scores, atol=1e-6)
        assert [prediction.target for prediction in predictions] == list(probabilities.argmax(axis=1))


def test_a_deadline_that_has_passed_leaves_one_batch(bundle: Bundle) -> None:
    with Explainer(bundle, batch_size=4, threads=1) as explainer:
        results = explainer.stream([tiny.image(number) for number in range(5)], deadline=1e-9)
        found = list(results)
    assert [result.explanations[0].passes for result in found] == [4] * 5
    assert all(result.overrun > 0 for result in found)
    facts = results.statistics
    assert facts.overruns == 5
    assert facts.completeness is not None
    assert 0 < facts.completeness < 1


def test_closing_leaves_an_explanation_between_batches_and_the_explainer_fit(bundle: Bundle) -> None:
    with Explainer(bundle, batch_size=1, threads=1) as explainer:
        expected = explainer(tiny.image()).saliency
        run, passes = explainer._passes.engine.run, []

        def closing() -> None:
            run()
            passes.append(1)
            results._pipeline.stop()

        explainer._passes.engine.run = closing  # type: ignore[method-assign]
        results = explainer.stream([tiny.image()])
        assert list(results) == []
        results.close()
        assert ended(results)
        assert len(passes) == 1
        explainer._passes.engine.run = run  # type: ignore[method-assign]
        np.testing.assert_array_equal(explainer(tiny.image()).saliency, expected)
