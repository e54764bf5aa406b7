"""The strongest of many images for every channel of a block, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sightline.bundle import Block

Floats = npt.NDArray[np.float32]
NOBODY = -1


class Strong(NamedTuple):
    """An image among the strongest of a channel."""

    image: int
    """The number under which it was offered."""
    value: float
    """The channel's largest activation in it."""
    position: tuple[int, int]
    """Row and column of the unit that has it; the first one on ties."""
    activation: npt.NDArray[np.uint8]
    """h×w, the channel's map: 255 is ``value``, 0 is 0 and below."""


@dataclass(frozen=True)
class Spread:
    """What a channel does over all the images offered."""

    share: float
    """Mean over the images of the part of the decision's support that lies on the channel, in [0, 1]."""
    active: float
    """The part of the images in which any of its units is positive, in [0, 1]."""


class Strongest:
    """Keeps, for every channel, the images with its largest activations: about C·count·(h·w + 20) bytes."""

    def __init__(self, block: Block, count: int) -> None:
        """Start with no image.

        Args:
            block: whose features are offered.
            count: images kept for each channel.
        """
        self._block = block
        self._values = np.full((block.channels, count), -np.inf, np.float32)  # each row from large to small
        self._images = np.full((block.channels, count), NOBODY, np.int64)
        self._places = np.zeros((block.channels, count), np.int64)
        self._maps = np.zeros((block.channels, count, block.height, block.width), np.uint8)
        self._shares = np.zeros(block.channels)
        self._active = np.zeros(block.channels, np.int64)
        self._offered = 0

    def offer(self, image: int, features: Floats, gradient: Floats) -> None:
        """Take one image into account.

        An image counts for a channel where a unit of the channel is positive. Of images with equal activations the one
        offered first stays.

        Args:
            image: its number, from 0.
            features: C×h×w.
            gradient: C×h×w, of the decision with respect to the features.
        """
        flat = features.reshape(len(features), -1)
        places = flat.argmax(axis=1)
        values = flat[np.arange(len(flat)), places]
        support = np.maximum(flat * gradient.reshape(flat.shape), 0).sum(axis=1, dtype=np.float64)
        if (total := support.sum()) > 0:
            self._shares += support / total
        self._active += values > 0
        self._offered += 1
        for channel in np.flatnonzero((values > 0) & (values > self._values[:, -1])):
            row = self._values[channel]
            rank = int((row >= values[channel]).sum())
            scaled = np.clip(features[channel] / values[channel] * 255, 0, 255)
            for kept, new in (
                (row, values[channel]),
                (self._images[channel], image),
                (self._places[channel], places[channel]),
                (self._maps[channel], np.rint(scaled).astype(np.uint8)),
            ):
                kept[rank + 1 :] = kept[rank:-1].copy()
                kept[rank] = new

    def of(self, channel: int) -> Iterator[Strong]:
        """The images kept for a channel, the strongest first."""
        for rank, image in enumerate(self._images[channel]):
            if image == NOBODY:
                return
            row, column = divmod(int(self._places[channel, rank]), self._block.width)
            value = float(self._values[channel, rank])
            yield Strong(int(image), value, (row, column), self._maps[channel, rank])

    def spread(self, channel: int) -> Spread:
        """What a channel does over the images offered so far."""
        offered = max(self._offered, 1)
        return Spread(float(self._shares[channel] / offered), float(self._active[channel] / offered))

    def channels(self) -> list[int]:
        """All channels, those with the largest mean share of the decisions first."""
        return [int(channel) for channel in np.argsort(-self._shares, kind="stable")]

    def images(self) -> set[int]:
        """Every image kept for some channel."""
        return set(np.unique(self._images).tolist()) - {NOBODY}
