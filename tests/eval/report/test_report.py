import io
import json
import re
import time
from dataclasses import replace

import av
import pytest
import torch
from PIL import Image

from eval.evaluate import Request, evaluate
from eval.protocol.protocol import PROTOCOLS, find
from eval.report import embedded
from eval.report.curves import Curve, Curves, chart
from eval.report.report import as_json, write_report
from hvdm.errors import UserError
from hvdm.events import JsonLines
from hvdm.media.pictures import contact_sheet, grid, strips, write_gif, write_mp4, write_previews

PARTS = (
    "time", "curves", "samples", "reconstructions", "evaluations", "events", "checkpoints",
    "config", "environment",
)  # fmt: skip


@pytest.fixture
def run(make_run):
    """A run with something of everything."""
    folder = make_run()
    lines = JsonLines(folder)
    for step in range(1, 30):
        lines.metrics(
            {"step": step, "steps": 29, "time": 1.0 * step, "samples": 4 * step,
             "net/loss": 10.0 / step**2, "net/grad_norm": float("nan"), "clips_per_s": 3.0}
        )  # fmt: skip
    lines.event({"event": "saved", "time": 2.0, "step": 4, "text": "<script>alert(1)</script>"})
    lines.close()
    evaluate(Request(str(folder), "reconstruction", clips=4), say=lambda text: None)
    evaluate(Request(str(folder), "fvd/tf-reference", "untrained", clips=4), say=lambda text: None)
    write_gif(torch.zeros(3, 8, 8, 3, dtype=torch.uint8), folder / "samples" / "clip.gif")
    return folder


def test_the_page_has_all_parts_and_loads_nothing(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = path.read_text()
    for part in PARTS:
        assert f'<section id="{part}">' in page
    assert "net/loss" in page and "<polyline" in page
    assert "psnr of reconstructions" in page and "not comparable" in page
    assert "data:image/png;base64," in page and "data:image/gif;base64," in page
    assert '<video src="data:video/mp4;base64,' in page
    assert "step-00000004" in page and "eval_toy_recipe" in page
    assert "prefers-color-scheme: dark" in page
    outside = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"""(?:src|href|action)=["']?(?:http|//)""", outside)
    assert outside.count("<script") == 1 and "&lt;script&gt;" in outside
    assert set(re.findall(r'(?:src|href)="(.{5})', outside)) == {"data:"}
    assert "fetch(" not in outside and "import(" not in outside and "url(" not in outside


def test_the_same_facts_for_programs(run):
    facts = json.loads(json.dumps(as_json(run)))
    assert facts["step"] == facts["steps"] == 29
    assert facts["metrics"]["net/loss"] == {"points": 29, "last": 10.0 / 29**2}
    assert [r["protocol"] for r in facts["evaluations"]] == [
        "fvd/tf-reference@1",
        "reconstruction@1",
    ]
    assert facts["checkpoints"][0]["step"] == 4
    assert "samples/clip.gif" in facts["samples"]


def test_the_ledger_of_wall_time(run):
    columns = {"compute": 18.0, "data": 1.0, "checkpoint": 0.5, "idle": 0.5}
    lines = JsonLines(run)
    start = time.time() + 1
    lines.event({"event": "launched", "time": start})
    lines.event({"event": "started", "time": start + 4, "step": 0})
    spent = {"from": start + 5, "to": start + 25, **columns}
    lines.event({"event": "finished", "time": start + 25, "step": 9, "spent": spent})
    lines.close()
    ledger = as_json(run)["ledger"]
    assert ledger["seconds"]["compute"] == 18.0 and ledger["launches"] == 1
    page = write_report(run).read_text()
    assert f"goodput {ledger['goodput']:.1%}" in page and "waiting for rows" in page


def test_an_empty_run_has_a_report_too(tmp_path):
    page = write_report(tmp_path).read_text()
    assert page.count('class="empty"') == len(PARTS)
    with pytest.raises(UserError, match="is no run folder"):
        write_report(tmp_path / "nothing")


