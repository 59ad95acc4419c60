"""Trains the reader of digits that comes with the package, and says how often it is right.

    OMP_NUM_THREADS=1 python -m benchmarks.digit_reader [minutes=7] [write=true]

Digits of the training split only, still and moving, turned, placed and coloured anew each time. A
classifier alone forgets how a digit is written, and then any model that repeats one neat digit of
each class is as good as people. So the picture is drawn again from the features as well, by layers
that are thrown away.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from data_tools.synthetic import digits
from eval.networks.digit_reader import FEATURE_COUNT, FILE, SIDE, DigitReader, scaled

BATCH, RATE, DRAWN = 64, 3e-3, 1.0
HERE = Path(__file__).parents[1] / "eval" / "networks"


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Half frames of clips, half pictures that are turned and moved a little."""
    random = np.random.default_rng(step)
    shown, labels = [], []
    for row in range(BATCH):
        if row % 2:
            clip = digits.clip(step + 1000, "train", row, 1, 32, 32)
            shown.append(clip.video[0])
            labels.append(clip.label)
        else:
            number = int(random.integers(1400))
            shown.append(_still(number, random))
            labels.append(int(digits.written("train").labels[number]))
    frames = np.stack(shown).astype(np.float32)
    frames += random.normal(0, random.uniform(0, 12), frames.shape)
    return torch.from_numpy(frames.clip(0, 255).astype(np.uint8)), torch.tensor(labels)


def _still(number: int, random: np.random.Generator) -> np.ndarray:
    digit = digits._smooth("train", number)
    place = tuple(random.uniform(-0.06, 0.06, 2))
    half = digits.STILL * random.uniform(0.85, 1.05)
    cover = digits._cover(digit, 32, 32, place, random.uniform(-0.2, 0.2), half)
    return np.repeat(np.rint(255 * cover)[..., None], 3, 2)


@torch.no_grad()
def right(network: DigitReader, kind: str, split: str) -> float:
    if kind == "digits":
        count = len(digits.written(split).labels)
        drawn = [digits.picture(split, i, 32, 32) for i in range(min(count, 800))]
        frames = [(one.video[0], one.label) for one in drawn]
    else:
        clips = [digits.clip(7, split, i, 8, 32, 32) for i in range(400)]
        frames = [(one.video[at], one.label) for one in clips for at in (0, -1)]
    pixels = torch.from_numpy(np.stack([video for video, _ in frames]))
    _, logits = network(pixels)
    return float((logits.argmax(1) == torch.tensor([label for _, label in frames])).float().mean())


def main() -> None:
    given = dict(word.split("=") for word in sys.argv[1:])
    budget = 60 * float(given.get("minutes", "7"))
    torch.manual_seed(0)
    network, began, step = DigitReader(), time.monotonic(), 0
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    drawing = nn.Sequential(nn.Linear(FEATURE_COUNT, 256), nn.SiLU(), nn.Linear(256, SIDE**2))
    moved = [*network.parameters(), *drawing.parameters()]
    optimizer = torch.optim.AdamW(moved, lr=RATE, weight_decay=0.02)
    while (spent := time.monotonic() - began) < budget:
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - spent / budget) + 1e-5
        frames, labels = batch(step)
        features, logits = network(frames)
        again, seen = drawing(features), scaled(frames).mean(1).flatten(1)
        drawn = functional.mse_loss(again, (seen - seen.mean(1, keepdim=True)))
        loss = functional.cross_entropy(logits, labels) + DRAWN * drawn
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(network)
        step += 1
        if step % 200 == 0:
            told = f"loss {loss.item():.3f}, of the picture {drawn.item():.3f}"
            print(f"step {step}: {told}, {spent:.0f} s", flush=True)
    found = averaged.module
    for kind in ("digits", "moving_digits"):
        shares = ", ".join(
            f"{split} {right(found, kind, split):.2%}" for split in ("train", "test")
        )
        print(f"{kind}: right on {shares}")
    if given.get("write") == "true":
        state = {name: value.half().contiguous() for name, value in found.state_dict().items()}
        save_file(state, HERE / FILE)
        print(f"wrote {HERE / FILE}, {(HERE / FILE).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
