"""Whatever a user calls an image, as the network's input; and what is no image, with its own clear error."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from sightline.bundle import ImageInput
from sightline.errors import ImageError
from sightline.runtime.image import ImageLike, prepare

RGB = ImageInput("x", 3, 12, 16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
GRAY = ImageInput("x", 1, 12, 16, colour="GRAY")
PLAIN = ImageInput("x", 3, 12, 16, range=255.0)
"""The network gets the pixels themselves."""


def pixels(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def plane_by_plane(image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """C×H×W at the network's size, each channel resized alone."""
    planes = [Image.fromarray(p).resize((16, 12), Image.Resampling.BILINEAR) for p in np.moveaxis(image, 2, 0)]
    return np.stack([np.asarray(plane, np.float64) for plane in planes])


@pytest.mark.parametrize("shape", [(12, 16, 3), (30, 50, 3), (5, 7, 3), (1, 1, 3)])
def test_pixels_are_stretched_and_normalised(shape: tuple[int, ...]) -> None:
    image = pixels(*shape)
    mean, std = np.array(RGB.mean)[:, None, None], np.array(RGB.std)[:, None, None]
    prepared = prepare(image, RGB)
    assert prepared.array.dtype == np.float32
    assert prepared.array.flags.c_contiguous
    np.testing.assert_allclose(prepared.array, (plane_by_plane(image) / 255 - mean) / std, atol=1e-5)
    assert prepared.picture.size == (shape[1], shape[0])
    np.testing.assert_array_equal(np.asarray(prepared.picture), image)


def test_layout_and_colour_order_are_the_networks() -> None:
    image = pixels(12, 16, 3)
    channels_first = prepare(image, PLAIN).array
    np.testing.assert_array_equal(channels_first, np.moveaxis(image, 2, 0))
    np.testing.assert_array_equal(prepare(image, replace(PLAIN, layout="NHWC")).array, image)
    np.testing.assert_array_equal(prepare(image, replace(PLAIN, colour="BGR")).array, channels_first[::-1])


def test_a_path_a_picture_and_its_pixels_are_the_same(tmp_path: Path) -> None:
    image = pixels(20, 30, 3)
    Image.fromarray(image).save(tmp_path / "image.png")
    arrays = [prepare(i, RGB).array for i in (image, Image.fromarray(image), tmp_path / "image.png")]
    arrays.append(prepare(str(tmp_path / "image.png"), RGB).array)
    for array in arrays[1:]:
        np.testing.assert_array_equal(array, arrays[0])


def test_grey_is_spread_over_three_channels() -> None:
    image = pixels(20, 30)
    for grey in (image, image[:, :, None], Image.fromarray(image)):
        array = prepare(grey, PLAIN).array
        np.testing.assert_array_equal(array, np.broadcast_to(plane_by_plane(image[:, :, None]), (3, 12, 16)))


def test_transparency_is_ignored() -> None:
    image = pixels(20, 30, 4)
    expected = prepare(image[:, :, :3], RGB).array
    np.testing.assert_array_equal(prepare(image, RGB).array, expected)
    np.testing.assert_array_equal(prepare(Image.fromarray(image), RGB).array, expected)


def test_colour_becomes_luminance_for_a_network_of_one_channel() -> None:
    image = pixels(12, 16, 3)
    expected = np.asarray(Image.fromarray(image).convert("L"), np.float32) / 255
    np.testing.assert_allclose(prepare(image, GRAY).array[0], expected, atol=1e-6)
    of_16_bits = prepare(image.astype(np.uint16) * 257, GRAY).array[0]
    np.testing.assert_allclose(of_16_bits, expected, atol=1 / 255)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
def test_16_bits_are_8_bits_with_a_finer_step(shape: tuple[int, ...]) -> None:
    image = pixels(*shape)
    np.testing.assert_allclose(prepare(image.astype(np.uint16) * 257, PLAIN).array, prepare(image, PLAIN).array, atol=1)


