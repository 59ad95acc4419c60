"""What the denoiser is told: a clip beside the noisy one, and numbers added to the time."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hvdm.nets.blocks import ZeroEmbedding, ZeroLinear, sinusoid
from hvdm.recipe import Context

SPREAD = 1000.0
"""Motion from 0 to 1 is embedded as times from 0 to 1000 are."""
UNTOLD = -1
"""Stands for a motion or a label that a row is not told."""


@dataclass(frozen=True)
class Conditions:
    """For each row: a latent beside the noisy one, a motion in [0, 1], a label; or none of it."""

    beside: Tensor | None = None
    motion: Tensor | None = None
    label: Tensor | None = None


class Motion(nn.Module):
    """Motion in [0, 1] -> features, as times are embedded; rows that are not told share one."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.width = width
        self.up = nn.Linear(width, out)
        self.out = ZeroLinear(out, out)
        self.untold = ZeroEmbedding(1, out)

    def forward(self, motion: Tensor, like: Tensor) -> Tensor:
        """`B` -> `B D`."""
        features = self.up(sinusoid(SPREAD * motion, self.width, like))
        told = self.out(nn.functional.silu(features))
        # the embedding is called, not read: ZeRO-3 gathers weights as their module is called
        untold = self.untold(torch.zeros_like(motion, dtype=torch.long))
        return torch.where(motion[:, None] < 0, untold, told)


class Label(ZeroEmbedding):
    """A vector for each class, and the last one for rows that are not told theirs."""

    def __init__(self, classes: int, out: int) -> None:
        super().__init__(classes + 1, out)

    def forward(self, label: Tensor) -> Tensor:
        """`B` -> `B D`."""
        last = self.num_embeddings - 1
        return super().forward(torch.where(label < 0, last, label))


class Numbers(nn.Module):
    """Adds what is told in numbers to the embedding of time; has no weights for what never is."""

    def __init__(self, width: int, out: int, motion: bool, classes: int) -> None:
        super().__init__()
        self.motion = Motion(width, out) if motion else None
        self.label = Label(classes, out) if classes else None

    def forward(self, time: Tensor, motion: Tensor | None, label: Tensor | None) -> Tensor:
        """`B D`, `B`, `B` -> `B D`."""
        untold = torch.full((len(time),), UNTOLD, device=time.device)
        if self.motion is not None:
            time = time + self.motion(untold if motion is None else motion, time)
        if self.label is not None:
            time = time + self.label(untold if label is None else label)
        return time


# Which rows are told what, in training


@dataclass(frozen=True)
class Choice:
    """Per row: is it told its past, is it told its first frame, and where its target begins."""

    past: Tensor
    still: Tensor
    first: Tensor


def choose(
    video: Tensor, before: int, past: float, still: float, context: Context, every: int = 1
) -> Choice:
    """A share `past` of the rows that have one is told it, a share `still` its first frame.

    Rows told their past end with the row. Others begin at any frame of it whose number is a
    multiple of `every`, or, where the row begins with padding (all pixels 0), behind that.
    """
    share = context.uniform((), "told").to(video.device)
    past = past if before else 0.0
    padded = (video[:, :, :before] == -1).flatten(1).all(1) & (before > 0)
    told = (share < past) & ~padded
    shown = (share >= past) & (share < past + still)
    anywhere = every * context.randint(before // every + 1, "offset").to(video.device)
    first = torch.where(told | padded, torch.full_like(anywhere, before), anywhere)
    return Choice(told, shown, first)


def frames_from(video: Tensor, first: Tensor, count: int) -> Tensor:
    """`B C T H W` -> `B C count H W`, each row from its own first frame."""
    chosen = first[:, None] + torch.arange(count, device=first.device)
    rows = torch.arange(len(video), device=first.device)[:, None]
    return video.transpose(1, 2)[rows, chosen].transpose(1, 2)


def still_of(frame: Tensor, frames: int) -> Tensor:
    """`B C H W` -> the clip `B C T H W` in which it does not move."""
    return frame.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def some_untold(values: Tensor, share: float, context: Context, use: str) -> Tensor:
    """A share of the rows is not told its value."""
    dropped = context.uniform((), use).to(values.device) < share
    return torch.where(dropped, torch.full_like(values, UNTOLD), values)
