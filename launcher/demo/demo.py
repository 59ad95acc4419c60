"""`hvdm demo`: the stages of a demo's file one by one, then its figures and its last screen."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any

from hvdm import opening
from hvdm.checkpoint import checkpoint
from hvdm.config import RunConfig, plain
from hvdm.errors import UserError
from hvdm.events import Tail, duration
from hvdm.progress import Progress
from launcher import compose
from launcher.arguments import overrides, parse, read
from launcher.demo import children, demos
from launcher.demo.demos import DemoFile, DemoStage
from launcher.demo.quality import Figure, figures
from launcher.run_options import DemoOptions, SampleOptions
from launcher.verbs.evaluation import EvaluateOptions
from launcher.verbs.runs import TrainOptions
from launcher.verbs.samples import folder_of, order_of

MISSED = 3
"""The exit code of a demo that ran, and missed a figure."""

MAY_CHANGE = (
    "cluster", "engine", "log", "checkpoint", "first_stage_config", "resume", "may_change",
    "stages_config", "from_data", "from_data_of", "held_out", "preview",
)  # fmt: skip


@dataclass
class Demo:
    file: DemoFile
    out: Path
    stages: list[DemoStage]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def reports(self) -> list[Path]:
        runs = [Path(stage.run) for stage in self.stages if stage.verb[0] == "report"]
        return [run / "report.html" for run in runs]

    @property
    def samples(self) -> list[SampleOptions]:
        return [sampling(stage) for stage in self.stages if stage.ready == "sampled"]

    def told(self, text: str, samples: Path) -> str:
        """Lines of the last screen."""
        known = {"out": _short(self.out), **({"samples": _short(samples)} if self.samples else {})}
        return indent(demos.fill(text.rstrip(), known), "  ")


def planned(asked: DemoOptions, path: Path) -> Demo:
    file = demos.read(path)
    out = Path(asked.out or file.out).expanduser().absolute()
    given = {"steps": asked.steps, "clips": asked.clips}
    names = {key: str(value) if value else None for key, value in given.items()}
    names |= {"out": str(out), "here": str(path.parent)}
    return Demo(file, out, [stage.filled(names) for stage in file.stages])


# What is there already


def readiness(stage: DemoStage) -> Callable[[], str | None]:
    """A wrong key or config of its verb is said here, before minutes are spent."""
    given = parse(stage.verb[1:])
    match stage.ready:
        case "trained":
            asked = read(TrainOptions, given)
            return partial(trained, compose.run_config(asked.config, overrides(asked.keys)))
        case "sampled":
            return partial(sampled, sampling(stage))
        case "evaluated":
            return partial(evaluated, Path(stage.run), read(EvaluateOptions, given).protocol)
        case "none":
            return lambda: None


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


def sampling(stage: DemoStage) -> SampleOptions:
    return read(SampleOptions, parse(stage.verb[1:]))


def drawn(asked: SampleOptions) -> list[Path]:
    """The sheet of these samples, and each of them in the first format that is asked for."""
    opened = opening.open_run(asked.run)
    folder = folder_of(asked, opened)
    order = order_of(asked, opened, folder)
    names = [f"{order.name(draw)}.{order.written[0]}" for draw in range(order.count)]
    return [order.sheet(folder), *(folder / name for name in names)]


def sampled(asked: SampleOptions) -> str | None:
    _, *files = drawn(asked)
    kind = "films" if files[0].suffix == ".mp4" else "samples"
    return f"{len(files)} {kind}" if all(file.is_file() for file in files) else None


# The verb


def demo(asked: DemoOptions) -> int:
    with demos.blaming(path := demos.path_of(asked.name)):
        made = planned(asked, path)
        measures = figures(made.file.figures)
        stages = [(stage, readiness(stage)) for stage in made.stages]
        made.told(made.file.made + made.file.next, made.out)
    began = time.monotonic()
    progress = Progress(sys.stderr if asked.json else sys.stdout)
    _write_test(made.out)
    with children.keeping_house():
        for number, (stage, ready) in enumerate(stages, start=1):
            _do(made, stage, ready(), f"{number}/{len(stages)} {stage.title}", progress)
    found = [measure(made.out) for measure in measures]
    answer = _answer(made, found, time.monotonic() - began)
    (made.out / "demo.json").write_text(json.dumps(answer, indent=1) + "\n")
    print(json.dumps(answer, indent=1) if asked.json else _last_screen(made, answer))
    if answer["met"]:
        return 0
    print(f"hvdm: {_missed(asked, found)}", file=sys.stderr)
    return MISSED


def _missed(asked: DemoOptions, found: Sequence[Figure]) -> str:
    names = [figure.name for figure in found if not figure.met]
    smaller = asked.steps is not None or asked.clips is not None
    cause = "steps= or clips= made it smaller" if smaller else "the models learned too little here"
    return (
        f"the demo ran, and {len(names)} of its {len(found)} figures are not met "
        f"({', '.join(names)}): {cause}"
    )


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


def _do(made: Demo, stage: DemoStage, ready: str | None, title: str, progress: Progress) -> None:
    began = time.monotonic()
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
    progress.say(stage.says)
    if stage.ready != "trained":
        return progress.say
    metrics = Tail(Path(stage.run) / "metrics.jsonl")

    def watch(line: str) -> None:
        rows = metrics.rows()
        if rows:
            progress.step(rows[-1])

    return watch


# What was made


def _answer(made: Demo, found: list[Figure], seconds: float) -> dict[str, Any]:
    sheet = drawn(made.samples[0])[0] if made.samples else None
    return {
        "out": str(made.out),
        "seconds": round(seconds, 1),
        "stages": made.seconds,
        "figures": [asdict(figure) for figure in found],
        "met": all(figure.met for figure in found),
        "reports": [str(report) for report in made.reports],
        "samples": str(sheet) if sheet else None,
    }


def _last_screen(made: Demo, answer: dict[str, Any]) -> str:
    sign = {True: "met    ", False: "NOT MET"}
    samples = Path(answer["samples"] or "").parent
    return "\n".join(
        [
            "",
            f"Done in {duration(answer['seconds'])}. In {_short(made.out)} there are now:",
            made.told(made.file.made, samples),
            "",
            "What the numbers say:",
            *(f"  {sign[row['met']]} {row['text']}" for row in answer["figures"]),
            "",
            "Try next:",
            made.told(made.file.next, samples),
        ]
    )


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