def test_16_bit_files_keep_their_steps(tmp_path: Path) -> None:
    image = np.full((12, 16), 300, np.uint16)  # darker than one and brighter than two steps of 8 bits
    Image.fromarray(image).save(tmp_path / "deep.png")
    np.testing.assert_allclose(prepare(tmp_path / "deep.png", PLAIN).array, 300 * 255 / 65535, rtol=1e-6)


def test_the_range_of_pixels_follows_from_their_type_alone() -> None:
    assert prepare(np.ones((12, 16), np.uint8), PLAIN).array.max() == 1
    assert prepare(np.ones((12, 16), np.uint16), PLAIN).array.max() == pytest.approx(255 / 65535)


def test_exif_turns_the_picture_upright(tmp_path: Path) -> None:
    image = pixels(16, 12, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to see it upright
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    prepared = prepare(tmp_path / "turned.png", PLAIN)
    assert prepared.picture.size == (16, 12)
    np.testing.assert_array_equal(prepared.array, np.moveaxis(np.rot90(image, -1), 2, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillow_s(orientation: int) -> None:
    picture = Image.fromarray(pixels(16, 12, 3))
    picture.getexif()[0x0112] = orientation
    prepared = prepare(picture, PLAIN)
    np.testing.assert_array_equal(np.asarray(prepared.picture), np.asarray(ImageOps.exif_transpose(picture)))


@pytest.mark.parametrize("kind", ["tiff", "png", "jpeg", "webp"])
def test_a_picture_that_is_not_read_yet_is_what_its_path_is(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(16, 12, 3)).save(tmp_path / f"turned.{kind}", exif=exif)
    lazy, path = (prepare(given(tmp_path / f"turned.{kind}"), PLAIN) for given in (Image.open, Path))
    assert lazy.picture.size == path.picture.size == (16, 12)
    np.testing.assert_array_equal(lazy.array, path.array)


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_opened_picture_that_cannot_be_read(orientation: int, tmp_path: Path) -> None:
    """Damaged, cut short, or closed: no pixels are made up."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels(64, 64, 3))
    image.save(tmp_path / "whole.png", exif=exif)
    whole = (tmp_path / "whole.png").read_bytes()
    start = whole.index(b"IDAT") + 40
    (tmp_path / "damaged.png").write_bytes(whole[:start] + bytes(8) + whole[start + 8 :])
    image.save(tmp_path / "whole.jpg", exif=exif)
    (tmp_path / "short.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-900])
    closed = Image.open(tmp_path / "whole.png")
    closed.close()
    for picture in (Image.open(tmp_path / "damaged.png"), Image.open(tmp_path / "short.jpg"), closed):
        with pytest.raises(ImageError, match="the picture cannot be read"):
            prepare(picture, PLAIN)


def test_an_odd_exif_does_not_make_a_picture_unreadable(tmp_path: Path) -> None:
    """One entry that Pillow cannot write again, and one EXIF that it cannot read at all."""
    turned, width = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0), struct.pack(">HHIf", 0x0100, 11, 1, 1.5)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + width + turned + struct.pack(">I", 0)
    Image.fromarray(pixels(16, 12, 3)).save(tmp_path / "odd.jpg", exif=exif)
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(tmp_path / "odd.jpg"))
    assert prepare(tmp_path / "odd.jpg", PLAIN).picture.size == (16, 12)
    unreadable = Image.fromarray(pixels(12, 16, 3))
    unreadable.info["exif"] = b"Exif\0\0nothing like it"
    assert prepare(unreadable, PLAIN).picture.size == (16, 12)


def test_whatever_a_decoder_raises_is_an_image_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(pixels(12, 16, 3)).save(tmp_path / "a.png")
    for error in (RuntimeError("avif"), NotImplementedError("dds"), struct.error("unpack")):

        def load(_: Image.Image, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Image.Image, "load", load)
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
        with pytest.raises(ImageError, match=r"a\.png cannot be read"):
            prepare(tmp_path / "a.png", RGB)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "HSV", "RGBA", "RGBX"])
def test_pictures_of_other_modes_convert(mode: str) -> None:
    for expected in (RGB, GRAY):
        assert np.isfinite(prepare(Image.fromarray(pixels(20, 30, 3)).convert(mode), expected).array).all()


def test_lab_converts() -> None:
    image = Image.new("LAB", (30, 20), (128, 0, 0))
    for expected in (RGB, GRAY):
        assert np.isfinite(prepare(image, expected).array).all()


@pytest.mark.parametrize("spec", [RGB, GRAY, replace(RGB, colour="BGR"), replace(RGB, layout="NHWC")])
def test_a_preprocessed_array_is_taken_as_it_is_and_pictured(spec: ImageInput) -> None:
    image = pixels(12, 16, 3) if spec.channels == 3 else pixels(12, 16, 1)
    array = prepare(image, replace(spec, layout="NCHW")).array
    prepared = prepare(array, spec)
    np.testing.assert_array_equal(np.moveaxis(prepared.array, 2, 0) if spec.layout == "NHWC" else prepared.array, array)
    np.testing.assert_array_equal(np.asarray(prepared.picture), np.broadcast_to(image, (12, 16, 3)))


def test_channels_that_are_no_colours_are_taken_as_arrays_only() -> None:
    spec = ImageInput("x", 5, 12, 16, colour="NONE")
    assert prepare(np.zeros((5, 12, 16), np.float32), spec).picture.size == (16, 12)
    with pytest.raises(ImageError, match=r"5 channels.*5×12×16"):
        prepare(pixels(12, 16, 3), spec)


WRONG: list[tuple[ImageLike | object, str]] = [
    (np.zeros((0, 16, 3), np.uint8), r"empty \(shape \(0, 16, 3\)\)"),
    (np.zeros((3, 12, 16), np.uint8), r"shape \(3, 12, 16\).*transpose"),
    (np.zeros((2, 12, 16, 3), np.uint8), r"shape \(2, 12, 16, 3\).*batch"),
    (np.zeros((12, 16, 2), np.uint8), r"1, 3 or 4 channels"),
    (np.zeros((12, 16), np.int64), "array of int64"),
    (np.zeros((12, 16), bool), "array of bool"),
    (np.zeros((12, 16, 3), np.float32), "3×12×16.*not 12×16×3"),
    (np.zeros((1, 3, 12, 16), np.float32), "not 1×3×12×16"),
    (np.array(1.0, np.float32), "single number"),
    (np.full((3, 12, 16), np.nan, np.float32), "576 of 576 values are NaN"),
    (np.full((3, 12, 16), np.inf, np.float32), "infinite"),
    (np.full((3, 12, 16), 1e300), "infinite"),
    (Image.new("F", (16, 12)), "floating-point"),
    (Image.fromarray(np.full((12, 16), 70000, np.int32)), "70000"),
    (Image.fromarray(np.full((12, 16), -1, np.int32)), "-1"),
    (Image.new("RGB", (0, 12)), "empty"),
    (Path("nowhere.png"), "nowhere.png"),
    (None, "NoneType"),
    ([[0, 1]], "list"),
]


@pytest.mark.parametrize(("image", "said"), WRONG)
def test_what_is_no_image_has_an_error_that_names_it(image: Any, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        prepare(image, RGB)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    Image.fromarray(pixels(64, 64, 3)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "nothing.png").touch()
    for name, said in (("half.png", "truncated"), ("text.png", "Pillow"), ("nothing.png", "Pillow")):
        with pytest.raises(ImageError, match=f"{name}.*{said}"):
            prepare(tmp_path / name, RGB)
    with pytest.raises(ImageError, match="cannot be read"):
        prepare(tmp_path, RGB)
