"""Train the detector on pictures made by rule, on a CPU, in minutes.

Example:
    python examples/detector/train_detector.py --train 2400 --epochs 12
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from boxes import Detection, detect, iou
from detector import GRID, WEIGHTS, Detector, decoded_boxes, normalised
from scenes import Picture, scene
from torch import Tensor, nn

# Seeds of training, of testing and of the pictures that explain_boxes.py shows never meet.
TRAIN_SEED = 1_000_000
TEST_SEED = 5_000_000


def pictures(count: int, first_seed: int, workers: int) -> list[Picture]:
    """Scenes of consecutive seeds."""
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(scene, range(first_seed, first_seed + count), chunksize=50))


def stacked(scenes: list[Picture]) -> Tensor:
    """(N, 3, H, W) uint8."""
    return torch.from_numpy(np.stack([one.image for one in scenes])).permute(0, 3, 1, 2)


def turned(images: Tensor, boxes: list[Tensor], turns: int, flip: bool) -> tuple[Tensor, list[Tensor]]:
    """Images and boxes after quarter turns, counterclockwise, and a mirroring."""
    size = images.shape[-1]
    images = torch.rot90(images, turns, (2, 3))
    for _ in range(turns):
        boxes = [torch.stack([b[:, 1], size - b[:, 2], b[:, 3], size - b[:, 0]], 1) for b in boxes]
    if flip:
        images = images.flip(3)
        boxes = [torch.stack([size - b[:, 2], b[:, 1], size - b[:, 0], b[:, 3]], 1) for b in boxes]
    return images, boxes


def assigned(boxes: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Which cell answers for what: objectness (N, G, G), boxes (N, 4, G, G), classes (N, G, G).

    The cell of a box's middle has objectness 1. Its neighbours learn the box and the class too (class -1: nothing to
    learn), but whether they call it an object is left to them (objectness -1).
    """
    cells = GRID.cells
    objectness = torch.zeros(len(boxes), cells, cells)
    target = torch.zeros(len(boxes), 4, cells, cells)
    classes = torch.full((len(boxes), cells, cells), -1)
    for n, (of_image, names) in enumerate(zip(boxes, labels, strict=True)):
        places = ((of_image[:, :2] + of_image[:, 2:]) / 2 * cells / GRID.size).long().clamp(0, cells - 1)
        for (column, row), box, label in zip(places.tolist(), of_image, names, strict=True):
            rows, columns = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            objectness[n, rows, columns] = -1
            target[n, :, rows, columns] = box[:, None, None]
            classes[n, rows, columns] = label
        for column, row in places.tolist():
            objectness[n, row, column] = 1
    return objectness, target, classes


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes (M, 4) with boxes (M, 4), in [-1, 1] (Rezatofighi et al., CVPR 2019)."""
    both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return both / union - (hull - union) / hull


def loss(head: Tensor, objectness: Tensor, target: Tensor, classes: Tensor) -> Tensor:
    """Of objectness (focal), boxes (generalised IoU) and classes (cross-entropy), per object."""
    learned = classes >= 0
    objects = max(1, int((objectness == 1).sum()))
    wanted = (objectness == 1).float()
    plain = nn.functional.binary_cross_entropy_with_logits(head[:, 0], wanted, reduction="none")
    surprise = (head[:, 0].sigmoid() - wanted).abs().detach()
    found = (plain * surprise**1.5)[objectness >= 0].sum() / objects
    if not learned.any():
        return found
    places = decoded_boxes(head).permute(0, 2, 3, 1)[learned]
    box = (1 - overlap(places, target.permute(0, 2, 3, 1)[learned])).mean()
    label = nn.functional.cross_entropy(
        head[:, 5:].permute(0, 2, 3, 1)[learned], classes[learned], label_smoothing=0.02
    )
    return 2 * found + 2 * box + label


def train(net: nn.Module, scenes: list[Picture], epochs: int, seed: int, half: bool) -> None:
    """Fit ``net`` in place: AdamW, one cycle of the learning rate. ``half`` computes in bfloat16."""
    batch = 32
    generator = torch.Generator().manual_seed(seed)
    images = stacked(scenes)
    boxes = [torch.from_numpy(one.boxes).float() for one in scenes]
    labels = [torch.tensor(one.labels) for one in scenes]
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.02)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    began = time.perf_counter()
    for epoch in range(epochs):
        net.train()
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for start in range(0, len(images) - batch + 1, batch):
            chosen = order[start : start + batch]
            turns, flip = torch.randint(0, 4, (2,), generator=generator).tolist()
            x, places = turned(normalised(images[chosen]), [boxes[i] for i in chosen.tolist()], turns, flip % 2 > 0)
            gain = 1 + 0.2 * (torch.rand(batch, 1, 1, 1, generator=generator) - 0.5)
            shift = 0.6 * (torch.rand(batch, 1, 1, 1, generator=generator) - 0.5)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                head = net((x * gain + shift).contiguous(memory_format=torch.channels_last))
            value = loss(head.float(), *assigned(places, [labels[i] for i in chosen.tolist()]))
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            schedule.step()
            total += float(value.detach())
        print(
            f"epoch {epoch + 1:2d}/{epochs}  loss {total / (len(images) // batch):.3f}  "
            f"{time.perf_counter() - began:5.0f} s",
            flush=True,
        )


def matched(found: list[Detection], truth: Picture, least: float = 0.5) -> dict[int, int]:
    """Which true box each detection finds, by their numbers: IoU at least ``least``, every box found once."""
    pairs: dict[int, int] = {}
    for number, one in enumerate(found):
        if len(truth.boxes) == 0:
            break
        overlaps = iou(truth.boxes, one.box)
        overlaps[list(pairs.values())] = 0
        if (best := int(overlaps.argmax())) not in pairs.values() and overlaps[best] >= least:
            pairs[number] = best
    return pairs


@torch.inference_mode()
def tested(net: nn.Module, scenes: list[Picture]) -> tuple[float, float, float]:
    """Recall, precision, and the share of the boxes found whose class is right."""
    net.eval()
    images = stacked(scenes)
    there = hits = said = right = 0
    for start in range(0, len(images), 50):
        heads = net(normalised(images[start : start + 50])).flatten(1).double().numpy()
        for head, truth in zip(heads, scenes[start : start + 50], strict=True):
            found = detect(head, GRID)
            pairs = matched(found, truth)
            there, said, hits = there + len(truth.boxes), said + len(found), hits + len(pairs)
            right += sum(found[number].label == truth.labels[box] for number, box in pairs.items())
    return hits / max(1, there), hits / max(1, said), right / max(1, hits)


def write(net: nn.Module, path: Path) -> None:
    """Write the weights in half precision, so that ``path`` is never seen half written."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in net.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, partial)
    partial.replace(path)


