"""The demo without its minutes of training: stages, leftovers, reuse, figures, progress."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hvdm import config as configs
from hvdm.errors import RunError, UserError
from hvdm.progress import Progress
from launcher import compose
from launcher.arguments import call
from launcher.cli import main
from launcher.demo import children, demo, demos, quality
from launcher.doctor.checks import processes
from launcher.run_options import DemoOptions

ROOT = Path(__file__).resolve().parents[3]

# Stages


def test_a_stage_is_followed_and_its_output_kept(tmp_path):
    seen = []
    children.run(("models", "--help"), tmp_path / "logs" / "a.log", seen.append)
    assert "hvdm models" in (tmp_path / "logs" / "a.log").read_text()


def test_a_stage_that_fails_says_its_cause_and_where_the_rest_is(tmp_path):
    log = tmp_path / "a.log"
    with pytest.raises(RunError) as failure:
        children.run(("train", "config=nonsense"), log, lambda line: None)
    assert "config='nonsense' does not exist" in str(failure.value)
    assert str(log) in str(failure.value) and "goes on here" in str(failure.value)


# Starts a process that leaves a grandchild behind, which ignores polite requests.
LEAVES_BEHIND = """
import signal, subprocess, sys, time
from launcher.demo import children
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
start = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]])"
with children.keeping_house():
    subprocess.run([sys.executable, "-c", start, stubborn, sys.argv[1]], start_new_session=True)
    print("ready", flush=True)
    if sys.argv[2] == "wait":
        time.sleep(600)
"""


def marked(mark):
    return [pid for pid, command in processes() if mark in command and pid != os.getpid()]


def start(tmp_path, what):
    return subprocess.Popen(
        [sys.executable, "-c", LEAVES_BEHIND, str(tmp_path), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )


def test_what_children_leave_behind_is_ended(tmp_path, monkeypatch):
    done = start(tmp_path, "go")
    done.communicate(timeout=60)
    assert done.returncode == 0 and marked(str(tmp_path)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_process(tmp_path, number):
    started = start(tmp_path, "wait")
    assert started.stdout.readline() == "ready\n"
    started.send_signal(number)
    _, errors = started.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors and marked(str(tmp_path)) == []


# The verb


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The demo with stages that only note that they were asked for."""
    asked: list[str] = []

    def run(verb, log, watch):
        asked.append(" ".join(verb))
        watch("a line")

    figure = quality.Figure("motion", "so and so", True, {"ratio": 1.0})
    monkeypatch.setattr(children, "run", run)
    monkeypatch.setattr(children, "end_descendants", lambda: None)
    monkeypatch.setattr(demo, "figures", lambda told: [lambda out: figure])
    films = ("sheet.png", "0.mp4")
    monkeypatch.setattr(demo, "drawn", lambda asked: [Path(asked.run) / "a" / f for f in films])
    monkeypatch.setattr(demo, "evaluated", lambda run, protocol: None)
    return asked


def test_it_goes_from_clips_to_a_report_on_two_workers_with_deepspeed(quick, tmp_path, capsys):
    out = tmp_path / "elsewhere"
    assert call(demo.demo, [f"out={out}", "--json"]) == 0
    verbs = [line.split()[0] for line in quick]
    assert verbs == ["data", "train", "train", "sample", "evaluate", "evaluate", "report", "report"]
    for line in quick[1:3]:
        assert "engine=deepspeed" in line and "cluster.workers=2" in line
    assert f"first_stage={out}/autoencoder" in quick[2]
    answer = json.loads(capsys.readouterr().out)
    assert answer["met"] is True and answer["reports"][1] == f"{out}/diffusion/report.html"
    assert json.loads((out / "demo.json").read_text())["figures"] == answer["figures"]


