"""`hvdm data touch`: a video becomes a page that can be dragged, and it is looked at."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.synthetic.sway import sway_clip
from hvdm.media.h264 import encode_h264
from hvdm.media.touch import Feel, at_points, touch_page
from launcher.cli import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
MOVED = "() => Math.hypot(...touch.at({x}, {y}))"


def swaying(frames: int = 32, height: int = 96, width: int = 144) -> Any:
    return sway_clip(3, "train", 2, frames, height, width, 8)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("touch") / "sway.mp4"
    path.write_bytes(encode_h264(swaying().video, 8))
    return path


@pytest.fixture(scope="module")
def page(video: Path) -> Path:
    out = video.with_name("sway.html")
    assert main(["data", "touch", str(video), f"out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium (as .ci/run does)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def touched(browser: Any) -> Iterator[Any]:
    """Opens a page without a network, and hears of whatever goes wrong in it."""
    context = browser.new_context(viewport={"width": 800, "height": 700}, offline=True)
    opened, complaints = context.new_page(), []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda r: complaints.append(r.url) if r.url.startswith("http") else None)

    def show(page: Path) -> Any:
        opened.goto(page.as_uri())
        opened.wait_for_function("window.touch && touch.ready && touch.frames > 1")
        return opened

    yield show
    context.close()
    assert complaints == []


def where_it_moves() -> tuple[int, int]:
    """The pixel with the most motion, and not at the border."""
    flow = np.abs(np.load(_part("true_flow.npy"))).astype(np.float32).max((0, 1))
    flow[:12], flow[-12:], flow[:, :12], flow[:, -12:] = 0, 0, 0, 0
    y, x = np.unravel_index(flow.argmax(), flow.shape)
    return int(x), int(y)


def _part(name: str) -> Any:
    import io

    return io.BytesIO(swaying().parts[name])


def at(opened: Any, x: float, y: float) -> tuple[float, float]:
    """Of the picture, on the screen."""
    box = opened.locator("canvas").bounding_box()
    return box["x"] + x / 144 * box["width"], box["y"] + y / 96 * box["height"]


def test_it_follows_swings_and_comes_to_rest(page: Path, touched: Any) -> None:
    opened, (x, y) = touched(page), where_it_moves()
    still = opened.locator("canvas").screenshot()
    opened.mouse.move(*at(opened, x, y))
    opened.mouse.down()
    opened.mouse.move(*at(opened, x + 6, y), steps=3)
    opened.wait_for_function(f"() => touch.at({x}, {y})[0] > 3")
    assert opened.evaluate(f"touch.at({x}, {y})[0]") < 9
    assert opened.locator("canvas").screenshot() != still
    opened.mouse.up()
    begun = opened.evaluate("touch.energy")
    opened.wait_for_function(f"() => touch.at({x}, {y})[0] < 0", timeout=15000)
    assert opened.evaluate("touch.energy") < begun
    damping = opened.locator("input[name=damping]")
    damping.evaluate("e => { e.value = 4; e.dispatchEvent(new Event('input')); }")
    opened.wait_for_function(f"() => touch.energy < 1e-2 * {begun}", timeout=20000)


def test_a_tap_pokes_it(page: Path, touched: Any) -> None:
    opened, (x, y) = touched(page), where_it_moves()
    opened.mouse.click(*at(opened, x, y))
    opened.wait_for_function("() => touch.energy > 0")
    opened.wait_for_function(f"() => Math.abs(touch.at({x}, {y})[0]) > 0.2", timeout=15000)


def test_a_still_picture_stays_still(tmp_path: Path, touched: Any) -> None:
    picture = np.zeros((96, 144, 3), np.uint8)
    picture[20:60, 30:90] = (200, 120, 40)
    still = np.zeros((8, 2, 96, 144), np.complex64)
    path = tmp_path / "still.html"
    path.write_text(touch_page(picture, still, 32, 4.0, Feel()))
    opened = touched(path)
    before = opened.locator("canvas").screenshot()
    opened.mouse.move(*at(opened, 50, 40))
    opened.mouse.down()
    opened.mouse.move(*at(opened, 80, 60), steps=3)
    opened.mouse.up()
    opened.wait_for_timeout(300)
    assert opened.evaluate("touch.energy") == 0
    assert opened.locator("canvas").screenshot() == before


def test_points_of_the_mesh_are_those_of_the_spectrum() -> None:
    ramp = np.arange(24.0)[None, None, None, :] + 1j * np.arange(16.0)[None, None, :, None]
    found = at_points(np.repeat(ramp, 2, 1), 7, 9)
    assert found.shape == (1, 2, 7, 9)
    assert np.allclose(found[0, 0].real, np.linspace(0, 23, 9)[None])
    assert np.allclose(found[0, 0].imag, np.linspace(0, 15, 7)[:, None])


def test_what_is_no_still_video_is_refused(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = swaying(20).video
    shaking = np.stack([np.roll(one, 4 * (i % 3), 1) for i, one in enumerate(film)])
    frozen = np.repeat(film[:1], 20, 0)
    for name, frames, said in (
        ("shaking", shaking, "its camera moves"), ("frozen", frozen, "nothing in it moves"),
        ("short", film[:4], "has 4 frames, and modes need 16 or more"),
    ):  # fmt: skip
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(encode_h264(frames, 8))
        assert main(["data", "touch", str(path), f"out={tmp_path}/x.html"]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("no video")
    for name, said in (("notes.txt", "cannot be read as a video"), ("gone", "no such file")):
        assert main(["data", "touch", str(tmp_path / name), f"out={tmp_path}/x.html"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line
    assert not (tmp_path / "x.html").exists()
