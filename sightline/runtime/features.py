"""Feature cards: what a channel looks for, shown by the images that excite it most.

The images are passed through the network once, one attribution pass each. For every channel of a block the strongest
ones are kept. What excites a channel is its largest activation, at one unit, and the receptive field of that unit is
the crop to look at (the practice of Zeiler and Fergus, ECCV 2014, section 4, and of Network Dissection, Bau et al.,
CVPR 2017).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline import cache
from sightline.bindings import attribution_engine, choose, open_engine
from sightline.bundle import Block, Bundle, ImageInput, load
from sightline.errors import ImageError, MethodError, TargetError
from sightline.numeric import whole
from sightline.runtime.attributions import AttributionPass
from sightline.runtime.image import prepare
from sightline.runtime.strongest import Strong, Strongest
from sightline.runtime.tree import Box, Unit
from sightline.runtime.units import Units

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Excitation:
    """An image that excites a channel, and where."""

    image: Path
    label: str
    """What the network takes the image for."""
    score: float
    """The probability of that class."""
    unit: Unit
    """The channel's strongest unit."""
    value: float
    """Its activation, above 0."""
    box: Box
    """Left, top, right, bottom: the pixels of the network's input that the unit can depend on."""
    activation: npt.NDArray[np.uint8] = field(repr=False)
    """h×w, the whole map of the channel: 255 is ``value``, 0 is 0 and below."""


@dataclass(frozen=True, eq=False)
class FeatureCard:
    """One channel."""

    layer: str
    channel: int
    share: float
    """Mean over the images of the part of the decision's support, Σ ReLU(G ⊙ A), that lies on the channel; in [0, 1]. G
    is the gradient of the predicted class's logit."""
    active: float
    """The part of the images that excite it at all, in [0, 1]."""
    excitations: tuple[Excitation, ...]
    """The strongest first. None where no image excites the channel."""


@dataclass(frozen=True, eq=False)
class FeatureCards:
    """The cards of one or more blocks of a network."""

    cards: tuple[FeatureCard, ...]
    """Block by block as asked for; within a block as asked for, or by falling share."""
    input: ImageInput
    """What the network takes."""
    images: int
    """How many were looked at."""
    skipped: tuple[Path, ...]
    """Those that could not be read."""
    bundle_hash: str
    engine: str

    def picture(self, image: Path) -> Image.Image:
        """An image of a card, read again, as the network saw it: RGB, of the network's width and height.

        Raises:
            ImageError: it is no longer there.
        """
        array = prepare(image, self.input).array
        planes = array if self.input.layout == "NCHW" else np.moveaxis(array, 2, 0)
        return prepare(planes, self.input).picture

    def __getitem__(self, channel: tuple[str, int]) -> FeatureCard:
        """The card of a channel, ``cards["layer3", 512]``.

        Raises:
            TargetError: there is none.
        """
        for card in self.cards:
            if (card.layer, card.channel) == channel:
                return card
        raise TargetError(f"there is no card of channel {channel[1]} of {channel[0]!r}: name it when making the cards.")


