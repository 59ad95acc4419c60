"""What may be asked of a diffusion run when it is sampled, and whether it was trained for it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from hvdm.errors import UserError
from hvdm.options import option
from hvdm.recipe import Picture, SampleKind, SampleRequest

T = TypeVar("T")
Sampler = Literal["ddim", "ddpm", "dpm++2m"]
GUIDANCE = ("past", "image", "motion", "label")
"""What can be told, each with a guidance of its own."""
LEVELS = {"slow": 0.1, "medium": 0.5, "fast": 0.9}
"""Shares of the training clips that move less."""


# Values, as a program gives them or as they are typed


def several(value: Any) -> Sequence[Any]:
    """One value, a list of them, or text with commas."""
    if value is None:
        return ()
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def in_turn(values: Sequence[T], draw: int) -> T:
    """The value of a clip by its number."""
    return values[draw % len(values)]


def motion_level(value: Any) -> float:
    """slow, medium, fast, or the share of the training clips that move less."""
    if value in LEVELS:
        return LEVELS[value]
    try:
        return _number("motion", value, 0, 1)
    except UserError:
        raise UserError(
            f"motion={value!r}: expected slow, medium, fast, or a number from 0 to 1"
        ) from None


def _number(name: str, value: Any, least: float, most: float = math.inf) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not least <= number <= most or math.isinf(number):
        upper = "" if most == math.inf else f" and at most {most:g}"
        raise UserError(f"{name}={value!r}: expected a number of at least {least:g}{upper}")
    return number


def _whole(name: str, value: Any, least: int) -> int:
    number = _number(name, value, least)
    if number != int(number):
        raise UserError(f"{name}={value!r} is no whole number")
    return int(number)


def _within(least: float, most: float = math.inf) -> Callable[[str, Any], float]:
    return lambda name, value: _number(name, value, least, most)


def _at_least(least: int) -> Callable[[str, Any], int]:
    return lambda name, value: _whole(name, value, least)


def _levels(name: str, value: Any) -> tuple[float, ...]:
    return tuple(motion_level(one) for one in several(value))


def _labels(name: str, value: Any) -> tuple[int, ...]:
    return tuple(_whole(name, one, 0) for one in several(value))


def _image(name: str, image: Any) -> Tensor:
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image)
    good = isinstance(image, Tensor) and image.dtype == torch.uint8 and image.shape[-1:] == (3,)
    if not good or image.ndim not in (3, 4):
        raise UserError(f"{name}: expected pixels, uint8 H W 3, or B H W 3 with one for each clip")
    return image if image.ndim == 4 else image[None]


def _size(name: str, value: Any) -> tuple[int, int]:
    sides = value.lower().split("x") if isinstance(value, str) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise UserError(f"{name}={value!r}: expected HEIGHTxWIDTH, such as 64x64")
    height, width = (_whole(name, side, 1) for side in sides)
    return height, width


# The options of each kind


def _of(name: str) -> Any:
    return option(None, f"for the {name} alone", key=f"guidance.{name}", read=_within(-1))


def _told_image() -> Any:
    return option(None, "the first frame", shown="FILE", read=_image)


@dataclass(frozen=True)
class Telling:
    """What every kind can be asked for; None is the run's own."""

    sampler: Sampler | None = option(None, "default the run's")
    eta: float | None = option(None, "noise of ddim, 0 to 1; default the run's", read=_within(0, 1))
    guidance: float | None = option(None, "(1 + W) told - W untold", shown="W", read=_within(-1))
    guidance_past: float | None = _of("past")
    guidance_image: float | None = _of("image")
    guidance_motion: float | None = _of("motion")
    guidance_label: float | None = _of("label")
    motion: tuple[float, ...] = option(
        (),
        "the share of training clips that move less; several with commas are taken in turn",
        shown="slow|medium|fast|0..1",
        read=_levels,
    )
    label: tuple[int, ...] = option(
        (), "the class, where the run was told them; several in turn", shown="N", read=_labels
    )


@dataclass(frozen=True)
class ClipOptions(Telling):
    size: tuple[int, int] | None = option(
        None, "whole multiples of the run's size, decoded by tiles", shown="HxW", read=_size
    )


@dataclass(frozen=True)
class LongOptions(ClipOptions):
    frames: int | None = option(None, "how long; default 8 clips", read=_at_least(1))
    reuse: Literal["latent", "pixels"] = option(
        "latent", "the clip before as it was drawn, or decoded and encoded again"
    )
    overlap: int | None = option(
        None, "frames that decoded tiles share; default a quarter clip", read=_at_least(0)
    )
    fade: int | None = option(
        None, "frames over which the jump to a new clip fades; default a clip", read=_at_least(0)
    )
    image: Picture | None = _told_image()