def test_the_last_screen_says_what_was_made_and_what_next(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(demo.demo, []) == 0
    told = capsys.readouterr().out
    for part in ("runs/demo/diffusion/report.html  <- open it", "Try next:", "met     so and so"):
        assert part in told
    assert "$ hvdm train config=tiny/hvdm_autoencoder" in told


def test_a_finished_training_is_not_done_again(tmp_path, monkeypatch):
    config = compose.run_config("tiny/hvdm_autoencoder", [f"run={tmp_path}", "steps=3"])
    assert demo.trained(config) is None
    (tmp_path / "config.yaml").write_text(json.dumps(configs.plain(config)))
    found = type("Checkpoint", (), {"step": 3})
    monkeypatch.setattr(demo.checkpoint, "listed", lambda run: [found])
    monkeypatch.setattr(demo.checkpoint, "choose", lambda run, step: found)
    assert demo.trained(config) == "3 steps"
    longer = compose.run_config("tiny/hvdm_autoencoder", [f"run={tmp_path}", "steps=4"])
    assert demo.trained(longer) is None
    other = compose.run_config("tiny/hvdm_autoencoder", [f"run={tmp_path}", "steps=3", "batch=4"])
    with pytest.raises(UserError, match="another batch: 8, now 4; remove .* or give another out="):
        demo.trained(other)


def test_a_folder_that_takes_nothing_is_said_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="give out=DIR on a disk that can be written"):
        call(demo.demo, [f"out={tmp_path / 'file' / 'demo'}"])


# Files


@pytest.mark.parametrize(
    "more, cause",
    [([], "the models learned too little here"), (["steps=2"], "steps= or clips= made it smaller")],
)
def test_a_figure_that_is_missed_is_said_and_is_an_exit_code(
    quick, tmp_path, capsys, monkeypatch, more, cause
):
    short = quality.Figure("motion", "so and so", False, {"ratio": 0.1})
    kept = quality.Figure("distance", "so and so", True, {"ratio": 1.0})
    monkeypatch.setattr(demo, "figures", lambda told: [lambda out: short, lambda out: kept])
    assert main(["demo", f"out={tmp_path / 'out'}", *more]) == demo.MISSED == 3
    told = capsys.readouterr()
    assert "  NOT MET so and so\n  met     so and so" in told.out
    said = "hvdm: the demo ran, and 1 of its 2 figures are not met (motion): "
    assert told.err.splitlines()[-1] == said + cause


def test_the_words_of_our_demo():
    workers = "cluster=local cluster.workers=2 engine=deepspeed engine.zero=1"
    small = (
        "batch=4 micro_batch=4 samples=6656 optimizer.lr=1.5e-3 optimizer.warmup=256 "
        "optimizer.decay=[256,6656]"
    )
    trained = "train config=tiny/hvdm_{0} run=/o/{0} data.path=/o/shapes"
    fvd = "fvd/tf-reference@1"
    expected = [
        "data synthetic out=/o/shapes train=512 test=64 workers=2",
        f"{trained.format('autoencoder')} {small} {workers} steps=4",
        f"{trained.format('diffusion')} first_stage=/o/autoencoder {workers} steps=4",
        "sample run=/o/diffusion count=16",
        "evaluate run=/o/autoencoder protocol=reconstruction@1 clips=8 workers=2",
        f"evaluate run=/o/diffusion protocol={fvd} detector=untrained clips=8 workers=2",
        "report run=/o/autoencoder",
        "report run=/o/diffusion",
    ]
    path = demos.path_of("hvdm")
    made = demo.planned(DemoOptions(out="/o", steps=4, clips=8), path)
    assert [" ".join(stage.verb) for stage in made.stages] == expected
    as_it_is = demo.planned(DemoOptions(out="/o"), path)
    left = [line.replace(" steps=4", "").replace(" clips=8", "") for line in expected]
    assert [" ".join(stage.verb) for stage in as_it_is.stages] == left
    assert demo.planned(DemoOptions(), path).out == Path("runs/demo").absolute()


@pytest.mark.parametrize("name", demos.names())
def test_every_demo_has_words_that_its_verbs_know(name, tmp_path):
    """Configs compose with their keys, and figures are known: minutes are spent only then."""
    made = demo.planned(DemoOptions(out=str(tmp_path / "demo")), demos.path_of(name))
    for stage in made.stages:
        demo.readiness(stage)
    quality.figures(made.file.figures)
    assert made.told(made.file.made, tmp_path)


def test_demos_are_found_by_name_and_no_run_configs(capsys):
    assert {"hvdm", "pseudo_video", "wavediff"} <= set(demos.names())
    assert not any("demo" in name for name in compose.names())
    assert main(["demo", "--help"]) == 0
    assert "demos:\n  hvdm  HVDM: moving shapes" in capsys.readouterr().out
    assert main(["demo", "unheard"]) == 2
    assert "demo 'unheard' does not exist; choose from: hvdm" in capsys.readouterr().err
    assert main(["demo", "my/own.yaml"]) == 2
    assert "my/own.yaml: there is no such file" in capsys.readouterr().err