def main() -> None:
    """Make the pictures, train, write the weights, measure them on unseen pictures."""
    parser = argparse.ArgumentParser(
        description="Train the detector on pictures of metal surfaces that are made by rule.",
        epilog="example: python examples/detector/train_detector.py --train 2400 --epochs 12",
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--train", type=int, default=2400, help="training pictures (2400)")
    parser.add_argument("--test", type=int, default=400, help="unseen test pictures (400)")
    parser.add_argument("--epochs", type=int, default=12, help="passes over them (12)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads and processes (2)")
    parser.add_argument("--float32", action="store_true", help="no bfloat16: slower")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    began = time.perf_counter()
    scenes = pictures(args.train, TRAIN_SEED, args.threads)
    print(f"{len(scenes)} pictures made in {time.perf_counter() - began:.0f} s", flush=True)
    net = Detector().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    print(f"{sum(value.numel() for value in net.parameters())} parameters", flush=True)
    train(net, scenes, args.epochs, args.seed, not args.float32)
    write(net, args.out)
    net.load_state_dict(torch.load(args.out, weights_only=True))
    recall, precision, right = tested(net, pictures(args.test, TEST_SEED, args.threads))
    print(
        f"{args.test} unseen pictures: recall {recall:.3f}, precision {precision:.3f} at IoU 0.5; "
        f"class right in {right:.3f} of the boxes found"
    )
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
