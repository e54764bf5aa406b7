"""Drop, Increase, deletion and insertion beside their formulas, over several images and batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import pytest

from sightline.errors import EngineError, MetricError
from sightline.metrics import Faithfulness, Subject, area, blurred, faithfulness
from tests.metrics import definitions

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
SIZE, CLASSES = (9, 7), 4
_WEIGHTS = np.random.default_rng(5).normal(size=(CLASSES, 2, *SIZE)) / 8


def probabilities(image: npt.NDArray[np.floating]) -> Doubles:
    """A network of one layer that sees where every pixel is."""
    logits = np.einsum("kchw,chw->k", _WEIGHTS, np.tanh(image.astype(np.float64)))
    powers: Doubles = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


class Network:
    """Classifies in batches, and counts them."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.batches: list[int] = []

    def __call__(self, images: Iterable[Floats]) -> Iterator[Doubles]:
        images = iter(images)
        while batch := list(islice(images, self.batch_size)):
            self.batches.append(len(batch))
            yield np.stack([probabilities(image) for image in batch])


def subjects(count: int, seed: int = 0) -> list[Subject]:
    """Random images, and maps with ties."""
    random = np.random.default_rng(seed)
    return [
        Subject(
            random.normal(size=(2, *SIZE)).astype(np.float32),
            (random.integers(0, 6, SIZE) / 5).astype(np.float32),
            int(random.integers(CLASSES)),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("steps", [50, 63, 70])
def test_against_the_formulas(steps: int) -> None:
    given = subjects(3)
    for subject, found in zip(given, faithfulness(given, Network(16), steps=steps), strict=True):
        image, saliency = subject.image.astype(np.float64), np.asarray(subject.saliency, np.float64)

        def score(image: Doubles, target: int = subject.target) -> float:
            return float(probabilities(image)[target])

        whole = score(image)
        kept = definitions.kept_score(image, saliency, score)
        assert found.score == pytest.approx(whole)
        assert found.drop == pytest.approx(max(0, whole - kept) / whole, abs=1e-6)
        assert found.increase == float(kept > whole)
        for curve, value, (scores, expected) in (
            (found.deletion_curve, found.deletion, definitions.deletion(image, saliency, score, steps)),
            (found.insertion_curve, found.insertion, definitions.insertion(image, saliency, score, steps)),
        ):
            assert curve is not None
            np.testing.assert_allclose(curve, np.array(scores), atol=1e-6)
            assert value == pytest.approx(expected, abs=1e-6)
        assert found.fractions[[0, -1]].tolist() == [0, 1]
        assert len(found.fractions) == steps + 1


def test_batches_are_shared_and_images_drawn_as_they_are_needed() -> None:
    network = Network(16)
    drawn = 0

    def given() -> Iterator[Subject]:
        nonlocal drawn
        for subject in subjects(4):
            drawn += 1
            yield subject

    results = faithfulness(given(), network)
    next(results)
    assert drawn == 2  # of the second, what fills the batch in which the first ends
    assert len(list(results)) == 3
    passes = 4 * (2 + 2 * 50)
    assert network.batches == [16] * (passes // 16) + [passes % 16]


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    given = subjects(2)
    for one, other in zip(faithfulness(given, Network(64)), faithfulness(given, Network(batch_size)), strict=True):
        assert _values(one) == _values(other)


def test_only_what_is_asked_for_is_passed() -> None:
    for kinds, passes in ((("kept",), 2), (("deletion",), 51), (("insertion", "kept"), 52), ((), 1)):
        network = Network(1)
        (found,) = faithfulness(subjects(1), network, kinds=kinds)
        (everything,) = faithfulness(subjects(1), Network(8))
        assert len(network.batches) == passes
        assert (found.drop is None, found.increase is None) == ("kept" not in kinds,) * 2
        assert (found.deletion is None) == ("deletion" not in kinds)
        assert (found.insertion is None) == ("insertion" not in kinds)
        expected = _values(everything)
        assert all(value in (None, expected[name]) for name, value in _values(found).items())


def test_the_images_given_are_left_as_they_are() -> None:
    given = subjects(1)
    before = given[0].image.copy()

    def destructive(images: Iterable[Floats]) -> Iterator[Doubles]:
        for image in images:
            answer = probabilities(image)[None]
            image[:] = 7
            yield answer

    (found,) = faithfulness(given, destructive)
    np.testing.assert_array_equal(given[0].image, before)
    (expected,) = faithfulness(given, Network(5))
    assert _values(found) == _values(expected)


def test_a_score_of_zero_has_nothing_to_drop() -> None:
    assert Faithfulness(score=0.0, kept=0.0).drop == 0
    assert Faithfulness(score=0.0, kept=0.3).drop == 0
    assert Faithfulness(score=0.0, kept=0.3).increase == 1
    assert Faithfulness(score=0.4, kept=0.4).increase == 0


def test_a_flat_map_is_ranked_in_reading_order() -> None:
    image = subjects(1)[0].image
    reading = -np.arange(SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    flat, expected = faithfulness([Subject(image, np.zeros(SIZE), 1), Subject(image, reading, 1)], Network(10))
    assert _values(flat) == _values(expected)


def test_the_blur_is_the_official_one() -> None:
    image = np.random.default_rng(3).normal(size=(2, 13, 17))
    np.testing.assert_allclose(blurred(image), definitions.blurred(image), atol=1e-6)
    small = np.random.default_rng(3).normal(size=(1, 3, 2))  # smaller than the kernel
    np.testing.assert_allclose(blurred(small), definitions.blurred(small), atol=1e-6)
    assert definitions.official_kernel().sum() == pytest.approx(1)


def test_the_area_has_the_length_as_its_unit() -> None:
    assert area([0, 0.5, 1], [1, 1, 1]) == pytest.approx(1)
    assert area([0, 0.2, 1], [0, 1, 1]) == pytest.approx(0.9)
    assert area([3, 4, 5], [0, 1, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"steps": 49}, "49"), ({"steps": 50.0}, "50.0"), ({"kinds": ("roar",)}, "roar")],
)
def test_settings_out_of_range(options: dict[str, object], said: str) -> None:
    with pytest.raises(MetricError, match=said):
        faithfulness(subjects(1), Network(1), **options)  # type: ignore[arg-type]


def test_what_cannot_be_scored() -> None:
    image = subjects(1)[0].image
    for subject, said in (
        (Subject(image, np.zeros((7, 9)), 0), r"\(7, 9\)"),
        (Subject(image[0], np.zeros(SIZE), 0), r"\(9, 7\)"),
        (Subject(image, np.full(SIZE, np.inf), 0), "63 of 63"),
        (Subject(image, np.zeros(SIZE), CLASSES), "no class 4"),
        (Subject(image, np.zeros(SIZE), -1), "no class -1"),
    ):
        with pytest.raises(MetricError, match=said):
            list(faithfulness([subject], Network(8)))


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [([np.nan] * 4, EngineError, "NaN"), ([-1.0] * 4, MetricError, "no probability")],
)
def test_answers_that_are_no_probabilities(row: list[float], error: type[Exception], said: str) -> None:
    def network(images: Iterable[Floats]) -> Iterator[Doubles]:
        for _ in images:
            yield np.array([row])

    with pytest.raises(error, match=said):
        list(faithfulness(subjects(1), network))


def test_a_network_that_loses_count() -> None:
    def silent(images: Iterable[Floats]) -> Iterator[Doubles]:
        yield np.stack([probabilities(image) for image in images])[:-1]

    def talkative(images: Iterable[Floats]) -> Iterator[Doubles]:
        yield np.stack([probabilities(image) for image in images])
        yield np.ones((1, CLASSES))

    with pytest.raises(EngineError, match="1 images unanswered"):
        list(faithfulness(subjects(1), silent))
    with pytest.raises(EngineError, match="more images"):
        list(faithfulness(subjects(1), talkative))


def _values(found: Faithfulness) -> dict[str, float | None]:
    return {name: getattr(found, name) for name in ("score", "drop", "increase", "deletion", "insertion")}
