"""A training run from its folder: begin or resume, train, save, and say what happened."""

import functools
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from hvdm import building, dist, identity, opening
from hvdm import config as configs
from hvdm.checkpoint import checkpoint, places
from hvdm.config import Resume, RunConfig
from hvdm.data.loader import Loader
from hvdm.disk import atomic_write
from hvdm.errors import RunError, UserError
from hvdm.events import (
    Console,
    JsonLines,
    Reporter,
    Sink,
    TensorBoard,
    WeightsAndBiases,
    newest_first,
    read_lines,
)
from hvdm.nets import attention
from hvdm.recipe import Recipe, part_of
from hvdm.run import account, claims, resuming, stopping
from hvdm.run.ledger import ledger, told
from hvdm.run.steps import Steps
from hvdm.train import part
from hvdm.train.loop import Session

PACKAGES = ("torch", "deepspeed", "ray", "webdataset", "decord", "xformers", "torch-fidelity")


@dataclass(frozen=True)
class Outcome:
    """The last step, and why it is not the end of the run: one of `stopping.REASONS`."""

    step: int
    reason: str

    @property
    def finished(self) -> bool:
        return not self.reason


def train(
    config: RunConfig,
    sinks: Sequence[Sink] | None = None,
    sources: Sequence[stopping.StopSource] = (),
) -> Outcome:
    """Trains on this process's rank, from the newest checkpoint of the run folder if it has one.

    What people read goes to `sinks`, by default the console; the run's files are always written.
    Signals of this process stop it after a step, and so do the reasons that `sources` give.
    """
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    shown = [Console()] if sinks is None else list(sinks)
    say = functools.partial(note, run, shown)
    with (
        _prepared(config, say) as device,
        _report(config, run, shown) as report,
        dist.kept_together(),
        claimed(run) as held,
        building.build_loader(config, config.data.train) as loader,
    ):
        _check_sizes(loader)
        resuming.from_main(lambda: identity.check_latents(config, loader))
        places.know(config.checkpoint.path)
        resuming.from_main(lambda: places.move_checkpoints(run, config.checkpoint.path))
        config = resuming.from_main(lambda: identity.with_data(config, loader))
        with _timed("networks and engine", say):
            session = _session(config, device, report)
        return _train(session, loader, run, say, [*sources, held])


def _check_sizes(loader: Loader) -> None:
    """Stops all ranks before the first step; each asks for a share of the shards."""
    found = dist.all_gather(loader.size_problem((dist.rank(), dist.world())))
    if problem := next(filter(None, found), None):
        raise RunError(problem)


def _session(config: RunConfig, device: torch.device, report: Reporter) -> Session:
    recipe = building.build_recipe(config, opening.stages_of(config, device))
    for nets in (recipe.trained, recipe.frozen):
        nets.to(device=device, dtype=torch.get_default_dtype())
        building.lay_out(config, nets)
    recipe.frozen.eval().requires_grad_(False)
    _warm_start(config, recipe)
    engines = building.build_engines(config, recipe)
    averages = building.build_averages(config, recipe, engines)
    return Session(config, recipe, engines, averages, device, report)


def _warm_start(config: RunConfig, recipe: Recipe) -> None:
    """From another run's weights, but for networks that the recipe says begin later."""
    if config.init is None:
        return
    run, step = opening.split_reference(config.init)
    found = checkpoint.choose(run, step)
    later = getattr(recipe, "untrained_at_start", ())
    for name, module in recipe.trained.items():
        if name not in found.nets:
            if name in later:
                continue
            have = ", ".join(found.nets)
            raise UserError(f"init={config.init} has no network {name!r}; it has: {have}")
        try:
            part.fill(module, part_of(recipe, name), checkpoint.weights(found, name, averaged=True))
        except RuntimeError as error:
            line = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise UserError(f"init={config.init} does not fit network {name!r}: {line}") from None


def _train(
    session: Session,
    loader: Loader,
    run: Path,
    say: Callable[[str], None],
    sources: Sequence[stopping.StopSource],
) -> Outcome:
    began = time.monotonic()
    config, total = session.config, session.config.total_steps
    same = resuming.from_main(lambda: identity.identity(config, loader))  # it hashes manifests
    found = resuming.resume(session, run, same, say)
    first = found.step if found else 0
    if found:
        loader.remember(found.manifest.get("substitutions", []))
    if first >= total:
        if dist.is_main():
            say(f"{run} is finished: {first} of {total} steps. steps=N trains it further")
        return Outcome(first, "")
    _describe(session, run)
    _tell_start(session, found, began)
    ready = time.monotonic()
    with checkpoint.Saver(
        run, session.engines, session.averages, config.checkpoint, session.report
    ) as saver:
        if found:
            saver.verified(found.manifest.get("sha256"))
        steps = Steps(
            session,
            loader,
            saver,
            contents=lambda step: _contents(session, loader, step, same),
            sources=sources,
            after_first=lambda step: _tell_recovery(session, step, ready),
        )
        last, reason = steps.run(first, run)
        spent = steps.finish()
    _tell_end(session, last, reason, spent)
    return Outcome(last, reason)


def _contents(session: Session, loader: Loader, step: int, same: Mapping[str, Any]) -> Any:
    """What a checkpoint holds besides the state of the networks."""
    config = session.config
    return {
        "identity": same,
        "stages": opening.runs_below(config),
        "cursor": {"seed": config.seed, "draw": step * config.batch},
        "config": configs.digest(configs.plain(config)),
        "engine": engine_name(config),
        "commit": commit(),
        "versions": versions(),
        "substitutions": loader.substitutions(),
    }


# The process around it


