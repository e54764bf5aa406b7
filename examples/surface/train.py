"""Train SurfaceNet on pictures made by rule, on a CPU, in minutes.

Example:
    python train.py --out surface.pt --train 8000 --epochs 14
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from model import LABELS, MEAN, SIZE, STD, SurfaceNet
from render import render
from torch import Tensor, nn

# Seeds of training, test and demonstration pictures never meet.
TRAIN_SEED = 1_000_000
TEST_SEED = 5_000_000


def _picture(number: int, first_seed: int) -> npt.NDArray[np.uint8]:
    return render(LABELS[number % len(LABELS)], first_seed + number, SIZE).image


def dataset(count: int, first_seed: int, workers: int) -> tuple[Tensor, Tensor]:
    """Pictures (count, 3, SIZE, SIZE) uint8 and their labels (count,), classes in turn."""
    images = torch.empty((count, 3, SIZE, SIZE), dtype=torch.uint8)
    with ProcessPoolExecutor(workers) as pool:
        made = pool.map(partial(_picture, first_seed=first_seed), range(count), chunksize=50)
        for i, image in enumerate(made):
            images[i] = torch.from_numpy(image).permute(2, 0, 1)
    return images, torch.arange(count) % len(LABELS)


def normalised(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 to float32 by ``MEAN`` and ``STD``."""
    mean = torch.tensor(MEAN).view(1, 3, 1, 1)
    std = torch.tensor(STD).view(1, 3, 1, 1)
    return (images.float() / 255.0 - mean) / std


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random flips and quarter turns of the batch, brightness and contrast of each picture."""
    turns, flip = torch.randint(0, 4, (2,), generator=generator).tolist()
    x = torch.rot90(x, turns, (2, 3))
    if flip % 2:
        x = x.flip(3)
    gain = 1 + 0.2 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    shift = 0.6 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    return x * gain + shift


@torch.inference_mode()
def confusion(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(5, 5) counts, true class by predicted class."""
    net.eval()
    table = torch.zeros((len(LABELS), len(LABELS)), dtype=torch.int64)
    for start in range(0, len(images), 100):
        guess = net(normalised(images[start : start + 100])).argmax(1)
        for true, predicted in zip(labels[start : start + 100], guess, strict=True):
            table[true, predicted] += 1
    return table


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int, half: bool) -> None:
    """Fit ``net`` in place: AdamW, one cycle of the learning rate, label smoothing.

    The first three fifths of the epochs see the pictures at half their size, which costs a quarter
    and teaches nearly as much. ``half`` computes in bfloat16 where that loses nothing.
    """
    batch = 64
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.02)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=6e-3, total_steps=steps, pct_start=0.2)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.03)
    began = time.perf_counter()
    for epoch in range(epochs):
        net.train()
        small = epoch < round(0.6 * epochs)
        order = torch.randperm(len(images), generator=generator)
        right, total = 0, 0.0
        for start in range(0, len(images) - batch + 1, batch):
            chosen = order[start : start + batch]
            x, y = normalised(images[chosen]), labels[chosen]
            x = augmented(nn.functional.avg_pool2d(x, 2) if small else x, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = net(x.contiguous(memory_format=torch.channels_last))
            loss = criterion(logits.float(), y)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            right += int((logits.argmax(1) == y).sum())
            total += float(loss.detach()) * len(y)
        seen = len(images) // batch * batch
        print(
            f"epoch {epoch + 1:2d}/{epochs} at {x.shape[-1]}  loss {total / seen:.3f}  "
            f"train accuracy {right / seen:.4f}  {time.perf_counter() - began:5.0f} s",
            flush=True,
        )


def processor_seconds() -> float:
    """Of this process and its finished children."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def write(state: dict[str, Tensor], path: Path) -> None:
    """Write the state dict so that ``path`` is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, partial_file)
    partial_file.replace(path)


def main() -> None:
    """Make the pictures, train, measure on unseen ones, write the weights."""
    parser = argparse.ArgumentParser(
        description="Train SurfaceNet on pictures of metal surfaces that are made by rule.",
        epilog="example: python train.py --out surface.pt --train 8000 --epochs 14",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("surface.pt"))
    parser.add_argument("--train", type=int, default=8000, help="training pictures (8000)")
    parser.add_argument("--test", type=int, default=1500, help="unseen test pictures (1500)")
    parser.add_argument("--epochs", type=int, default=14, help="passes over them (14)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads and processes (2)")
    parser.add_argument("--float32", action="store_true", help="no bfloat16: slower")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    began = time.perf_counter()
    images, labels = dataset(args.train, TRAIN_SEED, args.threads)
    print(f"{len(images)} pictures made in {time.perf_counter() - began:.0f} s", flush=True)
    x = images[:: max(1, len(images) // 500)].float() / 255.0
    print("mean", x.mean((0, 2, 3)).tolist(), "std", x.std((0, 2, 3)).tolist(), flush=True)

    net = SurfaceNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train(net, images, labels, args.epochs, args.seed, not args.float32)
    write({k: v.contiguous() for k, v in net.state_dict().items()}, args.out)

    table = confusion(net, *dataset(args.test, TEST_SEED, args.threads))
    print("rows: true class, columns: predicted")
    for label, row in zip(LABELS, table.tolist(), strict=True):
        print(f"{label:>8} " + " ".join(f"{n:5d}" for n in row))
    accuracy = float(table.diagonal().sum() / table.sum())
    print(f"accuracy {accuracy:.4f} on {args.test} unseen pictures")
    print(f"{time.perf_counter() - began:.0f} s in all, {processor_seconds():.0f} of processor time")


if __name__ == "__main__":
    main()
