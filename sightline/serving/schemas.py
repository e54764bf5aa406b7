"""What requests may say, to the field: anything else is refused.

Types are strict (no ``"3"`` for 3, no NaN), unknown fields are errors, lists are bounded, and the first thing wrong
ends the reading of a list, so that a million wrong values do not make a million messages.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sightline.errors import MethodError
from sightline.runtime.explainer import METHODS
from sightline.runtime.method import Method

MOST_TARGETS = 16
MOST_INSTANCES = 4096
_VALUES = 2**30

Label = Annotated[str, Field(max_length=1000)]
Class = Annotated[int, Field(ge=0, le=10**9)] | Label
Classes = Annotated[list[Class], Field(min_length=1, max_length=MOST_TARGETS, fail_fast=True)]
Base64 = Annotated[str, Field(description="A PNG, JPEG, BMP, TIFF or WebP file in base64 (RFC 4648, padded).")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, hide_input_in_errors=True)


class MethodSettings(_Strict):
    """Parameters of a method. Those not given have its defaults."""

    mu: float | None = Field(
        default=None, ge=0, lt=1, description="SISE, REMISE: skip maps below this share of the largest α."
    )
    predict: bool | None = Field(default=None, description="SISE, REMISE: predict the scores that a budget leaves out.")
    passes: int | None = Field(default=None, ge=1, le=10000, description="RISE: how many random masks.")
    cells: int | None = Field(default=None, ge=1, le=32, description="RISE: the side of the grid.")
    share: float | None = Field(default=None, gt=0, lt=1, description="RISE: how much of the image a mask keeps.")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="RISE: of the random numbers.")


class _Asking(_Strict):
    method: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="One of the model's methods."
    )
    settings: MethodSettings | None = None
    max_passes: int | None = Field(
        default=None, ge=1, le=10**9, description="Score at most so many masks, predict the rest."
    )
    deadline: float | None = Field(
        default=None,
        gt=0,
        le=10**6,
        description="Seconds from the request's arrival: no batch of masks begins after it.",
    )

    def chosen(self, own: Method, allowed: tuple[str, ...]) -> Method:
        """The method that is asked for.

        Args:
            own: of the server.
            allowed: names that may be asked for.

        Raises:
            MethodError: there is no such method, or a parameter is not one of its own or out of range.
        """
        settings = {} if self.settings is None else self.settings.model_dump(exclude_none=True)
        if self.method is not None and self.method not in allowed:
            raise MethodError(f"there is no method {self.method!r} here: choose {', '.join(allowed)}.")
        method = own if self.method is None else METHODS[self.method]()
        if foreign := sorted(settings.keys() - asdict(method)):
            raise MethodError(f"{foreign[0]!r} is no parameter of {method.name}: leave it out.")
        return replace(method, **settings)


class Instance(_Strict):
    """An image."""

    b64: Base64


class TargetedInstance(Instance):
    """An image, and what is asked about it."""

    target: Class | Classes | None = Field(
        default=None, description="Label or index of a class, or up to 16 of them; default: the predicted class."
    )


class DecomposedInstance(Instance):
    """An image, and the class to take apart."""

    target: Class | None = Field(default=None, description="Label or index of a class; default: the predicted class.")


class PredictParameters(_Strict):
    """How to predict."""

    deadline: float | None = Field(default=None, gt=0, le=10**6, description="Seconds from the arrival of the request.")


class ExplainParameters(_Asking):
    """How to explain, and what to answer."""

    overlay: bool = Field(default=True, description="Answer with the picture and the map over it, a PNG.")
    saliency: bool = Field(default=False, description="Answer with the map.")
    layers: bool = Field(default=False, description="Answer with the map of every block.")
    maps: Literal["float32", "png"] = Field(default="float32", description="How maps are encoded.")
    format: Literal["json", "png", "npz"] | None = Field(
        default=None, description="Default: what Accept asks for, else JSON."
    )


class DecomposeParameters(_Strict):
    """How far to take a decision apart."""

    top_k: int = Field(default=4, ge=1, le=32, description="How many children a decision has at most.")
    depth: int | None = Field(default=None, ge=1, le=1000, description="How many blocks to walk down; default: all.")
    min_share: float = Field(
        default=0.02, ge=0, lt=1, description="Children that carry less of their parent are left out."
    )
    max_nodes: int = Field(default=1000, ge=1, le=5000, description="Of the tree.")
    unit: Label | None = Field(
        default=None, description="A unit to take apart instead of a class, e.g. stages.3:17:2,5."
    )
    format: Literal["json", "html"] | None = Field(
        default=None, description="Default: what Accept asks for, else JSON."
    )


class PredictRequest(_Strict):
    """Images to classify."""

    instances: list[Instance] = Field(min_length=1, max_length=MOST_INSTANCES, fail_fast=True)
    parameters: PredictParameters = PredictParameters()


class ExplainRequest(_Strict):
    """Images to explain."""

    instances: list[TargetedInstance] = Field(min_length=1, max_length=MOST_INSTANCES, fail_fast=True)
    parameters: ExplainParameters = ExplainParameters()


class DecomposeRequest(_Strict):
    """An image whose decision is taken apart."""

    instances: list[DecomposedInstance] = Field(min_length=1, max_length=1, fail_fast=True)
    parameters: DecomposeParameters = DecomposeParameters()


Number = float
Numbers1 = Annotated[list[Number], Field(max_length=_VALUES, fail_fast=True)]
Numbers2 = Annotated[list[Numbers1], Field(max_length=_VALUES, fail_fast=True)]
Numbers3 = Annotated[list[Numbers2], Field(max_length=_VALUES, fail_fast=True)]
Numbers4 = Annotated[list[Numbers3], Field(max_length=_VALUES, fail_fast=True)]
Strings = Annotated[list[str], Field(max_length=MOST_INSTANCES, fail_fast=True)]


class TensorIn(_Strict):
    """One input, by the Open Inference Protocol."""

    name: Literal["image", "pixels", "tensor"]
    shape: list[Annotated[int, Field(ge=0, le=2**31)]] = Field(min_length=1, max_length=4, fail_fast=True)
    datatype: Literal["BYTES", "UINT8", "FP32"]
    data: Strings | Numbers1 | Numbers2 | Numbers3 | Numbers4 = Field(union_mode="left_to_right")
    parameters: dict[str, Any] | None = Field(default=None, max_length=16, description="Taken and ignored.")


class TensorWanted(_Strict):
    """One output that is asked for."""

    name: Literal["probabilities", "saliency"]
    parameters: dict[str, Any] | None = Field(default=None, max_length=16, description="Taken and ignored.")


class InferParameters(_Asking):
    """How to explain, where saliency is asked for."""

    target: Class | None = Field(
        default=None, description="Label or index of a class, for all images; default: the predicted."
    )


class InferRequest(_Strict):
    """Images as tensors."""

    id: Annotated[str, Field(max_length=200)] | None = None
    inputs: list[TensorIn] = Field(min_length=1, max_length=1, fail_fast=True)
    outputs: list[TensorWanted] | None = Field(default=None, min_length=1, max_length=2, fail_fast=True)
    parameters: InferParameters = InferParameters()
