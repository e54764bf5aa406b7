"""The table of engines: where each runs, which graphs it opens, and how to tell whether it can be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from sightline.bindings import probe
from sightline.bindings.engine import Device, Precision
from sightline.bindings.probe import Obstacle

Variant = Literal["fp32", "fp16", "int8", "torch"]
"""What an engine opens: the ONNX graph in float32, in float16 or quantized (QDQ), or the exported torch program."""


def _anything(precision: str) -> None:
    """Nothing is lacking."""


@dataclass(frozen=True)
class Entry:
    """One engine."""

    device: Device
    distributions: tuple[str, ...]
    """The packages on the index that may bring it, for the version."""
    precisions: Mapping[Precision, Variant]
    """The variant of the graph that each precision opens."""
    probe: Callable[[], Obstacle | None]
    module: str
    opener: str = "open"
    lacks: Callable[[str], str | None] = _anything
    """Why this machine does not compute in a precision that the engine has elsewhere; asked of a usable engine only."""
    attribution: tuple[str, ...] = ()
    """The engines that run the attribution graph beside it, the best first; none: it does so itself."""
    stands_on: tuple[str, ...] = ()
    """Names of the package below it, whose version counts as well."""
    multiplies: bool = False
    """Whether its opener takes a :class:`~sightline.bindings.engine.Product`: worth it on a CPU, where the engine
    multiplies masks and image with all its threads on the way into the first layer."""


_ORT = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
_TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_CUDA: Mapping[Precision, Variant] = {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16"}
_TENSORRT: Mapping[Precision, Variant] = {**_CUDA, "int8": "int8"}

ENGINES: Mapping[str, Entry] = {  # the fastest first: "auto" takes the first one that can be used
    "tensorrt": Entry(
        device="cuda",
        distributions=_TENSORRT_PACKAGES,
        precisions=_TENSORRT,
        probe=probe.tensorrt,
        module="sightline.bindings.tensorrt",
        attribution=("onnxruntime-cuda", "onnxruntime-cpu"),
    ),
    "onnxruntime-tensorrt": Entry(
        device="cuda",
        distributions=("onnxruntime-gpu", "onnxruntime"),
        precisions=_TENSORRT,
        probe=probe.onnxruntime_tensorrt,
        module="sightline.bindings.onnxruntime_tensorrt",
        stands_on=_TENSORRT_PACKAGES,
        lacks=probe.tensorrt_provider_lacks,
        # One pass an image is not worth minutes of building, and must not round to TF32.
        attribution=("onnxruntime-cuda",),
    ),
    "onnxruntime-cuda": Entry(
        device="cuda",
        distributions=("onnxruntime-gpu", "onnxruntime"),
        precisions=_CUDA,  # of a quantized graph the provider would compute the convolutions in float32
        probe=probe.onnxruntime_cuda,
        module="sightline.bindings.onnxruntime_cuda",
    ),
    "torch-cuda": Entry(
        device="cuda",
        distributions=("torch",),
        precisions={"fp32": "torch", "tf32": "torch", "fp16": "torch", "bf16": "torch"},
        probe=probe.torch_cuda,
        module="sightline.bindings.torch",
        opener="open_cuda",
        attribution=("onnxruntime-cuda", "onnxruntime-cpu"),
    ),
    "openvino-gpu": Entry(
        device="cpu",  # where its buffers are
        distributions=("openvino",),
        precisions={"fp32": "fp32", "fp16": "fp32", "int8": "int8"},
        probe=probe.openvino_gpu,
        module="sightline.bindings.openvino",
        opener="open_gpu",
        lacks=partial(probe.openvino_lacks, "GPU"),
    ),
    "openvino": Entry(
        device="cpu",
        distributions=("openvino",),
        precisions={"fp32": "fp32", "bf16": "fp32", "int8": "int8"},
        probe=probe.openvino_cpu,
        module="sightline.bindings.openvino",
        opener="open_cpu",
        lacks=partial(probe.openvino_lacks, "CPU"),
        multiplies=True,
    ),
    "onnxruntime-cpu": Entry(
        device="cpu",
        distributions=_ORT,
        precisions={"fp32": "fp32", "int8": "int8"},
        probe=probe.onnxruntime_cpu,
        module="sightline.bindings.onnxruntime",
    ),
    "torch": Entry(
        device="cpu",
        distributions=("torch",),
        precisions={"fp32": "torch", "bf16": "torch"},
        probe=probe.torch_cpu,
        module="sightline.bindings.torch",
        opener="open_cpu",
        attribution=("openvino", "onnxruntime-cpu"),
    ),
}
