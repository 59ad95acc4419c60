"""What people do with WildFusion, through the command line: films, depth, meshes, pages."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from playwright.sync_api import sync_playwright

from data_tools.synthetic.making import make
from hvdm.data.decode import decode_all
from hvdm.data.schema import read_manifest
from hvdm.data.shards import ShardReader
from hvdm.errors import RunError, UserError
from hvdm.media.mesh import glb
from hvdm.recipes.wildfusion.asking import MeshOptions, OrbitOptions, PageOfPicture
from hvdm.recipes.wildfusion.showing import mesh_of, orbit, page_of
from launcher.cli import main
from tests.recipes.wild import built

SMALL = [
    "model.trunk=[8,16]", "model.pyramid=8", "model.width=8", "model.doubling=[8]",
    "model.plane_channels=4", "model.hidden=8", "model.features=4", "model.rays=8",
    "model.coarse=6", "model.enlarging=[4]", "model.critic_widths=[4,8]", "data.height=16",
    "data.width=16", "data.lanes=4", "data.window=4", "cluster=inline", "log.tensorboard=false",
    "batch=2", "micro_batch=2", "steps=2",
]  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    make(folder / "scenes", train=8, test=2, per_shard=8, frames=1, height=16, width=16,
         kind="scenes")  # fmt: skip
    reader = ShardReader(str(folder / "scenes/test"), read_manifest(folder / "scenes/test"))
    parts = reader.sample(0, 0)
    (folder / "picture.png").write_bytes(parts["png"])
    (folder / "depth.npy").write_bytes(parts["depth.npy"])
    typed = [f"run={folder}/run", f"data.path={folder}/scenes"]
    assert main(["train", "config=tiny/wildfusion_autoencoder", *typed, *SMALL]) == 0
    return folder


def sampled(place: Path, what: str, *more: str) -> list[Path]:
    out = place / what
    picture = [f"image={place}/picture.png", f"depth={place}/depth.npy", "rule=none"]
    typed = ["sample", f"run={place}/run", f"what={what}", "count=1", f"out={out}"]
    assert main([*typed, *picture, *more]) == 0
    return sorted(path for path in out.rglob("*") if path.is_file())


def test_a_picture_from_other_sides_is_a_film_with_its_depth(place: Path) -> None:
    files = sampled(place, "views", "frames=5", "yaw=20")
    (film,) = [path for path in files if path.suffix == ".mp4"]
    frames = decode_all(film.read_bytes(), film.name)
    assert len(frames) == 5 and frames.shape[2] == 2 * frames.shape[1]
    depth = [path for path in sampled(place, "depth") if path.suffix == ".npy"]
    assert np.load(depth[0]).shape == (8, 8)


def test_without_depth_one_line_says_what_is_missing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["sample", f"run={place}/run", "what=views", f"image={place}/picture.png"]
    assert main(typed) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "depth= is missing" in line and "hvdm data derive depth" in line


def test_the_orbit_goes_around_and_comes_back() -> None:
    places = list(orbit(OrbitOptions(yaw=30, pitch=10, frames=8)))
    assert places[0] == (30, 0) and places[4][0] == -30
    assert places[2][1] == pytest.approx(10) and places[6][1] == pytest.approx(-10)


# Solids whose answer is known


def ball(radius: float = 0.5, least: float = 0.0) -> object:
    """A network whose scene is a ball: red at the right, blue at the left.

    With `least` below 0, density falls evenly through the surface, and so is met exactly.
    """
    net = built().net

    def answer(planes: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = radius - torch.linalg.vector_norm(points, dim=-1)
        right = (points[..., :1] > 0).float()
        colours = [right, 0 * right, 1 - right, torch.zeros(*right.shape[:-1], 5)]
        return (inside * 4000).clamp_min(least), torch.cat(colours, -1)

    net.scene.answer = answer
    return net


PLANES = torch.zeros(1, 3, 8, 8, 8)


def test_a_ball_is_a_watertight_mesh_of_its_volume() -> None:
    mesh = mesh_of(ball(least=-4000.0), PLANES, MeshOptions(detail=64))  # type: ignore[arg-type]
    found = trimesh.load(io.BytesIO(glb(mesh)), file_type="glb", force="mesh")
    # half of a ray ends within a step where density is log 2 over it; it rises by 4000 a unit
    radius = 0.5 - np.log(2) / (2 / 63) / 4000
    assert found.is_watertight
    assert found.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.005)
    assert np.abs(np.linalg.norm(found.vertices, axis=1) - radius).max() < 0.001
    right = mesh.vertices[:, 0] > 0.1
    assert mesh.colours is not None and bool((mesh.colours[right, 0] > 200).all())
    assert bool((mesh.colours[~right & (mesh.vertices[:, 0] < -0.1), 2] > 200).all())


def test_what_goes_beyond_the_cube_is_closed_there() -> None:
    mesh = mesh_of(ball(1.3), PLANES, MeshOptions(detail=16))  # type: ignore[arg-type]
    assert trimesh.Trimesh(mesh.vertices, mesh.faces).is_watertight


def test_where_nothing_is_solid_it_says_so() -> None:
    with pytest.raises(RunError, match="there is no solid: density stays below"):
        mesh_of(ball(0.0), PLANES, MeshOptions(detail=16))  # type: ignore[arg-type]
    page = page_of(ball(0.0), PLANES, PageOfPicture(detail=16, frames=3))  # type: ignore[arg-type]
    assert "there is no solid: density stays below" in page and '"sheet"' in page


@pytest.mark.parametrize("opaque", [0.0, 1.0, 2.0])
def test_opaque_is_a_share(opaque: float) -> None:
    with pytest.raises(UserError, match="a share, above 0 and below 1"):
        mesh_of(ball(), PLANES, MeshOptions(opaque=opaque))  # type: ignore[arg-type]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_the_page_turns_in_a_browser(tmp_path: Path) -> None:
    asked = PageOfPicture(detail=24, frames=5)
    path = tmp_path / "page.html"
    path.write_text(page_of(ball(), PLANES, asked))  # type: ignore[arg-type]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--use-gl=angle",
                                            "--use-angle=swiftshader"]
        )  # fmt: skip
        page, said = browser.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_function("document.getElementById('where').textContent.includes('row 2')")
        before = {name: shot(page, name) for name in ("views", "mesh")}
        for name in before:
            drag(page, name)
        after = {name: shot(page, name) for name in before}
        told = [page.inner_text(f"#{name}") for name in ("where", "turn")]
        browser.close()
    assert said == [] and told[0] != "view 3 of 5, row 2 of 3" and "degrees" in told[1]
    for name, picture in before.items():
        assert np.abs(picture - after[name]).mean() > 0.5, name
    red, blue = before["mesh"][..., 0], before["mesh"][..., 2]
    middle = before["mesh"].shape[1] // 2
    assert (red - blue)[:, middle + 40].max() > 60 and (blue - red)[:, middle - 40].max() > 60


def shot(page: object, name: str) -> np.ndarray:
    data = page.locator(f"#{name}").screenshot()  # type: ignore[attr-defined]
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)


def drag(page: object, name: str) -> None:
    box = page.locator(f"#{name}").bounding_box()  # type: ignore[attr-defined]
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)  # type: ignore[attr-defined]
    page.mouse.down()  # type: ignore[attr-defined]
    page.mouse.move(x - 120, y + 10, steps=4)  # type: ignore[attr-defined]
    page.mouse.up()  # type: ignore[attr-defined]
