"""Feature cards against a plain computation: the graph run by ONNX Runtime itself, everything kept and sorted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from PIL import Image

import sightline
from sightline import demo
from sightline.bundle import Block
from sightline.errors import BundleError, ImageError, MethodError, TargetError
from sightline.runtime.features import feature_cards
from sightline.runtime.strongest import Strongest
from tests.runtime import tiny

LAYER = "stages.1"


@pytest.fixture(scope="session")
def bundle() -> Path:
    return demo.BUNDLE


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The demo's images, whole and in parts, so that channels have something to choose from."""
    folder = tmp_path_factory.mktemp("images")
    found = []
    for sample in demo.samples():
        picture = Image.open(sample.image).convert("RGB")
        for number, box in enumerate(((0, 0, 224, 224), (0, 0, 150, 150), (70, 90, 200, 220))):
            found.append(folder / f"{sample.name}-{number}.png")
            picture.crop(box).save(found[-1])
    return found


@dataclass(frozen=True)
class Plain:
    """What the graph says about one image."""

    features: npt.NDArray[Any]
    gradient: npt.NDArray[Any]
    probabilities: npt.NDArray[Any]


@pytest.fixture(scope="session")
def plain(bundle: Path, images: list[Path]) -> dict[Path, Plain]:
    """Every image through ``attribution.onnx``; a picture is resized and normalised here as docs/bundle.md says."""
    opened = sightline.load(bundle)
    spec, index = opened.input, next(block.index for block in opened.blocks if block.name == LAYER)
    session = onnxruntime.InferenceSession(str(bundle / "attribution.onnx"), providers=["CPUExecutionProvider"])
    found = {}
    for path in images:
        picture = Image.open(path).convert("RGB").resize((spec.width, spec.height), Image.Resampling.BILINEAR)
        pixels = (np.asarray(picture, np.float32) / 255 * spec.range - np.array(spec.mean)) / np.array(spec.std)
        feed = {
            spec.name: pixels.transpose(2, 0, 1)[None].astype(np.float32),
            "target": np.array([-1]),
            "rivals": np.zeros(1, np.float32),
            "seed": np.zeros((1, opened.classes), np.float32),
        }
        names = [f"features.{index}", f"gradient.{index}", "probabilities"]
        features, gradient, probabilities = session.run(names, feed)
        found[path] = Plain(features[0], gradient[0], probabilities[0])
    return found


@pytest.mark.parametrize("per_channel", [1, 4, 100])
def test_the_strongest_images_of_every_channel(
    bundle: Path, images: list[Path], plain: dict[Path, Plain], per_channel: int
) -> None:
    labels = sightline.load(bundle).labels
    assert labels is not None
    channels = range(48)
    cards = feature_cards(bundle, images, LAYER, channels, per_channel=per_channel, engine="onnxruntime-cpu")
    assert [card.channel for card in cards.cards] == list(channels)
    assert cards.images == len(images)
    for card in cards.cards:
        largest = {path: said.features[card.channel].max() for path, said in plain.items()}
        expected = sorted((value for value in largest.values() if value > 0), reverse=True)[:per_channel]
        assert [each.value for each in card.excitations] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        for each in card.excitations:
            said = plain[each.image]
            map_ = said.features[card.channel]
            assert map_[each.unit.position] == pytest.approx(each.value, rel=1e-4, abs=1e-5)
            assert each.value == pytest.approx(largest[each.image], rel=1e-4, abs=1e-5)
            assert (each.unit.layer, each.unit.channel) == (LAYER, card.channel)
            assert (
                np.abs(each.activation / 255 * each.value - np.maximum(map_, 0)).max() <= 0.51 / 255 * each.value + 1e-4
            )
            assert each.label == labels[int(said.probabilities.argmax())]
            assert each.score == pytest.approx(said.probabilities.max(), abs=1e-4)
        assert len({each.image for each in card.excitations}) == len(card.excitations)
        assert card.active == pytest.approx(np.mean([value > 0 for value in largest.values()]))


def test_channels_are_chosen_by_their_share_of_the_decisions(
    bundle: Path, images: list[Path], plain: dict[Path, Plain]
) -> None:
    shares = np.zeros(48)
    for said in plain.values():
        support = np.maximum(said.features.astype(np.float64) * said.gradient, 0).sum(axis=(1, 2))
        shares += support / support.sum() / len(plain)
    cards = feature_cards(bundle, images, LAYER, top=5, engine="onnxruntime-cpu")
    assert [card.channel for card in cards.cards] == np.argsort(-shares)[:5].tolist()
    assert [card.share for card in cards.cards] == pytest.approx(np.sort(shares)[::-1][:5], rel=1e-3)
    assert cards[LAYER, cards.cards[2].channel] is cards.cards[2]


