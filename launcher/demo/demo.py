"""`hvdm demo`: from nothing to moving pictures and a number, in a few minutes on two CPU cores."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hvdm import opening
from hvdm.checkpoint import checkpoint
from hvdm.config import RunConfig, plain
from hvdm.errors import UserError
from hvdm.events import duration
from launcher import compose
from launcher.demo import children
from launcher.demo.quality import DETECTOR, DISTANCE, RECONSTRUCTION, Figure, figures
from launcher.progress import Progress
from launcher.run_options import DemoOptions
from launcher.workers.follow import Tail

WORKERS = ("cluster=local", "cluster.workers=2", "engine=deepspeed", "engine.zero=1")
CLIPS = ("train=512", "test=64", "workers=2")
SAMPLES = 16
SMALL_STEPS = (
    "batch=4", "micro_batch=4", "samples=6656",
    "optimizer.lr=1.5e-3", "optimizer.warmup=256", "optimizer.decay=[256,6656]",
)  # fmt: skip
"""So early in training steps count, not samples: the same PSNR in less time than the config's."""
MAY_CHANGE = (
    "cluster", "engine", "log", "checkpoint", "first_stage_config", "resume", "may_change",
    "stages_config", "from_data", "from_data_of",
)  # fmt: skip


@dataclass(frozen=True)
class DemoStage:
    """A verb with its arguments; `ready` says what is there already, or nothing."""

    title: str
    verb: tuple[str, ...]
    ready: Callable[[], str | None]
    run: Path | None = None


@dataclass
class Demo:
    out: Path
    steps: int | None
    clips: int | None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.out / "shapes"

    @property
    def autoencoder(self) -> Path:
        return self.out / "autoencoder"

    @property
    def diffusion(self) -> Path:
        return self.out / "diffusion"

    def stages(self) -> list[DemoStage]:
        sample = ("sample", f"run={self.diffusion}", f"count={SAMPLES}")
        return [
            DemoStage("clips", ("data", "synthetic", f"out={self.data}", *CLIPS), lambda: None),
            self._training("autoencoder", self.autoencoder, *SMALL_STEPS),
            self._training("diffusion", self.diffusion, f"first_stage={self.autoencoder}"),
            DemoStage("samples", sample, self._sampled),
            self._evaluation("reconstruction", self.autoencoder, RECONSTRUCTION),
            self._evaluation("distance", self.diffusion, DISTANCE, f"detector={DETECTOR}"),
            *(DemoStage("report", ("report", f"run={run}"), lambda: None) for run in self.runs),
        ]

    def _evaluation(self, name: str, run: Path, protocol: str, *more: str) -> DemoStage:
        """A job of its own on Ray, which reads the run's checkpoint."""
        clips = [f"clips={self.clips}"] if self.clips else []
        verb = ("evaluate", f"run={run}", f"protocol={protocol}", *more, *clips, "workers=2")
        return DemoStage(f"evaluation of {name}", verb, lambda: evaluated(run, protocol))

    @property
    def runs(self) -> tuple[Path, Path]:
        return (self.autoencoder, self.diffusion)

    def _training(self, name: str, run: Path, *more: str) -> DemoStage:
        config = f"tiny/hvdm_{name}"
        steps = [f"steps={self.steps}"] if self.steps else []
        overrides = [f"run={run}", f"data.path={self.data}", *more, *WORKERS, *steps]
        wanted = compose.run_config(config, overrides)
        verb = ("train", f"config={config}", *overrides)
        return DemoStage(name, verb, lambda: trained(wanted), run)

    def films(self) -> list[Path]:
        step = checkpoint.choose(self.diffusion, None).step
        folder = self.diffusion / "samples" / f"step-{step:08d}"
        return [folder / f"seed-0-{i:04d}.mp4" for i in range(SAMPLES)]

    def _sampled(self) -> str | None:
        return f"{SAMPLES} films" if all(film.is_file() for film in self.films()) else None


def trained(config: RunConfig) -> str | None:
    """How far the run is, where it has come to its end with just these settings."""
    run = Path(config.run)
    if not (run / opening.CONFIG_FILE).is_file() or not checkpoint.listed(run):
        return None
    then, now = plain(opening.read_config(run)), plain(config)
    changed = [k for k in now if k not in MAY_CHANGE and then.get(k) != now[k]]
    if changed and changed != ["steps"]:
        raise UserError(
            f"{run} was trained with another {changed[0]}: {then.get(changed[0])}, now "
            f"{now[changed[0]]}; remove {run.parent}, or give another out=DIR"
        )
    step = checkpoint.choose(run, None).step
    return f"{step} steps" if step >= config.total_steps else None


