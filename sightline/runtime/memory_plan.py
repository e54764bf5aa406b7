"""How much memory explaining takes, computed before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sightline.bindings.engine import Device, Precision
from sightline.bundle import Bundle
from sightline.errors import OutOfMemoryError

SHARE = 0.8
"""Of the free memory: engines need workspace that no graph tells of, and other processes live too."""

MARGIN = 1.5
"""On the activations: measured in ONNX Runtime, batches took 0.65 (ResNet-50) to 1.4 (DenseNet-121) times the count."""

_BYTES: Mapping[Precision, float] = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 2}
"""Per activation. An int8 engine keeps some of them in float32."""


@dataclass(frozen=True)
class MemoryPlan:
    """What the engines of an explainer are expected to hold, in bytes.

    Activations are counted as the most that are alive at once when the graph runs node by node, and half as much again.
    """

    free: int
    """Free on the device."""
    fixed: int
    """The weights, and the attribution pass."""
    per_image: int
    """Activations of the classifier, for each image of the batch."""

    @property
    def largest_batch(self) -> int:
        """The largest batch that fits into 80 % of the free memory; 0 where none does."""
        return max(0, int((SHARE * self.free - self.fixed) // self.per_image))

    def __str__(self) -> str:
        mebibytes = [f"{size / 2**20:,.0f} MiB" for size in (self.fixed, self.per_image, self.free)]
        return (
            f"{mebibytes[0]} for weights and the attribution pass, {mebibytes[1]} for each image of the batch; "
            f"{mebibytes[2]} free, so a batch of up to {self.largest_batch}"
        )


def memory_plan(bundle: Bundle, device: Device, precision: Precision, *, shared: bool) -> MemoryPlan:
    """Plan the memory of one explainer.

    Args:
        bundle: tells the bytes of its weights and activations.
        device: where the classifier runs.
        precision: what it computes in.
        shared: the attribution pass runs on the same device.

    Raises:
        OutOfMemoryError: not even a batch of one image fits.
    """
    memory, share = bundle.manifest.memory, _BYTES[precision] / 4
    attribution = memory.weights + int(MARGIN * memory.attribution) if shared else 0
    plan = MemoryPlan(
        free=_free(device),
        fixed=int(memory.weights * share) + attribution,
        per_image=max(1, int(MARGIN * memory.classifier * share)),
    )
    if plan.largest_batch < 1:
        raise OutOfMemoryError(
            f"explaining {bundle.path} does not fit into memory: {plan}. Free some, or use a lower precision."
        )
    return plan


def _free(device: Device) -> int:
    if device == "cuda":
        import cupy

        return int(cupy.cuda.runtime.memGetInfo()[0])
    import psutil

    return min([int(psutil.virtual_memory().available), *_control_group()])


def _control_group(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What a container may still take, which the machine's own figures do not tell."""
    try:
        limit, used = (int((root / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        # Files that were read count as used, and are dropped as soon as somebody needs the room.
        return [limit - used + int(statistics.get("inactive_file", 0))]
    except (OSError, ValueError):  # no such file, or "max": no limit
        return []
