"""What may be asked of runs of the family, and pictures with their depth as rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hvdm.data.clips import resampled
from hvdm.data.decode import CannotDecode
from hvdm.data.depth import Placing, checked, depth_file
from hvdm.errors import UserError
from hvdm.options import option
from hvdm.recipe import Batch, Noise, Picture, SampleKind, read_picture


def _depth(name: str, value: Any) -> Tensor | None:
    """A file of depth, or depth itself."""
    if value is None or isinstance(value, Tensor):
        return value
    try:
        return torch.from_numpy(checked(depth_file(Path(str(value)).expanduser())))
    except CannotDecode as error:
        raise UserError(f"{name}={value}: {error}") from None


YAWS = (-30.0, -15.0, 15.0, 30.0)
"""Of the true views that `hvdm data synthetic kind=scenes` keeps."""


def _degrees(name: str, value: Any) -> tuple[float, ...]:
    values = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(float(one) for one in values)
    except (TypeError, ValueError):
        raise UserError(f"{name}={value!r}: expected degrees, such as -15,15") from None


def picture_option(key: str = "", about: str = "the picture") -> Any:
    return option(None, about, shown="FILE", read=read_picture, key=key)


def depth_option(key: str = "", about: str = "its depth: a png of 16 bits, npz or npy") -> Any:
    return option(None, about, shown="FILE", read=_depth, key=key)


@dataclass(frozen=True)
class PlacedOptions:
    """How depth that is given becomes that of view space."""

    rule: Literal["robust", "none"] = option(
        "robust", "percentiles of the depth to near and far; none: it is in place"
    )
    gives: Literal["depth", "disparity"] = option("depth", "what the files hold")
    near: float = option(1.9, "in view space, where the camera is 2.7 from the middle")
    far: float = option(4.2, "in view space")

    @property
    def placing(self) -> Placing:
        return Placing(self.rule, self.gives, self.near, self.far)


@dataclass(frozen=True)
class FilmOptions:
    frames: int = option(24, "of the film; of a page, views from left to right", least=2)


@dataclass(frozen=True)
class OrbitOptions(FilmOptions):
    yaw: float = option(30.0, "degrees to either side")
    pitch: float = option(10.0, "degrees up and down")


@dataclass(frozen=True)
class MeshOptions:
    detail: int = option(64, "points along each side of the cube around the middle", least=8)
    opaque: float = option(0.5, "what of a ray has to end within a step, to be of the solid")


@dataclass(frozen=True)
class OfPicture(PlacedOptions):
    image: Picture | None = picture_option()
    depth: Tensor | None = depth_option()


@dataclass(frozen=True)
class PlacesOptions:
    cut: float = option(0.5, "the share of lowest densities that is taken away, below 1")


@dataclass(frozen=True)
class PlacesOfPicture(PlacesOptions, OfPicture):
    pass


@dataclass(frozen=True)
class TurnedOptions(OfPicture):
    yaws: tuple[float, ...] = option(
        YAWS, "degrees to the right, with commas in between", shown="A,B,…", read=_degrees
    )


@dataclass(frozen=True)
class ViewsOptions(OrbitOptions, OfPicture):
    pass


@dataclass(frozen=True)
class MeshOfPicture(MeshOptions, OfPicture):
    pass


@dataclass(frozen=True)
class PageOfPicture(MeshOptions, OrbitOptions, OfPicture):
    pass


OF_ROWS = ("video", "depth")
KINDS: Mapping[str, SampleKind] = {
    "views": SampleKind("an orbit around a picture, its depth beside it", ViewsOptions),
    "image": SampleKind("a picture as it is rendered", OfPicture, "images", reads=OF_ROWS),
    "novel": SampleKind("a picture from a random side", OfPicture, "images", reads=OF_ROWS),
    "turned": SampleKind("a picture from given sides", TurnedOptions, reads=OF_ROWS),
    "warped": SampleKind(
        "its pixels moved by their depth, holes filled: no model", TurnedOptions, reads=OF_ROWS
    ),
    "depth": SampleKind("the depth that a picture is rendered with", OfPicture, "depth"),
    "places": SampleKind(
        "where on its ray each pixel ends, 0 to 1", PlacesOfPicture, "depth", reads=OF_ROWS
    ),
    "mesh": SampleKind("a picture's solid, by marching cubes", MeshOfPicture, "mesh"),
    "page": SampleKind("a page on which a picture can be turned", PageOfPicture, "page"),
}


def sides(noise: Noise, yaw: float, pitch: float) -> Tensor:
    """Yaw and pitch of each draw `B 2` in radians, evenly within so many degrees either way."""
    at = noise.uniform((2,), "side")
    return (2 * at - 1) * at.new_tensor([yaw, pitch]).deg2rad()


def batch_of(
    image: Tensor | None, depth: Tensor | None, placing: Placing, key: str, side: int
) -> Batch:
    """A picture and its depth as rows that were read; the middle square of the depth."""
    depth_key = "depth" if key == "image" else f"{key}_depth"
    if image is None:
        raise UserError(f"{key}= is missing: give the picture")
    if depth is None:
        raise UserError(
            f"{depth_key}= is missing: this model reads depth beside the picture, such as "
            "`hvdm data derive depth` or an estimator of yours makes it"
        )
    try:
        placed = _square(torch.from_numpy(placing.placed(depth.float().numpy())), side)
    except CannotDecode as error:
        raise UserError(f"{depth_key}=: {error}") from None
    fields = {"video": image[None, None], "depth": placed[None]}
    return Batch(fields, ("",), (0,), torch.ones(1))


def _square(depth: Tensor, side: int) -> Tensor:
    """As a picture is brought to the run's size: its middle, scaled."""
    height, width = depth.shape
    own = min(height, width)
    top, left = (height - own) // 2, (width - own) // 2
    part = depth[top : top + own, left : left + own]
    return part if own == side else resampled(part[None, None], side, side)[0, 0]