def feature_cards(
    bundle: Bundle | PathLike,
    images: Iterable[PathLike],
    layer: str | Sequence[str],
    channels: Sequence[int] | None = None,
    *,
    top: int = 24,
    per_channel: int = 9,
    engine: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> FeatureCards:
    """Find the images that excite channels most: one attribution pass per image, in bounded memory.

    Images that cannot be read are skipped with a warning.

    Args:
        bundle: a bundle that has stages, or the path of one.
        images: paths, drawn one by one.
        layer: name of a block, or several.
        channels: which of the block's channels; None for the ``top`` ones with the largest mean share of the decisions.
        top: how many channels of every block.
        per_channel: images for each of them.
        engine: a name from ``sightline doctor``, or ``"auto"``.
        threads: how many CPU threads a pass may use.
        progress: called as ``progress(done, total)`` after every image; the total is 0 where ``images`` has no length.

    Raises:
        BundleError: the bundle cannot be read, or has no stages, which tell the receptive fields.
        TargetError: there is no such block or channel.
        MethodError: a number is out of range.
        ImageError: no image could be read.
        EngineError: there is no such engine, a pass failed, or the network answers with NaN or infinity.
        MissingPackageError: the engine's package is not installed.
    """
    bundle = bundle if isinstance(bundle, Bundle) else load(Path(bundle))
    units = Units(bundle)
    top, per_channel = whole("top", top, MethodError), whole("per_channel", per_channel, MethodError)
    blocks = [_block(bundle, name) for name in ([layer] if isinstance(layer, str) else layer)]
    for block in blocks:
        for channel in channels or ():
            units.index(Unit(block.name, channel, (0, 0)))  # says where there is none
    run = _Run(bundle, blocks, per_channel)
    run.look(images, engine, threads, progress)
    return run.cards(units, channels, top)


def _block(bundle: Bundle, name: str) -> Block:
    for block in bundle.blocks:
        if block.name == name:
            return block
    raise TargetError(
        f"there is no block {name!r}: this bundle has {', '.join(block.name for block in bundle.blocks)}."
    )


class _Run:
    """One pass over the images, and the cards that come of it."""

    def __init__(self, bundle: Bundle, blocks: Sequence[Block], count: int) -> None:
        self._bundle = bundle
        self._strongest = {block.name: Strongest(block, count) for block in blocks}
        self._names: dict[int, tuple[Path, str, float]] = {}  # of images that are kept for some channel: by number
        self._room = 2 * count * sum(block.channels for block in blocks)
        self._blocks = blocks
        self._done = 0
        self._skipped: list[Path] = []
        self._engine = ""

    def look(self, images: Iterable[PathLike], engine: str, threads: int | None, progress: Progress | None) -> None:
        bundle, spec = self._bundle, self._bundle.input
        shape = spec.shape if spec.layout == "NCHW" else (spec.height, spec.width, spec.channels)
        chosen = choose(engine, variants=bundle.variants, precision="fp32") if engine == "auto" else engine
        self._engine = attribution_engine(chosen)
        total = len(images) if isinstance(images, Sized) else 0
        with open_engine(
            bundle.attribution,
            self._engine,
            shapes={spec.name: (1, *shape)},
            threads=threads,
            cache=cache.folder() / bundle.hash[:16],
        ) as opened:
            attribute = AttributionPass(bundle, opened)
            for number, image in enumerate(map(Path, images)):
                try:
                    array = prepare(image, spec).array
                except ImageError as error:
                    logger.warning("skipped: %s", error)
                    self._skipped.append(image)
                else:
                    self._take(number, image, attribute, array)
                if progress is not None:
                    progress(number + 1, total)
        if not self._done:
            skipped = f": all {len(self._skipped)} were skipped" if self._skipped else ""
            raise ImageError(f"there was no image to look at{skipped}. Give a folder of images that Pillow opens.")

    def _take(self, number: int, image: Path, attribute: AttributionPass, array: npt.NDArray[np.float32]) -> None:
        found = attribute(array, None, rivals=False)
        target = int(found.logits.argmax())
        self._names[number] = image, self._bundle.label(target), float(found.probabilities[target])
        for block in found.blocks:
            if block.block.name in self._strongest:
                to_host = found.kernels.to_host
                self._strongest[block.block.name].offer(number, to_host(block.features), to_host(block.gradient))
        self._done += 1
        if len(self._names) > self._room:
            kept = set().union(*(strongest.images() for strongest in self._strongest.values()))
            self._names = {number: name for number, name in self._names.items() if number in kept}

    def cards(self, units: Units, channels: Sequence[int] | None, top: int) -> FeatureCards:
        cards = []
        for block in self._blocks:
            strongest = self._strongest[block.name]
            for channel in strongest.channels()[:top] if channels is None else channels:
                spread = strongest.spread(channel)
                found = tuple(self._excitation(block, channel, strong, units) for strong in strongest.of(channel))
                cards.append(FeatureCard(block.name, channel, spread.share, spread.active, found))
        return FeatureCards(
            cards=tuple(cards),
            input=self._bundle.input,
            images=self._done,
            skipped=tuple(self._skipped),
            bundle_hash=self._bundle.hash,
            engine=self._engine,
        )

    def _excitation(self, block: Block, channel: int, strong: Strong, units: Units) -> Excitation:
        path, label, score = self._names[strong.image]
        unit = Unit(block.name, channel, strong.position)
        return Excitation(path, label, score, unit, strong.value, units.box(unit), strong.activation)