def test_damaged_files_are_left_out(run):
    (run / "evaluations" / "broken.json").write_text("{")
    (run / "checkpoints" / "step-00000009").mkdir()
    (run / "samples" / ".part-x.png").write_bytes(b"")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "net/')
    facts = as_json(run)
    assert len(facts["evaluations"]) == 2 and len(facts["checkpoints"]) == 1
    assert facts["step"] == 29
    write_report(run)


def test_a_step_that_ran_twice_counts_once():
    rows = [{"step": 1, "n/loss": 5.0}, {"step": 2, "n/loss": 4.0}, {"step": 2, "n/loss": 3.0}]
    curves = Curves()
    list(curves.passing([*rows, {"step": 3, "n/loss": float("inf")}]))
    found = {name: curve.shown() for name, curve in curves.by_name().items()}
    assert found == {"n/loss": [(1, 5), (2, 3)]} and curves.furthest == 3


def curve_of(values):
    curve = Curve()
    for step, value in enumerate(values):
        curve.add(step, float(value))
    return curve


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [1e-6, 1e3], [-1.0, 0.0], [0.0, 0.0]])
def test_charts_of_any_values(values):
    drawn = chart("x/loss", curve_of(values))
    assert "nan" not in drawn and "inf" not in drawn


def test_long_curves_are_thinned_and_keep_their_end():
    drawn = chart("x/loss", curve_of(range(5000)))
    points = re.search(r'points="([^"]+)"', drawn).group(1).split()
    assert len(points) <= 602
    assert "<b>4999</b>" in drawn


def test_strips_show_original_reconstruction_and_difference(video):
    picture = Image.open(io.BytesIO(strips(video[:1], video[:1])))
    one = Image.open(io.BytesIO(contact_sheet(video[:1])))
    assert picture.width == one.width
    assert picture.height == 3 * one.height - 2 * 8
    assert picture.getpixel((40, picture.height - 20)) == (0, 0, 0)


def test_contact_sheet_wants_a_caption_for_each(video):
    assert contact_sheet(video, ["a", "b"])[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="1 captions for 2 clips"):
        contact_sheet(video, ["a"])
    with pytest.raises(UserError, match="uint8 B T H W 3"):
        contact_sheet(video.float())


def test_films_play_at_any_size(tmp_path):
    write_mp4(torch.full((5, 65, 71, 3), 200, dtype=torch.uint8), tmp_path / "a.mp4", fps=5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5 and frames[0].shape == (64, 70, 3)
    assert abs(int(frames[2].mean()) - 200) < 4


def test_pictures_are_shown_as_one_grid_for_each_checkpoint(tmp_path):
    made = torch.zeros(17, 1, 8, 8, 3, dtype=torch.uint8)
    for step in (4, 8):
        (path,) = write_previews(tmp_path, step, "samples", made, made)
        with Image.open(path) as sheet:
            assert sheet.size == (8 * 64 + 7 * 2, 3 * 64 + 2 * 2)
    folder = tmp_path / "step-00000008"
    folder.mkdir()
    for name in ("seed-0-0000", "seed-0-0001", "seed-0-sheet", "seed-1-0000"):
        (folder / f"{name}.png").write_bytes(grid(made[:1, 0]))
    names = [(shown.step, shown.path.name) for shown in embedded.found(tmp_path)]
    assert names == [
        (4, "samples-step-00000004.png"),
        (8, "samples-step-00000008.png"),
        (8, "seed-0-sheet.png"),
        (8, "seed-1-0000.png"),
    ]


def test_an_evaluation_shows_more_of_pictures_than_of_films(make_run, monkeypatch):
    whole = replace(find("fid"), name="toy/whole", groups=1)
    monkeypatch.setitem(PROTOCOLS, whole.full_name, whole)
    run = make_run(kind="generator")
    asked = Request(str(run), "toy/whole@1", "untrained", clips=21, frames=1)
    evaluate(asked, say=lambda text: None)
    with Image.open(run / "samples" / "samples-step-00000004.png") as sheet:
        assert sheet.width == 8 * 64 + 7 * 2