def evaluated(run: Path, protocol: str) -> str | None:
    from eval.report.report import evaluations

    weights = opening.open_run(run).weights_hash
    for result in evaluations(run):
        if result["protocol"] == protocol and result.get("weights") == weights:
            return f"{result['counts']['clips']} clips"
    return None


# The verb


def demo(asked: DemoOptions) -> int:
    out = Path(asked.out or "runs/demo").expanduser().absolute()
    made = Demo(out, asked.steps, asked.clips)
    began = time.monotonic()
    progress = Progress(sys.stderr if asked.json else sys.stdout)
    _write_test(made.out)
    with children.keeping_house():
        for number, stage in enumerate(all_stages := made.stages(), start=1):
            _do(made, stage, f"{number}/{len(all_stages)} {stage.title}", progress)
    found = figures(made.autoencoder, made.diffusion, made.films())
    answer = _answer(made, found, time.monotonic() - began)
    (made.out / "demo.json").write_text(json.dumps(answer, indent=1) + "\n")
    print(json.dumps(answer, indent=1) if asked.json else _last_screen(made, answer))
    return 0


def _write_test(out: Path) -> None:
    """A folder that cannot be written is said before minutes are spent."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".write-test").write_bytes(bytes(2**20))
        (out / ".write-test").unlink()
    except OSError as error:
        raise UserError(
            f"out={out}: {error.strerror}; give out=DIR on a disk that can be written and has "
            "about 1 GiB free"
        ) from None


def _do(made: Demo, stage: DemoStage, title: str, progress: Progress) -> None:
    began = time.monotonic()
    ready = stage.ready()
    if ready:
        progress.done(title, f"there already ({ready})")
        return
    progress.begin(title, f"hvdm {' '.join(stage.verb)}")
    log = made.out / "logs" / f"{title.replace(' ', '-').replace('/', '-of-')}.log"
    children.run(stage.verb, log, _watcher(stage, progress))
    made.seconds[stage.title] = round(time.monotonic() - began, 1)
    progress.done(title, duration(time.monotonic() - began))


def _watcher(stage: DemoStage, progress: Progress) -> Callable[[str], None]:
    """What a training says in its metrics, or else the newest line of the verb."""
    if stage.run is None:
        return progress.say
    metrics = Tail(stage.run / "metrics.jsonl")
    progress.say("starting Ray, two workers, DeepSpeed (its operator is built once: a minute)")

    def watch(line: str) -> None:
        rows = metrics.rows()
        if rows:
            progress.step(rows[-1])

    return watch


# What was made


def _answer(made: Demo, found: list[Figure], seconds: float) -> dict[str, Any]:
    return {
        "out": str(made.out),
        "seconds": round(seconds, 1),
        "stages": made.seconds,
        "figures": [asdict(figure) for figure in found],
        "met": all(figure.met for figure in found),
        "reports": [str(run / "report.html") for run in made.runs],
        "samples": str(made.films()[0].with_name("seed-0-sheet.png")),
    }


def _last_screen(made: Demo, answer: dict[str, Any]) -> str:
    sign = {True: "met    ", False: "NOT MET"}
    figures_told = [f"  {sign[row['met']]} {row['text']}" for row in answer["figures"]]
    return "\n".join(
        [
            "",
            f"Done in {duration(answer['seconds'])}. In {_short(made.out)} there are now:",
            f"  clips as shards         {_short(made.data)}",
            f"  an autoencoder          {_short(made.autoencoder)}",
            f"  a diffusion model       {_short(made.diffusion)}",
            f"  {SAMPLES} films made by it     {_short(Path(answer['samples']).parent)}",
            f"  two reports             {_short(made.diffusion)}/report.html  <- open it",
            f"                          {_short(made.autoencoder)}/report.html",
            "",
            "What the numbers say:",
            *figures_told,
            "",
            "Try next:",
            f"  hvdm sample run={_short(made.diffusion)} count=8 seed=1",
            f"  hvdm sample run={_short(made.diffusion)} what=image image=photo.jpg",
            f"  hvdm sample run={_short(made.diffusion)} what=dynamics motion=slow,fast",
            f"  hvdm sample run={_short(made.diffusion)} what=long frames=128 count=2",
            "  hvdm plan config=tiny/hvdm_diffusion gpus=8 gpu=h100",
            "  hvdm train config=tiny/hvdm_autoencoder data.path="
            f"{_short(made.data)} run=runs/mine model.width=96",
            f"  hvdm checkpoint list run={_short(made.diffusion)}",
            "  hvdm --help",
        ]
    )


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