@contextmanager
def _prepared(config: RunConfig, say: Callable[[str], None]) -> Iterator[torch.device]:
    """Device, threads, precision and process group, put back as they were afterwards."""
    device = device_of(config)
    before = (torch.get_default_dtype(), torch.get_num_threads())
    torch.set_num_threads(config.engine.threads)
    torch.set_default_dtype(torch.float64 if config.engine.precision == "fp64" else torch.float32)
    if device.type == "cuda":
        _set_up_cuda(config, device)
    joined = dist.start(device, config.cluster.timeout_s)
    try:
        if config.engine.name == "deepspeed":
            with _timed("DeepSpeed and its operator", say):
                _prepare_deepspeed(config, device, say)
        yield device
    finally:
        torch.set_default_dtype(before[0])
        torch.set_num_threads(before[1])
        if joined:
            dist.stop()


def _prepare_deepspeed(config: RunConfig, device: torch.device, say: Callable[[str], None]) -> None:
    from hvdm.train import zero

    zero.prepare(device, config.cluster.timeout_s, say)


def device_of(config: RunConfig) -> torch.device:
    if config.cluster.gpus_per_worker == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"cluster.gpus_per_worker={config.cluster.gpus_per_worker:g} asks for a GPU and "
            f"{platform.node()} has none that torch can use; set cluster.gpus_per_worker=0"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def _set_up_cuda(config: RunConfig, device: torch.device) -> None:
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = config.engine.tf32
    torch.backends.cudnn.allow_tf32 = config.engine.tf32
    if config.engine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def note(run: Path, shown: Sequence[Sink], text: str) -> None:
    """A remark for people, kept with the run's events."""
    for sink in (JsonLines(run), *shown):
        sink.event({"event": "note", "time": time.time(), "text": text})


@contextmanager
def _report(config: RunConfig, run: Path, shown: Sequence[Sink]) -> Iterator[Reporter]:
    sinks: list[Sink] = []
    if dist.is_main():
        sinks = [JsonLines(run), *shown]
        if config.log.tensorboard:
            sinks.append(TensorBoard(run))
        if config.log.wandb:
            sinks.append(WeightsAndBiases(run, configs.shown(config)))
    reporter = Reporter(sinks)
    try:
        yield reporter
    finally:
        reporter.close()


@contextmanager
def claimed(run: Path) -> Iterator[stopping.StopSource]:
    """One job at a time trains a run folder; gives what stops one that was cut off from it."""
    with ExitStack() as stack:
        held: list[claims.Claim] = []
        resuming.from_main(lambda: held.append(stack.enter_context(claims.claim(run / ".lock"))))
        yield held[0].hold if held else lambda: ""


# What the run says of itself


@contextmanager
def _timed(what: str, say: Callable[[str], None]) -> Iterator[None]:
    began = time.monotonic()
    yield
    if dist.is_main():
        say(f"{what}: {time.monotonic() - began:.1f} s")


def _describe(session: Session, run: Path) -> None:
    if dist.is_main():
        config = replace(session.config, resume=Resume("auto"))
        text = yaml.safe_dump(configs.shown(config), sort_keys=False)
        atomic_write(run / opening.CONFIG_FILE, text)


def _tell_start(session: Session, found: checkpoint.Checkpoint | None, began: float) -> None:
    run = Path(session.config.run)
    now = {**_environment(session), "seconds": round(time.monotonic() - began, 3)}
    lost = account.steps_lost(run, found.step if found else 0) if dist.is_main() else 0
    more: dict[str, Any] = {"lost_steps": lost} if lost else {}
    if found is None:
        session.report.event("started", step=0, **now, **more)
        return
    then = {"workers": found.manifest["world"], "engine": found.manifest.get("engine")}
    changed = {key: [then[key], now[key]] for key in then if then[key] not in (None, now[key])}
    if changed:
        more["changed"] = changed
    session.report.event("resumed", step=found.step, **now, **more)


def _tell_recovery(session: Session, step: int, ready: float) -> None:
    """After the first step: its seconds, and those since a loss of a worker that it made good."""
    if not dist.is_main():
        return
    took = time.monotonic() - ready
    session.report.event("note", step=step, text=f"first batch and first step: {took:.1f} s")
    lost = account.lost_at(newest_first(Path(session.config.run) / "events.jsonl"))
    if lost is not None:
        session.report.event("recovered", step=step, seconds=round(time.time() - lost, 3))


def _tell_end(session: Session, last: int, reason: str, spent: Mapping[str, float]) -> None:
    if reason:
        session.report.event("stopped", step=last, reason=reason, spent=spent)
    else:
        session.report.event("finished", step=last, spent=spent)
    if dist.is_main():
        run = Path(session.config.run)
        found = ledger(read_lines(run / "events.jsonl"), read_lines(run / "metrics.jsonl"))
        if found is None:  # its lines were lost
            return
        session.report.event("ledger", step=last, text=told(found), **found)


def _environment(session: Session) -> dict[str, Any]:
    config = session.config
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.get_default_dtype()
    return {
        "steps": config.total_steps,
        "workers": dist.world(),
        "engine": engine_name(config),
        "device": str(session.device),
        "attention": attention.backend(session.device, dtype, 64),
        "threads": torch.get_num_threads(),
        "parameters": {
            name: sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters())
            for name, module in session.recipe.trained.items()
        },
        "commit": commit(),
        "versions": versions(),
    }


def engine_name(config: RunConfig) -> str:
    stage = f" ZeRO-{config.engine.zero}" if config.engine.name == "deepspeed" else ""
    return f"{config.engine.name}{stage} {config.engine.precision}"


@functools.cache
def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def commit() -> str | None:
    """The commit of the code, where it runs from a checkout; `-dirty` where files have changed."""
    here = Path(__file__).resolve().parent
    words = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        asked = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None