def test_a_unit_depends_on_its_box_alone(bundle: Path, images: list[Path]) -> None:
    """What lies outside the box may be anything: the unit stays as it is. What lies inside may not."""
    (card,) = feature_cards(bundle, images, "stages.0", top=1, per_channel=1, engine="onnxruntime-cpu").cards
    (best,) = card.excitations
    left, top, right, bottom = best.box
    assert 0 < (right - left) * (bottom - top) < 224 * 224 / 4
    opened = sightline.load(bundle)
    index = next(block.index for block in opened.blocks if block.name == "stages.0")
    session = onnxruntime.InferenceSession(str(bundle / "attribution.onnx"), providers=["CPUExecutionProvider"])
    picture = feature_cards(bundle, images, "stages.0", top=1, per_channel=1).picture(best.image)
    assert picture.size == (224, 224)
    mean, std = np.array(opened.input.mean, np.float32), np.array(opened.input.std, np.float32)
    pixels = ((np.asarray(picture, np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)

    def unit(image: npt.NDArray[np.float32]) -> float:
        feed = {
            opened.input.name: image,
            "target": np.array([-1]),
            "rivals": np.zeros(1, np.float32),
            "seed": np.zeros((1, opened.classes), np.float32),
        }
        row, column = best.unit.position
        return float(session.run([f"features.{index}"], feed)[0][0, card.channel, row, column])

    inside = np.zeros((224, 224), bool)
    inside[top:bottom, left:right] = True
    noise = np.random.default_rng(0).normal(size=pixels.shape).astype(np.float32)
    assert unit(pixels) == pytest.approx(best.value, rel=1e-3)
    assert unit(np.where(inside, pixels, noise)) == pytest.approx(best.value, rel=1e-3)
    assert unit(np.where(inside, noise, pixels)) != pytest.approx(best.value, rel=0.05)


def test_what_cannot_be_read_is_skipped_and_counted(
    bundle: Path, images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.png").write_bytes(images[0].read_bytes()[:500])
    given = [tmp_path / "gone.png", images[0], tmp_path / "broken.png", images[3]]
    steps = []
    with caplog.at_level(logging.WARNING, logger="sightline"):
        cards = feature_cards(bundle, given, LAYER, [1], progress=lambda done, total: steps.append((done, total)))
    assert (cards.images, cards.skipped) == (2, (given[0], given[2]))
    assert [record.getMessage().startswith("skipped: ") for record in caplog.records] == [True, True]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_images_are_drawn_one_by_one_and_forgotten(
    bundle: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next image is drawn once the one before it is dealt with."""
    seen = []
    offer = Strongest.offer

    def watched(self: Strongest, image: int, *arrays: Any) -> None:
        offer(self, image, *arrays)
        seen.append(image)

    monkeypatch.setattr(Strongest, "offer", watched)

    def stream() -> Iterator[Path]:
        for number in range(60):
            assert len(seen) == number, "one image at a time"
            yield images[number % len(images)]

    cards = feature_cards(bundle, stream(), "stem", [3], per_channel=1)
    assert cards.images == 60
    assert len(cards.cards[0].excitations) == 1


def test_memory_and_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block("b", 0, 3, 2, 2)
    strongest = Strongest(block, 2)
    rng = np.random.default_rng(0)
    values = rng.permutation(500).astype(np.float32) + 1
    for number, value in enumerate(values):
        features = np.full((3, 2, 2), 0.5, np.float32) * value
        features[:, 1, 0] = value
        strongest.offer(number, features, np.ones_like(features))
    best = np.argsort(-values)[:2].tolist()
    assert strongest.images() == set(best)
    for channel in range(3):
        assert [(found.image, found.value, found.position) for found in strongest.of(channel)] == [
            (best[0], 500.0, (1, 0)),
            (best[1], 499.0, (1, 0)),
        ]
        assert [found.activation.tolist() for found in strongest.of(channel)] == [[[128, 128], [255, 128]]] * 2


def test_ties_and_silence() -> None:
    """Of equal images the first stays; one that excites nothing is on no card; a share without support is 0."""
    strongest = Strongest(Block("b", 0, 2, 1, 2), 2)
    for number, value in enumerate((1.0, 2.0, 1.0, 2.0, 0.0, -1.0)):
        features = np.array([[[value, value]], [[-1.0, 0.0]]], np.float32)
        strongest.offer(number, features, -np.ones_like(features) if number < 5 else np.zeros_like(features))
    assert [(found.image, found.position) for found in strongest.of(0)] == [(1, (0, 0)), (3, (0, 0))]
    assert list(strongest.of(1)) == []
    assert strongest.spread(0).active == pytest.approx(4 / 6)
    assert strongest.spread(1).active == 0
    assert strongest.spread(0).share == 0
    assert strongest.channels() == [1, 0]


def test_what_is_wrong_is_said(bundle: Path, images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"no block 'layer9'.*stem, stages\.0"):
        feature_cards(bundle, images, "layer9")
    with pytest.raises(TargetError, match="48 channels"):
        feature_cards(bundle, images, LAYER, [1, 48])
    with pytest.raises(MethodError, match="per_channel=0"):
        feature_cards(bundle, images, LAYER, per_channel=0)
    with pytest.raises(MethodError, match="top=0"):
        feature_cards(bundle, images, LAYER, top=0)
    with pytest.raises(ImageError, match="no image to look at"):
        feature_cards(bundle, [], LAYER)
    with pytest.raises(ImageError, match="all 1 were skipped"):
        feature_cards(bundle, [tmp_path / "gone.png"], LAYER)
    with pytest.raises(TargetError, match="no card of channel 2"):
        feature_cards(bundle, images[:1], LAYER, [1])[LAYER, 2]


def test_a_bundle_without_stages(images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="--stages"):
        feature_cards(tiny.write(tmp_path / "tiny.sightline"), images, "late")
