"""Train the benchmark's network on NEU-DET, on a CPU, in minutes, and export it to a bundle.

    python benchmarks/quality/train.py --data FOLDER --out neu.sightline

The last 40 pictures of every class in ``train/`` are not fitted on: choices of the methods are made on them, and the
figures that count come from ``eval/``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))

import sightline
from quality.network import build
from quality.neu_det import LABELS, Picture, folder, held_out, read

HELD_OUT = 40
BATCH = 32


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of all pixels, for grey in [0, 1]."""

    mean: float
    std: float

    def __call__(self, pictures: Sequence[Picture]) -> Tensor:
        """(N, 1, H, W) float32."""
        pixels = np.stack([picture.pixels for picture in pictures])[:, None]
        return (torch.from_numpy(pixels).float() / 255 - self.mean) / self.std


def scale_of(pictures: Sequence[Picture]) -> Scale:
    """Of the pictures fitted on."""
    pixels = np.stack([picture.pixels for picture in pictures]) / 255
    return Scale(round(float(pixels.mean()), 4), round(float(pixels.std()), 4))


def labels_of(pictures: Sequence[Picture]) -> Tensor:
    return torch.tensor([picture.label for picture in pictures])


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Quarter turns and flips of the batch. Brightness stays: it tells pits from inclusions."""
    turns, flip = torch.randint(0, 4, (2,), generator=generator).tolist()
    x = torch.rot90(x, turns, (2, 3))
    return x.flip(3) if flip % 2 else x


def fit(net: nn.Module, x: Tensor, y: Tensor, epochs: int, seed: int) -> None:
    """AdamW, one cycle of the learning rate, label smoothing; the first three fifths of the epochs at half size."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=2e-3, total_steps=epochs * (len(x) // BATCH), pct_start=0.2
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.03)
    small = round(epochs * 0.6)
    began = time.perf_counter()
    for epoch in range(epochs):
        net.train()
        order = torch.randperm(len(x), generator=generator)
        total, right, seen = 0.0, 0, 0
        for start in range(0, len(x) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            batch = x[chosen] if epoch >= small else nn.functional.avg_pool2d(x[chosen], 2)
            logits = net(augmented(batch, generator).contiguous(memory_format=torch.channels_last))
            loss = criterion(logits, y[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total, seen = total + float(loss.detach()) * len(chosen), seen + len(chosen)
            right += int((logits.argmax(1) == y[chosen]).sum())
        print(
            f"epoch {epoch + 1:2d}/{epochs}  loss {total / seen:.3f}  accuracy while fitting {right / seen:.3f}  "
            f"{time.perf_counter() - began:4.0f} s",
            flush=True,
        )


@torch.inference_mode()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of pictures whose class is found, in float32."""
    net.eval()
    right = sum(int((net(x[i : i + 60]).argmax(1) == y[i : i + 60]).sum()) for i in range(0, len(x), 60))
    return right / len(x)


def save(net: nn.Module, path: Path) -> None:
    """The weights, so that ``path`` is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save({name: value.contiguous() for name, value in net.state_dict().items()}, partial)
    partial.replace(path)


def train(data: Path, out: Path, epochs: int = 20, seed: int = 0) -> dict[str, float]:
    """Fit, measure, write the bundle and, beside it, the weights (``.pt``).

    Returns:
        The accuracy on ``eval/`` and on the pictures held out, in [0, 1].
    """
    torch.manual_seed(seed)
    fitted, left = held_out(read(data, "train"), HELD_OUT)
    scale = scale_of(fitted)
    net = build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(net, scale(fitted), labels_of(fitted), epochs, seed)
    net = net.to(memory_format=torch.contiguous_format).eval()
    parts = {"eval": read(data, "eval"), "held out": left}
    found = {name: accuracy(net, scale(pictures), labels_of(pictures)) for name, pictures in parts.items()}
    save(net, out.with_suffix(".pt"))
    sightline.export(
        net, out, example=scale(left[:1]), mean=[scale.mean], std=[scale.std], labels=list(LABELS), overwrite=True
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="NEU-DET (default: $SIGHTLINE_NEU_DET)")
    parser.add_argument("--out", type=Path, default=Path("neu.sightline"), help="the bundle (neu.sightline)")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the pictures (20)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, share in train(folder(arguments.data), arguments.out, arguments.epochs, arguments.seed).items():
        print(f"accuracy on {name}: {share:.4f}")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
