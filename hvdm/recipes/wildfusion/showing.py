"""Triplanes as people look at them: films of an orbit, depth, meshes, pages that turn."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from hvdm.errors import RunError, UserError
from hvdm.media.mesh import Mesh
from hvdm.media.turning import turning_page
from hvdm.ops.warp import filled, moved
from hvdm.recipe import Batch, to_pixels
from hvdm.recipes.wildfusion.asking import (
    MeshOptions,
    OrbitOptions,
    PlacesOptions,
    TurnedOptions,
)
from hvdm.recipes.wildfusion.scene import Camera, Look, SceneNetwork, middle, radians, straight

AT_ONCE = 1 << 16
UPRIGHT = (1.0, -1.0, -1.0)
"""View space has y down and z away; meshes have y up and z towards who looks."""
ROWS = 3
"""Of a page's views: from below, level, from above."""


class Looker(Protocol):
    """The autoencoder's network."""

    scene: SceneNetwork

    @property
    def camera(self) -> Camera: ...

    def look(self, planes: Tensor, angles: Tensor | None = None) -> Look: ...


def _angles(planes: Tensor, yaw: float, pitch: float) -> Tensor:
    return planes.new_tensor([radians(yaw, pitch)]).expand(len(planes), 2)


def orbit(asked: OrbitOptions) -> Iterator[tuple[float, float]]:
    """Yaw and pitch of each frame: once around an ellipse, beginning and ending at its right."""
    for frame in range(asked.frames):
        turn = 2 * math.pi * frame / asked.frames
        yield asked.yaw * math.cos(turn), asked.pitch * math.sin(turn)


def film(net: Looker, planes: Tensor, asked: OrbitOptions) -> Tensor:
    """`B 3 T H 2W`: each view, and its depth beside it, near bright."""
    frames = [beside(net, net.look(planes, _angles(planes, *at))) for at in orbit(asked)]
    return torch.stack(frames, 2)


def beside(net: Looker, look: Look) -> Tensor:
    """`B 3 H 2W`: a view and how near it is."""
    side = look.image.shape[-1]
    nearness = net.camera.nearness(look.depth)[:, None]
    large = torch.nn.functional.interpolate(nearness, (side, side), mode="nearest")
    return torch.cat([look.image.clamp(-1, 1), large.expand(-1, 3, -1, -1)], -1)


def depth_maps(net: Looker, planes: Tensor, asked: Any) -> Tensor:
    return net.look(planes).depth


def places(net: Looker, planes: Tensor, asked: PlacesOptions) -> Tensor:
    """`B r r` in [0, 1]."""
    if not 0 <= asked.cut < 1:
        raise UserError(f"cut={asked.cut}: a share, at least 0 and below 1")
    return net.scene.ends(planes, straight(planes), middle(net.camera, planes), asked.cut)


def turned_film(net: Looker, planes: Tensor, asked: TurnedOptions) -> Tensor:
    """`B 3 V H W`, a frame for each side."""
    looks = [net.look(planes, _angles(planes, yaw, 0.0)) for yaw in asked.yaws]
    return torch.stack([look.image.clamp(-1, 1) for look in looks], 2)


def warped_film(camera: Camera, batch: Batch, asked: TurnedOptions) -> Tensor:
    """The same of the pixels themselves."""
    picture, depth = batch.pixels()[:, :, 0], batch["depth"].to(batch.pixels())
    sides = [_angles(picture, yaw, 0.0) for yaw in asked.yaws]
    return torch.stack([filled(moved(picture, depth, at, camera.lens)) for at in sides], 2)


# Meshes


class NoSolid(RunError):
    """Density is thin everywhere: there is no surface."""


def meshes(net: Looker, planes: Tensor, asked: MeshOptions) -> list[Mesh]:
    return [mesh_of(net, own, asked) for own in planes.split(1)]


def mesh_of(net: Looker, planes: Tensor, asked: MeshOptions) -> Mesh:
    """Where density is high enough that a step through it is opaque; closed at the cube's sides."""
    from skimage.measure import marching_cubes

    if not 0 < asked.opaque < 1:
        raise UserError(f"opaque={asked.opaque}: a share, above 0 and below 1")
    inner, detail = net.camera.inner, asked.detail
    step = 2 * inner / (detail - 1)
    level = -math.log(1 - asked.opaque) / step
    density = _densities(net, planes, detail)
    if not bool((density > level).any()):
        raise NoSolid(
            f"there is no solid: density stays below {level:.3g} everywhere; train longer, or ask "
            "for a smaller opaque="
        )
    closed = torch.nn.functional.pad(density, (1,) * 6)
    found, faces, _, _ = marching_cubes(closed.cpu().numpy(), level, gradient_direction="ascent")
    vertices = (torch.from_numpy(found.copy()).to(planes) - 1) * step - inner
    _, features = net.scene.answer(planes, vertices[None])
    colours = (features[0, :, :3].clamp(0, 1) * 255).round().to(torch.uint8)
    upright = vertices * vertices.new_tensor(UPRIGHT)
    return Mesh(upright.cpu(), torch.from_numpy(faces.astype("int64")), colours.cpu())


def _densities(net: Looker, planes: Tensor, detail: int) -> Tensor:
    """On a grid of the cube around the inner ball."""
    inner = net.camera.inner
    line = torch.linspace(-inner, inner, detail, dtype=planes.dtype, device=planes.device)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).flatten(0, 2)
    parts = [net.scene.answer(planes, part[None])[0][0] for part in points.split(AT_ONCE)]
    return torch.cat(parts).unflatten(0, (detail,) * 3)


# Pages


def pages(net: Looker, planes: Tensor, asked: Any) -> list[str]:
    return [page_of(net, own, asked) for own in planes.split(1)]


def page_of(net: Looker, planes: Tensor, asked: Any) -> str:
    """Views on a grid of yaw and pitch, and the mesh, or why there is none."""
    yaws = torch.linspace(-asked.yaw, asked.yaw, asked.frames).tolist()
    pitches = torch.linspace(-asked.pitch, asked.pitch, ROWS).tolist()
    views = [
        beside(net, net.look(planes, _angles(planes, yaw, pitch)))[:, :, None]
        for pitch in pitches
        for yaw in yaws
    ]
    pixels = to_pixels(torch.cat(views))[:, 0].cpu()
    try:
        return turning_page(pixels, len(yaws), mesh_of(net, planes, asked))
    except NoSolid as error:
        return turning_page(pixels, len(yaws), str(error))


SHOWN: Mapping[str, Callable[[Any, Tensor, Any], Any]] = {
    "views": film,
    "depth": depth_maps,
    "places": places,
    "turned": turned_film,
    "mesh": meshes,
    "page": pages,
}
