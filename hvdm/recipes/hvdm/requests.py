"""What may be asked of a diffusion run when it is sampled, and whether it was trained for it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from hvdm.errors import UserError, closest
from hvdm.recipe import SampleRequest

T = TypeVar("T")

GUIDANCE = ("past", "image", "motion", "label")
"""What can be told, each with a guidance of its own."""
_ALWAYS = ("sampler", "eta", "guidance", *(f"guidance.{name}" for name in GUIDANCE))
_NUMBERS = ("motion", "label")
KINDS: Mapping[str, tuple[str, ...]] = {
    "clip": (*_ALWAYS, *_NUMBERS, "size"),
    "long": (*_ALWAYS, *_NUMBERS, "size", "frames", "reuse", "overlap", "fade", "image"),
    "image": (*_ALWAYS, *_NUMBERS, "image"),
    "dynamics": (*_ALWAYS, *_NUMBERS, "image"),
}
"""The options of each kind."""
SAMPLERS = ("ddim", "ddpm", "dpm++2m")
LEVELS = {"slow": 0.1, "medium": 0.5, "fast": 0.9}
"""Shares of the training clips that move less."""


@dataclass(frozen=True)
class Abilities:
    """What a run was trained to be told, and how it samples unless asked otherwise."""

    past: bool
    image: bool
    motion: bool
    classes: int
    sampler: str
    steps: int
    eta: float
    guidance: float
    frames: int


@dataclass(frozen=True)
class Asked:
    """A request, checked. Of several motions or labels, a clip takes one by its number."""

    what: str
    sampler: str
    steps: int
    eta: float
    guidance: Mapping[str, float]
    frames: int
    reuse: Literal["latent", "pixels"] = "latent"
    overlap: int | None = None
    fade: int = 0
    motion: tuple[float, ...] = ()
    label: tuple[int, ...] = ()
    image: Tensor | None = None
    size: tuple[int, int] | None = None


def asked(request: SampleRequest, able: Abilities) -> Asked:
    options = dict(request.options or {})
    _check_names(request.what, options)
    found = Asked(
        what=request.what,
        sampler=_one_of("sampler", options.get("sampler", able.sampler), SAMPLERS),
        steps=able.steps if request.steps is None else request.steps,
        eta=_number("eta", options.get("eta", able.eta), 0, 1),
        guidance=_guidance(options, able.guidance),
        frames=_frames(request.what, options, able.frames),
        reuse=_one_of("reuse", options.get("reuse", "latent"), ("latent", "pixels")),  # type: ignore[arg-type]
        overlap=_overlap(options, able.frames),
        fade=_fade(options, able.frames),
        motion=tuple(motion_level(value) for value in several(options.get("motion"))),
        label=tuple(_label(value, able) for value in several(options.get("label"))),
        image=_image(options),
        size=_size(options.get("size")),
    )
    _check_need(found, able)
    _check_guidance(found, options)
    return found


def _check_names(what: str, options: Mapping[str, Any]) -> None:
    if what not in KINDS:
        raise UserError(f"what={what}: this model cannot sample that; {closest(what, KINDS)}")
    for name in options:
        if name not in KINDS[what]:
            raise UserError(
                f"{name}: what={what} takes no such option; {closest(name, KINDS[what])}"
            )


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
    for wanted, trained, option, of_what, cure in needs:
        if wanted and not trained:
            cure = f"{cure}{able.frames}" if cure.endswith("=") else cure
            raise UserError(
                f"{option}: this run was trained without being told of {of_what}; "
                f"train one with {cure}"
            )
    if found.size is not None and found.image is not None:
        raise UserError("size= goes with no image: a picture becomes as large as the clips")


def _check_guidance(found: Asked, options: Mapping[str, Any]) -> None:
    told = {
        "past": found.what == "long",
        "image": found.image is not None,
        "motion": bool(found.motion),
        "label": bool(found.label),
    }
    for name, is_told in told.items():
        if f"guidance.{name}" in options and not is_told:
            raise UserError(f"guidance.{name}: what={found.what} is told no {name} here; leave it")


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


def _one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise UserError(f"{name}={value!r} is not known; {closest(str(value), choices)}")
    return str(value)


def _guidance(options: Mapping[str, Any], default: float) -> dict[str, float]:
    """`guidance=` counts for all, `guidance.motion=` and the like for one; the run's own, where
    nothing is asked, for all but the past. A long video is told what it drew itself: what is
    exaggerated in a clip grows from clip to clip.
    """
    of_all = {name: 0.0 if name == "past" else default for name in GUIDANCE}
    if "guidance" in options:
        of_all = dict.fromkeys(GUIDANCE, _number("guidance", options["guidance"], -1))
    return {
        name: _number(f"guidance.{name}", options.get(f"guidance.{name}", weight), -1)
        for name, weight in of_all.items()
    }


def _frames(what: str, options: Mapping[str, Any], clip: int) -> int:
    return _whole("frames", options.get("frames", 8 * clip if what == "long" else clip), 1)


def _overlap(options: Mapping[str, Any], frames: int) -> int | None:
    if "overlap" not in options:
        return None
    overlap = _whole("overlap", options["overlap"], 0)
    if overlap > frames // 2:
        raise UserError(f"overlap={overlap}: tiles of {frames} frames share at most {frames // 2}")
    return overlap


def _fade(options: Mapping[str, Any], frames: int) -> int:
    fade = _whole("fade", options.get("fade", frames), 0)
    if fade > frames:
        raise UserError(f"fade={fade}: the jump between clips of {frames} frames fades within one")
    return fade


def _label(value: Any, able: Abilities) -> int:
    label = _whole("label", value, 0)
    if able.classes and label >= able.classes:
        raise UserError(f"label={label}: this run knows labels 0 to {able.classes - 1}")
    return label


def _image(options: Mapping[str, Any]) -> Tensor | None:
    image = options.get("image")
    if image is None:
        return None
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image)
    good = isinstance(image, Tensor) and image.dtype == torch.uint8 and image.shape[-1:] == (3,)
    if not good or image.ndim not in (3, 4):
        raise UserError("image: expected pixels, uint8 H W 3, or B H W 3 with one for each clip")
    return image if image.ndim == 4 else image[None]


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = value.lower().split("x") if isinstance(value, str) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise UserError(f"size={value!r}: expected HEIGHTxWIDTH, such as 64x64")
    height, width = (_whole("size", side, 1) for side in sides)
    return height, width
