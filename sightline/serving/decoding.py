"""Pictures from strangers: checked by their header before a pixel is decoded, refused whatever is wrong with them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sightline.bundle import ImageInput
from sightline.errors import ImageError
from sightline.runtime.image import prepare
from sightline.serving.refusal import RefusedError, shortened

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
LARGEST_VALUE = 1e6
"""Of an array that is preprocessed already: beyond it a network's arithmetic overflows."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, ready to be explained."""

    array: Floats
    """C×H×W of the network, preprocessed."""
    original: Image.Image | None
    """RGB, upright, at its own size; None where there never was a picture."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """An image file in memory, whose header has been read."""

    data: bytes
    place: str
    """What a message calls it, e.g. ``"instances[0].b64"``."""
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def decode(self, expected: ImageInput) -> Picture:
        """Decode it and make it what the network takes.

        Raises:
            RefusedError: it is damaged, or no picture that this network can be given.
        """
        try:
            with Image.open(io.BytesIO(self.data), formats=FORMATS) as image:
                image.load()
                return prepared(image, expected)
        except ImageError as error:
            raise RefusedError(422, shortened(f"{self.place}: {error}")) from error
        except MemoryError as error:
            raise RefusedError(413, f"{self.place}: there is no memory to decode it: send a smaller image.") from error
        except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
            raise RefusedError(
                422, shortened(f"{self.place}: the image cannot be decoded ({error}): it may be truncated or damaged.")
            ) from error


def encoded(data: bytes, place: str, max_pixels: int) -> Encoded:
    """Read the header of an image file.

    Args:
        data: the whole file.
        place: what a message calls it.
        max_pixels: that it may have.

    Raises:
        RefusedError: 415 for another format, 413 for too many pixels, 422 for a damaged header.
    """
    if not data:
        raise RefusedError(422, f"{place}: the image is empty: send the bytes of a file in base64.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise RefusedError(
            413, f"{place}: the image has too many pixels ({error}); at most {max_pixels} are taken."
        ) from error
    except UnidentifiedImageError as error:
        raise RefusedError(415, f"{place}: this is none of {', '.join(FORMATS)}, or its header is damaged.") from error
    except Exception as error:  # as above
        raise RefusedError(422, shortened(f"{place}: the header of the image cannot be read ({error}).")) from error
    if width * height > max_pixels:
        raise RefusedError(
            413,
            f"{place}: {width}×{height} pixels are more than the {max_pixels} taken here: send a smaller image.",
        )
    return Encoded(data, place, width, height)


def prepared(image: Image.Image | npt.NDArray[np.uint8], expected: ImageInput) -> Picture:
    """A picture, as the network takes it.

    Raises:
        ImageError: it is no picture that this network can be given.
    """
    found = prepare(image, expected)
    array = found.array if expected.layout == "NCHW" else np.moveaxis(found.array, 2, 0)
    return Picture(array, found.picture)


def tensor(array: Floats, expected: ImageInput, place: str) -> Picture:
    """An array that is preprocessed already.

    Args:
        array: C×H×W.
        expected: by the network.
        place: what a message calls it.

    Raises:
        RefusedError: it has another shape, or values that no preprocessing gives.
    """
    if array.shape != expected.shape:
        raise RefusedError(
            422,
            f"{place}: an image of shape {'×'.join(map(str, array.shape))} is not {'×'.join(map(str, expected.shape))} "
            "(C×H×W), which this network takes.",
        )
    if not (abs(array) <= LARGEST_VALUE).all():
        raise RefusedError(422, f"{place}: values beyond ±{LARGEST_VALUE:g}, or not finite, are no preprocessed image.")
    return Picture(array, None)
