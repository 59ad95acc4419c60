"""What can be asked of a run: pictures, clips, and clips that go on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.ops.large_steps import LargeSteps
from hvdm.options import option
from hvdm.recipe import Noise, SampleKind
from hvdm.recipes.wavediff.bands import Bands

CLIPS = 8
"""How many make a long one unless told."""


@dataclass(frozen=True)
class Labelled:
    label: tuple[int, ...] = option((), "the class of each in turn; all of them unless told")


@dataclass(frozen=True)
class LongOptions(Labelled):
    frames: int | None = option(None, f"how many in all; {CLIPS} clips unless told")


def kinds(bands: Bands, labels: int, past: bool) -> Mapping[str, SampleKind]:
    told = partial(label_of, labels)
    if not bands.of_clips:
        return {"images": SampleKind("pictures", Labelled, "images", told)}
    clip = SampleKind("a clip of the run's length", Labelled, label=told)
    long = SampleKind("clips that go on, each told the one before", LongOptions, label=told)
    return {"clip": clip, **({"long": long} if past else {})}


def label_of(labels: int, asked: Labelled, draw: int) -> int | None:
    """The classes that were asked for in turn, or all of them."""
    chosen = asked.label or tuple(range(labels))
    return chosen[draw % len(chosen)] if chosen else None


class Model(Protocol):
    """What is asked of the recipe."""

    bands: Bands
    steps: LargeSteps

    @property
    def labels(self) -> int: ...

    @property
    def drawn(self) -> int: ...


@dataclass(frozen=True)
class Generation:
    """One batch as it is made: row i is a function of draw i."""

    model: Model
    nets: nn.ModuleDict
    asked: Labelled
    noise: Noise
    progress: Callable[[float], None] | None = None

    def made(self) -> Tensor:
        """`B C T H W`, or `B C H W` of pictures."""
        label, past = self._label(), None
        pieces: list[Tensor] = []
        for number in range(self._count()):
            past = self._piece(number, label, past)
            pieces.append(self.model.bands.back(past))
        if not isinstance(self.asked, LongOptions):
            return pieces[0]
        return torch.cat(pieces, 2)[:, :, : self._frames()]

    def _frames(self) -> int:
        clip = self.model.bands.clip.frames
        asked = self.asked.frames if isinstance(self.asked, LongOptions) else clip
        if asked is not None and asked < 1:
            raise UserError(f"frames={asked} is below 1")
        return CLIPS * clip if asked is None else asked

    def _count(self) -> int:
        return -(-self._frames() // self.model.bands.clip.frames)

    def _piece(self, number: int, label: Tensor | None, past: Tensor | None) -> Tensor:
        """The coefficients of clip `number`, in as many calls as there are steps."""
        model, steps = self.model, self.model.steps.steps
        scope = f"{self.noise.scope}, clip {number}" if number else self.noise.scope
        noise = replace(self.noise, scope=scope)
        y = noise.randn(model.bands.shape, "start")
        for done, step in enumerate(reversed(range(steps))):
            t = torch.full((len(y),), step, device=y.device)
            z = noise.randn((model.drawn,), f"style {step}")
            clean = self.nets["generator"](y, t, z, label, past)
            fresh = noise.randn(model.bands.shape, f"before {step}")
            y = model.steps.before(clean, y, t, fresh)
            if self.progress:
                self.progress((number * steps + done + 1) / (self._count() * steps))
        return y

    def _label(self) -> Tensor | None:
        """The class of each row, by its number."""
        known = self.model.labels
        for one in self.asked.label:
            if not 0 <= one < known:
                told = f"knows labels 0 to {known - 1}" if known else "was told no labels"
                raise UserError(f"label={one}: this run {told}")
        if not known:
            return None
        labels = [label_of(known, self.asked, draw) for draw in self.noise.draws]
        return torch.tensor(labels, device=self.noise.device)