@dataclass(frozen=True)
class ImageOptions(Telling):
    image: Picture | None = _told_image()


def _label_of(options: Telling, draw: int) -> int | None:
    return in_turn(options.label, draw) if options.label else None


KINDS: Mapping[str, SampleKind] = {
    "clip": SampleKind("a clip of the run's length", ClipOptions, label=_label_of, steps=True),
    "long": SampleKind(
        "clips that go on, each told the one before", LongOptions, label=_label_of, steps=True
    ),
    "image": SampleKind("a picture that moves", ImageOptions, label=_label_of, steps=True),
    "dynamics": SampleKind("motion of a given strength", ImageOptions, label=_label_of, steps=True),
}


@dataclass(frozen=True)
class Abilities:
    """What a run was trained to be told, and how it samples unless asked otherwise."""

    past: bool
    image: bool
    motion: bool
    classes: int
    sampler: Sampler
    steps: int
    eta: float
    guidance: float
    frames: int


@dataclass(frozen=True)
class Asked:
    """A request, checked. Of several motions or labels, a clip takes one by its number."""

    what: str
    sampler: Sampler
    steps: int
    eta: float
    guidance: Mapping[str, float]
    frames: int
    fade: int
    reuse: Literal["latent", "pixels"] = "latent"
    overlap: int | None = None
    motion: tuple[float, ...] = ()
    label: tuple[int, ...] = ()
    image: Tensor | None = None
    size: tuple[int, int] | None = None


def asked(request: SampleRequest, able: Abilities) -> Asked:
    options: Telling = request.options or KINDS[request.what].options()
    given = {name: value for name, value in vars(options).items() if value is not None}
    weights = {name: given.pop(f"guidance_{name}") for name in GUIDANCE
               if f"guidance_{name}" in given}  # fmt: skip
    usual = {
        "sampler": able.sampler,
        "eta": able.eta,
        "frames": 8 * able.frames if request.what == "long" else able.frames,
        "fade": able.frames,
    }
    steps = able.steps if request.steps is None else request.steps
    given["guidance"] = _guidance(given.get("guidance"), able.guidance) | weights
    found = Asked(**{**usual, **given, "what": request.what, "steps": steps})
    _check_sizes(found, able)
    _check_need(found, able)
    _check_guidance(found, weights)
    return found


def _guidance(of_all: float | None, default: float) -> dict[str, float]:
    """`guidance=` counts for all; the run's own, where nothing is asked, for all but the past. A
    long video is told what it drew itself: what is exaggerated in a clip grows from clip to clip.
    """
    if of_all is not None:
        return dict.fromkeys(GUIDANCE, of_all)
    return {name: 0.0 if name == "past" else default for name in GUIDANCE}


def _check_sizes(found: Asked, able: Abilities) -> None:
    frames = able.frames
    if found.overlap is not None and found.overlap > frames // 2:
        raise UserError(
            f"overlap={found.overlap}: tiles of {frames} frames share at most {frames // 2}"
        )
    if found.fade > frames:
        raise UserError(
            f"fade={found.fade}: the jump between clips of {frames} frames fades within one"
        )
    for label in found.label:
        if able.classes and label >= able.classes:
            raise UserError(f"label={label}: this run knows labels 0 to {able.classes - 1}")


def _check_need(found: Asked, able: Abilities) -> None:
    """A run can be asked only for what it was trained to be told."""
    if found.what == "image" and found.image is None:
        raise UserError("image= is missing: give the picture that the video begins with")
    if found.what == "dynamics" and not found.motion:
        raise UserError("motion= is missing: slow, medium, fast, or a number from 0 to 1")
    longer = found.what == "long" and found.frames > able.frames
    needs = (
        (longer, able.past, "what=long", "the clip before", "model.conditional=0.3 model.before="),
        (found.image is not None, able.image, "image=", "a picture", "model.still=0.3"),
        (bool(found.motion), able.motion, "motion=", "motion", "model.motion=stored"),
        (bool(found.label), able.classes > 0, "label=", "labels", "model.labels=N"),
    )
    for wanted, trained, key, of_what, cure in needs:
        if wanted and not trained:
            cure = f"{cure}{able.frames}" if cure.endswith("=") else cure
            raise UserError(
                f"{key}: this run was trained without being told of {of_what}; "
                f"train one with {cure}"
            )
    if found.size is not None and found.image is not None:
        raise UserError("size= goes with no image: a picture becomes as large as the clips")


def _check_guidance(found: Asked, weights: Mapping[str, float]) -> None:
    told = {
        "past": found.what == "long",
        "image": found.image is not None,
        "motion": bool(found.motion),
        "label": bool(found.label),
    }
    for name in weights:
        if not told[name]:
            raise UserError(f"guidance.{name}: what={found.what} is told no {name} here; leave it")
