"""From whatever a user calls an image to what the network expects, and back to pixels."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from sightline.bundle import ImageInput
from sightline.errors import ImageError

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Prepared"

_ACCEPTED = (
    "pass a path, a PIL image, a uint8 or uint16 array (H×W or H×W×1, 3 or 4), or a float array C×H×W that is "
    "already preprocessed"
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation; 1 is upright."""
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's convert("L")


logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as the network takes it."""

    array: npt.NDArray[np.float32]
    """C×H×W or H×W×C (the network's layout), preprocessed, contiguous."""
    picture: Image.Image
    """The image in RGB at its original size, upright: what an overlay is drawn on."""
    expected: ImageInput
    """The input that it was prepared for."""


def prepare(image: ImageLike, expected: ImageInput) -> Prepared:
    """Turn an image into the network's input.

    Pictures are turned upright (EXIF), stretched to H×W (bilinear, antialiased, as Pillow does it) and normalised with
    the bundle's range, mean and std. The range of pixels follows from their type, 255 or 65535, never from their
    values. Transparency is ignored, grey is spread over three channels, colour becomes luminance where the network
    takes one channel. A float array must have the network's C×H×W and is taken as it is. So is what was prepared before
    for the same input, on another thread perhaps.

    Raises:
        ImageError: the image cannot be read, or its type, shape or values cannot be explained.
    """
    if isinstance(image, Prepared):
        if image.expected != expected:
            raise ImageError("this image was prepared for a network of another input: pass it as it was before.")
        return image
    if isinstance(image, (str, os.PathLike)):
        image = _open(Path(image))
    if isinstance(image, Image.Image):
        return _from_picture(_loaded(image), expected)
    if not isinstance(image, np.ndarray):
        raise ImageError(f"a {type(image).__name__} is no image: {_ACCEPTED}.")
    if image.dtype.kind == "f":
        return _from_preprocessed(image, expected)
    if image.dtype in (np.uint8, np.uint16):
        return _from_pixels(image, expected)
    raise ImageError(f"an array of {image.dtype} has no defined range of pixels: {_ACCEPTED}.")


def network_input(image: ImageLike, expected: ImageInput) -> npt.NDArray[np.float32]:
    """The array of :func:`prepare` alone: for a float array no picture is drawn."""
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        return _as_layout(_checked(image, expected), expected)
    return prepare(image, expected).array


def _open(path: Path) -> Image.Image:
    try:
        image: Image.Image = Image.open(path)
        image.load()
        return image
    except FileNotFoundError as error:
        raise ImageError(f"there is no image {path}: check the path.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is no image that Pillow knows: convert it to PNG or JPEG.") from error
    except (IsADirectoryError, PermissionError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise whatever they like
        raise ImageError(f"{path} cannot be read ({error}): it may be truncated; save it again.") from error


def _loaded(image: Image.Image) -> Image.Image:
    """The picture with its pixels read. Pillow opens lazily, and turns a TIFF upright only in reading it."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as for a damaged file
        raise ImageError(
            f"the picture cannot be read ({error}): it may be truncated or closed; open it anew."
        ) from error
    return image


def _from_picture(image: Image.Image, expected: ImageInput) -> Prepared:
    if 0 in image.size:
        raise ImageError(f"the image is empty ({image.width}×{image.height} pixels): {_ACCEPTED}.")
    image = _upright(image)
    if image.mode == "F":
        raise ImageError(f"a floating-point picture has no defined range of pixels: {_ACCEPTED}.")
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow may hold in 32
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ImageError(
                f"the picture (mode {image.mode}) has values from {pixels.min()} to {pixels.max()}; 16-bit pixels go "
                "from 0 to 65535: rescale it to 8 or 16 bits."
            )
        return _from_pixels(pixels.astype(np.uint16), expected)
    try:
        picture = image.convert("RGB")
    except (OSError, ValueError) as error:
        raise ImageError(f"pictures of mode {image.mode!r} are not supported: convert it to RGB.") from error
    # Resized as 8-bit pixels, in the picture's own colours: what training pipelines do.
    colours = picture
    if expected.colour == "GRAY":
        colours = (picture if image.mode == "LAB" else image).convert("L")  # Pillow has no way from LAB to L
    resized = _stretch(colours, expected)
    planes = np.asarray(resized, np.float32).reshape(expected.height, expected.width, -1)
    return Prepared(_normalise(planes, expected), picture, expected)


def _upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF orientation says.

    Pillow's exif_transpose also writes the rest of the EXIF anew, and fails where one entry of it is odd.
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # as for a damaged file; but the picture was read
        logger.debug("the EXIF cannot be read, the picture is taken as it is: %s", error)
        return image
    return image if turn is None else image.transpose(turn)


def _from_pixels(pixels: npt.NDArray[Any], expected: ImageInput) -> Prepared:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"an array of pixels of shape {pixels.shape} is neither H×W nor H×W×C with 1, 3 or 4 channels: "
            "transpose it, or split a batch into its images."
        )
    if 0 in pixels.shape:
        raise ImageError(f"the image is empty (shape {pixels.shape}): {_ACCEPTED}.")
    pixels = pixels[:, :, :3]
    if pixels.dtype == np.uint8:
        return _from_picture(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), expected)
    # Pillow has no 16-bit colour: the channels are resized one by one, in floating point.
    values = pixels.astype(np.float32) * np.float32(255 / 65535)
    picture = _rgb(values)
    if expected.colour == "GRAY" and values.shape[2] == 3:
        values = (values @ np.asarray(_LUMA, np.float32))[:, :, None]
    planes = [np.asarray(_stretch(Image.fromarray(plane), expected)) for plane in np.moveaxis(values, 2, 0)]
    if expected.colour != "GRAY" and len(planes) == 1:
        planes *= 3
    return Prepared(_normalise(np.stack(planes, axis=2), expected), picture, expected)


def _checked(array: npt.NDArray[Any], expected: ImageInput) -> npt.NDArray[np.float32]:
    """A float array C×H×W that is preprocessed already -> H×W×C."""
    if array.shape != expected.shape:
        channels, height, width = expected.shape
        raise ImageError(
            f"a float array is taken as already preprocessed and must be {channels}×{height}×{width} (C×H×W) for this "
            f"network, not {'×'.join(map(str, array.shape)) or 'a single number'}: pass uint8 pixels (H×W×C) or a path "
            "to have it preprocessed."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise ImageError(f"{bad} of {array.size} values are NaN or infinite: repair the image before explaining it.")
    return np.moveaxis(array, 0, 2)


def _from_preprocessed(array: npt.NDArray[Any], expected: ImageInput) -> Prepared:
    array = _checked(array, expected)
    mean, std = np.asarray(expected.mean, np.float32), np.asarray(expected.std, np.float32)
    pixels = (array * std + mean) * np.float32(255 / expected.range)
    if expected.channels not in (1, 3):
        pixels = pixels.mean(axis=2, keepdims=True)
    picture = _rgb(pixels[:, :, ::-1] if expected.colour == "BGR" else pixels)
    return Prepared(_as_layout(array, expected), picture, expected)


def _normalise(planes: npt.NDArray[np.float32], expected: ImageInput) -> npt.NDArray[np.float32]:
    """H×W×C pixels in [0, 255] (RGB or grey) -> the network's input."""
    if expected.colour == "NONE" or planes.shape[2] != expected.channels:
        raise ImageError(
            f"this network takes {expected.channels} channels that are no picture's: pass a float array "
            f"{'×'.join(map(str, expected.shape))} that is already preprocessed."
        )
    if expected.colour == "BGR":
        planes = planes[:, :, ::-1]
    mean, std = np.asarray(expected.mean, np.float32), np.asarray(expected.std, np.float32)
    return _as_layout((planes * np.float32(expected.range / 255) - mean) / std, expected)


def _as_layout(array: npt.NDArray[np.float32], expected: ImageInput) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(array if expected.layout == "NHWC" else np.moveaxis(array, 2, 0))


def _stretch(picture: Image.Image, expected: ImageInput) -> Image.Image:
    size = (expected.width, expected.height)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def _rgb(pixels: npt.NDArray[np.float32]) -> Image.Image:
    """H×W×1 or H×W×3 values in [0, 255] as a picture."""
    rounded = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(rounded, (*rounded.shape[:2], 3))))