OWN = """
title: Toy
about: a toy family of one's own
out: runs/toy
stages:
- title: training
  run: toy
  ready: trained
  verb: [train, "config=${here}/toy.yaml", "run=${run}", data.path=SHAPES, cluster=inline,
    log.tensorboard=false, "steps=${steps}"]
- {title: samples, run: toy, ready: sampled, verb: [sample, "run=${run}", count=2, what=depth]}
- {title: report, run: toy, verb: [report, "run=${run}"]}
made: "a toy in ${out}/toy, depths in ${samples}"
next: hvdm report run=${out}/toy
"""


@pytest.fixture
def own(tmp_path, shapes, monkeypatch):
    """A demo and a config of the user's own, side by side; its verbs run in this process."""
    drawn = Path(__file__).parents[2] / "drawn"
    monkeypatch.syspath_prepend(str(drawn))
    monkeypatch.setattr(children, "run", lambda verb, log, watch: main(list(verb)))
    monkeypatch.setattr(children, "end_descendants", lambda: None)
    (tmp_path / "toy.yaml").write_text((drawn / "toy_kinds.yaml").read_text())
    (tmp_path / "demo.yaml").write_text(OWN.replace("SHAPES", str(shapes)))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "demo.yaml"


def test_a_demo_of_the_users_own_and_again(own, capsys):
    assert main(["demo", "demo.yaml", "steps=2"]) == 0
    told = capsys.readouterr().out
    assert "  a toy in runs/toy/toy, depths in runs/toy/toy/samples/step-00000002\n" in told
    answer = json.loads((own.parent / "runs/toy/demo.json").read_text())
    assert list(answer["stages"]) == ["training", "samples", "report"]
    assert answer["figures"] == [] and Path(answer["samples"]).name == "depth-seed-0-sheet.png"
    assert all(Path(path).is_file() for path in [answer["samples"], *answer["reports"]])
    assert main(["demo", str(own), "steps=2"]) == 0
    told = capsys.readouterr().out
    assert "[1/3 training] there already (2 steps)" in told
    assert "[2/3 samples] there already (2 samples)" in told


