"""Scenes of solids: exact depth, true other views, and who sees what."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.synthetic import scenes
from data_tools.synthetic.rendering import HUES, Texture
from data_tools.synthetic.scenes import LENS, Solid, SolidScene
from hvdm.data.fields import read_media
from hvdm.data.schema import read_manifest
from hvdm.data.shards import ShardReader
from hvdm.ops.cameras import rays, turned
from launcher.cli import main

PLAIN = Texture("shaded", np.array(HUES["red"]) * 0.4, np.array(HUES["red"]), 1.0, np.zeros((4, 4)))


def alone(kind: str, floor: float | None = None, angle: float = 0.0) -> SolidScene:
    solid = Solid(kind, PLAIN, 0.4, (0.0, 0.0, 0.0), angle)
    return SolidScene((solid,), floor, PLAIN, PLAIN, 0.0, 0.0)


def depth_of(scene: SolidScene, side: int = 33) -> np.ndarray:
    zero = torch.zeros(1, dtype=torch.float64)
    origin, way = rays(turned(zero, zero), LENS, side, side)
    return scenes.trace(scene, origin[0].numpy(), way[0].numpy()).depth.reshape(side, side)


def test_depth_is_what_geometry_says() -> None:
    sphere, box, cone = (depth_of(alone(kind)) for kind in scenes.SCENE_CLASSES)
    assert sphere[16, 16] == pytest.approx(2.7 - 0.4) and box[16, 16] == pytest.approx(2.7 - 0.32)
    # half-way down its axis the cone is half as wide as its base
    assert cone[16, 16] == pytest.approx(2.7 - 0.2)
    assert sphere[0, 0] == pytest.approx(sphere[32, 32]) and sphere[0, 0] > 6
    floor = depth_of(alone("sphere", floor=0.4))
    row = (2 * 32.5 / 33 - 1) * LENS.reach
    assert floor[32, 0] == pytest.approx(0.4 / row)


@pytest.mark.parametrize("kind", scenes.SCENE_CLASSES)
def test_points_lie_on_their_solid(kind: str) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    origin, way = rays(turned(zero, zero), LENS, 41, 41)
    depth = scenes.trace(alone(kind, angle=0.7), origin[0].numpy(), way[0].numpy()).depth
    hit = depth < 4
    x, y, z = ((origin[0].numpy() + way[0].numpy() * depth[:, None])[hit] / 0.4).T
    radius = np.hypot(x, z)
    cos, sin = np.cos(0.7), np.sin(0.7)
    far = {
        "sphere": np.hypot(radius, y) - 1,
        "box": np.maximum.reduce([np.abs(cos * x + sin * z), np.abs(cos * z - sin * x)]) - 0.8,
        "cone": radius - (y + 1) / 2,
    }[kind]
    assert 150 < hit.sum() < 900 and np.abs(far).max() < 1e-6


def test_another_view_shows_the_same_scene() -> None:
    """Where the picture shows a point, the other view's depth leads to the same colour."""
    scene = scenes.compose(np.random.default_rng(3))
    for view in scenes.VIEWS:
        seen = scenes.visible(scene, *view, 48, 48)
        assert 0.4 < seen.mean() < 1
    assert scenes.visible(scene, 0.0, 0.0, 48, 48).all()
    straight = scenes.photograph(scene, 0.0, 0.0, 32, 32).astype(float)
    slight, much = (scenes.photograph(scene, yaw, 0.0, 32, 32).astype(float) for yaw in (1, 30))
    assert np.abs(slight - straight).mean() < np.abs(much - straight).mean() / 2


def test_behind_a_solid_nothing_is_seen() -> None:
    seen = scenes.visible(alone("box"), 60.0, 0.0, 65, 65)
    assert seen[32, 20] and not seen[32, 44]


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    first, again = (scenes.picture(1, 2, 16, 16, views=True) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first[1:], again[1:], strict=True))
    assert np.array_equal(first.picture.video, again.picture.video)
    assert not np.array_equal(first.depth, scenes.picture(1, 3, 16, 16, views=False).depth)
    many = [scenes.picture(0, index, 8, 8, views=False) for index in range(60)]
    assert {one.picture.label for one in many} == {0, 1, 2}
    assert all(1 < one.depth.min() < 2.7 and one.depth.max() < 7 for one in many)


def test_other_views_are_kept_for_evaluation_alone(tmp_path: Path) -> None:
    typed = ["kind=scenes", "train=3", "test=2", "height=16", "width=16"]
    assert main(["data", "synthetic", f"out={tmp_path}/scenes", *typed]) == 0
    parts = {
        split: ShardReader(str(tmp_path / "scenes" / split),
                           read_manifest(tmp_path / "scenes" / split)).sample(0, 0)
        for split in ("train", "test")
    }  # fmt: skip
    assert set(parts["train"]) == {"json", "png", "depth.npy"}
    assert set(parts["test"]) == {"json", "png", "depth.npy", "views.npy", "seen.npy"}
    assert read_media(parts["train"]).shape == (1, 16, 16, 3)
