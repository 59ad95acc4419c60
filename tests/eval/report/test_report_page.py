"""The report in a browser: what people see, not what the HTML says."""

import json
import shutil

import pytest
import torch

from eval.report import embedded
from eval.report.report import write_report
from hvdm.events import JsonLines
from hvdm.media.pictures import write_gif, write_mp4, write_previews

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip
STEPS = (40, 80, 120)


def moving(shift: int) -> torch.Tensor:
    """Four clips `B T H W C` of a square on its way."""
    video = torch.full((4, 8, 32, 32, 3), 40, dtype=torch.uint8)
    for t in range(8):
        at = (2 * t + shift) % 24
        video[:, t, at : at + 8, at : at + 8] = torch.tensor([220, 120, 60], dtype=torch.uint8)
    return video


def result(protocol: str, step: int, values: dict, **more) -> dict:
    return {
        "protocol": protocol, "step": step, "values": values, "fingerprint": "ab" * 32,
        "standard_error": dict.fromkeys(values, 0.3), "counts": {"clips": 16},
        "fields": {"protocol": protocol, "clips": 16, "video": {"frames": 8}}, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A run folder with something of everything."""
    run = tmp_path_factory.mktemp("runs") / "a-run"
    lines = JsonLines(run)
    lines.event({"event": "started", "time": 1.0, "step": 0, "engine": "local fp32", "workers": 2,
                 "versions": {"torch": "2.10.0"}})  # fmt: skip
    for step in range(1, 121):
        noise = 1 + 0.3 * (-1) ** step
        numbers = {"net/loss": noise * 5 / step**0.5, "net/psnr": 10 + step / 12}
        lines.metrics(
            {"step": step, "steps": 120, "samples": 8 * step, "clips_per_s": 11.0, **numbers}
        )
    lines.event({"event": "finished", "time": 2.0, "step": 120})
    lines.close()
    (run / "config.yaml").write_text("recipe: hvdm.autoencoder\nmodel: {width: 64}\n")
    (run / "evaluations").mkdir()
    for step in STEPS:
        write_previews(run / "samples", step, "reconstructions", moving(0), moving(1))
        folder = run / "samples" / f"step-{step:08d}"
        write_mp4(moving(step)[0], folder / "seed-0-0000.mp4")
        write_gif(moving(step)[0], folder / "seed-0-0000.gif")
        found = result("reconstruction@1", step, {"psnr": 20 + step / 40, "ssim": 0.7})
        (run / "evaluations" / f"{step}.json").write_text(json.dumps(found))
    return write_report(run)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium (as .ci/run does)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(params=[(400, "light"), (1600, "light"), (1600, "dark")], ids=str)
def page(request, browser, report):
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    opened, complaints = context.new_page(), []
    opened.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda r: complaints.append(r.url) if r.url.startswith("http") else None)
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert complaints == []


def test_pictures_and_films_have_a_size_and_nothing_overflows(page):
    page.wait_for_function("[...document.images].every((i) => i.complete)")
    sizes = page.eval_on_selector_all("img", "all => all.map((i) => i.naturalWidth)")
    assert len(sizes) == len(STEPS) and min(sizes) > 0
    films = "[...document.querySelectorAll('video')]"
    page.wait_for_function(f"{films}.every((v) => v.videoWidth > 0 && !v.error)")
    assert page.evaluate(f"{films}.length") == 2 * len(STEPS)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_newest_film_plays(page):
    film = "document.querySelector('#samples [data-step=\"120\"] video')"
    page.wait_for_function(f"{film}.currentTime > 0")


def test_the_slider_shows_one_checkpoint_at_a_time(page):
    def shown():
        seen = "all => all.filter((e) => e.offsetParent).map((e) => e.dataset.step)"
        return page.eval_on_selector_all("#reconstructions [data-step]", seen)

    slider = page.locator("#reconstructions input[type=range]")
    assert shown() == ["120"]
    slider.focus()
    slider.press("ArrowLeft")
    assert shown() == ["80"] and page.locator("#reconstructions output").text_content() == "80"
    slider.press("Home")
    assert shown() == ["40"]


def test_smoothing_changes_the_line_and_leaves_the_values(page):
    line = page.locator(".chart .line").first
    before, raw = line.get_attribute("points"), page.locator(".chart .raw").first
    smooth = page.locator("#smoothing")
    smooth.focus()
    smooth.press("Home")
    assert line.get_attribute("points") != before
    plain = [tuple(map(float, p.split(","))) for p in line.get_attribute("points").split()]
    drawn = [tuple(map(float, p.split(","))) for p in raw.get_attribute("points").split()]
    assert len(plain) == len(drawn)
    assert all(abs(a - c) < 0.11 and abs(b - d) < 0.11 for (a, b), (c, d) in zip(plain, drawn))


def test_a_point_tells_its_value(page):
    svg = page.locator(".chart svg").first
    svg.scroll_into_view_if_needed()
    svg.hover()
    assert page.locator(".chart .tip").first.text_content().startswith("step ")
    assert page.locator(".chart .tip").first.is_visible()


def test_error_bars_are_drawn_and_colours_follow_the_choice(page):
    assert page.locator("#evaluations .whisker").count() == 2 * len(STEPS)
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != before


def test_what_is_too_heavy_is_named(report, monkeypatch):
    found = embedded.found(report.parent / "samples")
    assert not any(m.name.endswith(".gif") for m in found)
    monkeypatch.setattr(embedded, "MOST_BYTES", sum(m.path.stat().st_size for m in found[-3:]))
    kept, left = embedded.within_weight(found)
    assert {m.step for m in kept} == {120} and len(kept) + len(left) == len(found)