@pytest.mark.parametrize(
    "there, wrong, said",
    [
        ("ready: trained", "redy: trained", "unknown key 'stages[0].redy'; did you mean"),
        ("ready: trained", "ready: maybe", "stages[0].ready='maybe' is not known"),
        ("about:", "figures: {motoin: {}}\nabout:", "figures.motoin is not known; did you mean"),
        ("about:", "figures: {motion: {run: toy}}\nabout:", "figures.motion.films is missing"),
        ("${steps}", "${stepz}", "'stepz' is no name; there are ${"),
        ("${samples}", "${sample}", "'sample' is no name; there are ${out}, ${samples}"),
        ("run: toy, ready: sampled", "ready: sampled", "stage 'samples': a verb is needed"),
        ("count=2", "count=0", "count=0 is below 1"),
        ("/toy.yaml", "/toys.yaml", "toys.yaml: there is no such file"),
        ("title: Toy", "title: [Toy", "expected"),
        (OWN, "5", "title is missing"),
    ],
)
def test_a_wrong_file_is_said_in_one_line_and_first(own, capsys, there, wrong, said):
    own.write_text(own.read_text().replace(there, wrong) if there != OWN else wrong)
    assert main(["demo", str(own)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"hvdm: {own}: ") and said in error and error.count("\n") == 1
    assert not (own.parent / "runs").exists()


# Figures


def test_bounds_of_figures_are_the_files():
    found = quality.figures(demos.read(demos.path_of("hvdm")).figures)
    assert found == [
        quality.ReconstructionGain("autoencoder", "reconstruction@1", 2.0),
        quality.SampleDistance("diffusion", "fvd/tf-reference@1", "untrained", 0.5),
        quality.MotionRatio("diffusion", 16, 0.5, 2.0),
    ]


@pytest.fixture(scope="module")
def clips():
    """Uint8 `B T H W C`: squares that move over a gradient."""
    ramp = torch.linspace(40, 200, 32).to(torch.uint8)
    video = ramp[None, None, None, :, None].expand(6, 8, 32, 32, 3).clone()
    for b in range(6):
        for t in range(8):
            at = (3 * t + 4 * b) % 24
            video[b, t, at : at + 8, 8:16] = torch.tensor([250, 20 * b, 60], dtype=torch.uint8)
    return video


def test_a_thumbnail_has_no_fewer_values_than_the_latent(clips):
    for latent in (100, 2048, 2400, 2401, 10**9):
        (rows, columns), values = quality.thumbnail_size(clips, latent)
        assert values == 8 * rows * columns * 3
        assert values >= min(latent, 8 * 32 * 32 * 3)
    assert quality.thumbnail_size(clips, 2048)[0] == (10, 10)
    assert quality.thumbnails(clips, (32, 32)).equal(clips)
    assert quality.thumbnails(clips, (10, 10)).shape == clips.shape


def test_baselines_are_what_they_are_called(clips):
    flat = quality.flat_colours(clips)
    assert flat.shape == clips.shape and quality.moved(flat) == 0
    assert (flat.flatten(1, 3).float().std(1) == 0).all()
    smooth = quality.blur(clips)
    assert quality.moved(smooth) < quality.moved(clips)
    assert quality.blur(flat).equal(flat)


def test_farther_is_farther_for_the_detector(clips):
    assert quality.distance(clips, clips, "untrained") == pytest.approx(0, abs=1e-6)
    assert quality.distance(clips, quality.blur(clips), "untrained") > 0


def test_bounds_decide_what_is_met(clips, tmp_path, monkeypatch):
    coder = SimpleNamespace(latent_shape=(2048,))
    opened = SimpleNamespace(recipe=SimpleNamespace(coder=coder))
    measured = {"values": {"psnr": 60.0, "fvd": 1e-3}, "standard_error": {}}
    monkeypatch.setattr(quality.opening, "open_run", lambda run: opened)
    monkeypatch.setattr(quality, "held_out", lambda run: clips)
    monkeypatch.setattr(quality, "_measured", lambda run, protocol: measured)
    gain = quality.ReconstructionGain("a", "p", 2.0)(tmp_path)
    assert gain.met and gain.values["gain_db"] > 2 and "thumbnails of 10x10" in gain.text
    assert not quality.ReconstructionGain("a", "p", 60.0)(tmp_path).met
    near = quality.SampleDistance("a", "p", "untrained", 0.5)(tmp_path)
    assert near.met and near.text.startswith("untrained detector: samples 0.001,")
    assert not quality.SampleDistance("a", "p", "untrained", 0.0)(tmp_path).met
    measured["counts"] = {"clips": 9}
    value = quality.MeasuredValue("a", "p", "psnr", 60.0)(tmp_path)
    assert value.met and value.text.startswith("psnr of p: 60 over 9 samples, at least 60")
    assert not quality.MeasuredValue("a", "p", "psnr", 60.1)(tmp_path).met


def test_films_are_read_back_at_the_size_of_the_clips(clips, tmp_path):
    from hvdm.media.pictures import write_mp4

    paths = [tmp_path / f"{i}.mp4" for i in range(6)]
    for path, clip in zip(paths, clips):
        write_mp4(clip, path)
    found = quality.MotionRatio("diffusion", 6, 0.5, 2.0).of(clips, paths)
    assert found.met and found.values["ratio"] == pytest.approx(1, abs=0.1)


# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_file_is_lines_now_and_then():
    out = io.StringIO()
    progress = Progress(out)
    progress.begin("1/2 clips", "hvdm data synthetic")
    for k in range(100):
        progress.say(f"line {k}")
    progress.done("1/2 clips", "3 s")
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["[1/2 clips]", "    $ hvdm data synthetic"]
    assert lines[2:] == ["    line 0", "[1/2 clips] 3 s"]


def test_progress_on_a_terminal_is_one_line_that_moves():
    out = Terminal()
    progress = Progress(out)
    began = time.monotonic()
    progress.step({"step": 5, "steps": 10, "net/loss": 0.5, "net/grad_norm": 9, "seconds_left": 70})
    assert time.monotonic() - began < 1
    assert "##########.......... 5/10  1 min 10 s left  loss 0.5" in out.getvalue()
    assert "grad_norm" not in out.getvalue() and "\n" not in out.getvalue()
