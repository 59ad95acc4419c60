"""`hvdm plan`: what fits on which GPU, how fast, how long; nothing is allocated."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from hvdm import building
from hvdm.config import RunConfig
from hvdm.errors import UserError, closest
from hvdm.events import duration
from hvdm.recipe import Recipe, group_of
from hvdm.train import optim
from launcher import compose
from launcher.arguments import overrides
from launcher.run_options import PlanOptions
from launcher.sizing import footprint
from launcher.sizing.footprint import Step

GIB = 2**30
STAGES = (0, 1, 2, 3)
RESERVE_GIB, USABLE = 1.5, 0.92
"""What CUDA, NCCL and the kernels take before the first tensor, and what fragmentation leaves."""
DAYS = 86_400


@dataclass(frozen=True)
class Gpu:
    """Memory as the driver shows it, and the maker's dense peak in TFLOP/s by precision."""

    gib: float
    bf16: float
    tf32: float
    fp32: float
    fp64: float


GPUS = {
    "a100": Gpu(80.0, 312, 156, 19.5, 9.7),
    "h100": Gpu(79.6, 989, 494.5, 67, 34),
    "h200": Gpu(140.4, 989, 494.5, 67, 34),
}


@dataclass(frozen=True)
class PlanRequest:
    config: RunConfig
    gpu: str
    mfu: float

    @property
    def usable(self) -> float:
        return GPUS[self.gpu].gib * USABLE - RESERVE_GIB


def plan(asked: PlanOptions) -> int:
    request = _request(asked)
    with FakeTensorMode():
        recipe = footprint.recipe_without_storage(request.config)
    steps = _steps(request.config)
    answer = _answer(request, recipe, steps)
    if asked.json:
        print(json.dumps(answer, indent=1))
    else:
        _tell(answer)
    _refuse_what_does_not_fit(request, answer)
    return 0


def _request(asked: PlanOptions) -> PlanRequest:
    if asked.gpu not in GPUS:
        raise UserError(f"gpu={asked.gpu!r} is not known; {closest(asked.gpu, GPUS)}")
    where = ["cluster=existing", f"cluster.workers={asked.gpus}", "cluster.gpus_per_worker=1"]
    config = compose.run_config(asked.config, [*where, *overrides(asked.keys)])
    if config.cluster.workers != asked.gpus:
        raise UserError(f"cluster.workers={config.cluster.workers}: say gpus=N instead")
    return PlanRequest(config, asked.gpu, asked.mfu)


def _steps(config: RunConfig) -> dict[str, Step | None]:
    """Without and with activation checkpointing, where the model offers it."""
    offers = hasattr(building.recipe_module(config.recipe).Config, "activation_checkpointing")
    return {
        "off": footprint.step(config, False if offers else None),
        "on": footprint.step(config, True) if offers else None,
    }


# The answer


def _answer(
    request: PlanRequest, recipe: Recipe, steps: Mapping[str, Step | None]
) -> dict[str, Any]:
    config = request.config
    nets = {name: sum(p.numel() for p in net.parameters()) for name, net in recipe.trained.items()}
    rows = [_stage(request, recipe, steps, stage) for stage in STAGES]
    return {
        "recipe": config.recipe,
        "gpus": config.cluster.workers,
        "gpu": request.gpu,
        "usable_gib": round(request.usable, 2),
        "precision": config.engine.precision,
        "batch": config.batch,
        "micro_batch": config.micro_batch,
        "parameters": nets,
        "frozen": {n: sum(p.numel() for p in net.parameters()) for n, net in recipe.frozen.items()},
        "zero": rows,
        "recommended": _recommended(config, rows, _most(config, group_of(recipe))),
        "chosen": config.engine.zero,
        "checkpointing": getattr(recipe, "config", None) is not None
        and bool(config.model.get("activation_checkpointing", False)),
        "activations": {k: None if s is None else asdict(s) for k, s in steps.items()},
        "speed": _speed(request, steps["off"]),
        "checkpoint_bytes": checkpoint_bytes(config, recipe),
    }


def _stage(
    request: PlanRequest, recipe: Recipe, steps: Mapping[str, Step | None], stage: int
) -> dict[str, Any]:
    try:
        engine = replace(request.config.engine, zero=stage)
        building.check_recipe(replace(request.config, engine=engine), recipe)
    except UserError as error:
        return {"stage": stage, "impossible": str(error)}
    state = footprint.state(request.config, recipe, stage)
    room = request.usable * GIB - state.total
    return {
        "stage": stage,
        "bytes": asdict(state),
        "total_bytes": state.total,
        "fits": room > 0,
        "largest_micro_batch": {k: _largest(s, room, request.config, group_of(recipe))
                                for k, s in steps.items()},
    }  # fmt: skip


def _largest(step: Step | None, room: float, config: RunConfig, group: int) -> int | None:
    """What fits, in whole groups, of what batch and workers leave one GPU."""
    if step is None:
        return None
    fitting = max(0, int((room - step.fixed) // step.per_clip))
    return min(fitting - fitting % group, _most(config, group))


def _most(config: RunConfig, group: int) -> int:
    """Rows of the batch that one GPU has."""
    return -(-config.batch // (config.cluster.workers * group)) * group


def _recommended(
    config: RunConfig, rows: Sequence[Mapping[str, Any]], most: int
) -> dict[str, Any] | None:
    """The largest micro-batch, at the lowest stage that has room for it; activations are computed
    twice only where not one clip fits otherwise.
    """
    for mode in ("off", "on"):
        sizes = {r["stage"]: r.get("largest_micro_batch", {}).get(mode) or 0 for r in rows}
        stage = max(sizes, key=lambda stage: (sizes[stage], -stage))
        if sizes[stage]:
            found = {"stage": stage, "micro_batch": sizes[stage], "checkpointing": mode == "on"}
            return {**found, "why": _why(config, stage, sizes[stage], mode, most)}
    return None


def _why(config: RunConfig, stage: int, size: int, mode: str, most: int) -> str:
    share = f"all that batch={config.batch} leaves a GPU" if size == most else "as many as fit"
    cheap = "whole networks fit" if stage == 0 else "no lower stage has room for as many"
    twice = "" if mode == "off" else "; without checkpointing not one clip fits"
    return f"{size} clips at once are {share}; {cheap}{twice}"


def _speed(request: PlanRequest, step: Step | None) -> dict[str, float] | None:
    if step is None:
        return None
    config = request.config
    name = "tf32" if config.engine.precision == "fp32" and config.engine.tf32 else None
    peak = getattr(GPUS[request.gpu], name or config.engine.precision) * 1e12
    per_step = step.operations * config.batch
    seconds = per_step / (config.cluster.workers * peak * request.mfu)
    return {
        "mfu": request.mfu,
        "peak_tflops": peak / 1e12,
        "multiply_adds_per_clip": step.operations / 2,
        "steps_per_second": 1 / seconds,
        "clips_per_second": config.batch / seconds,
        "steps": config.total_steps,
        "days": config.total_steps * seconds / DAYS,
    }


def checkpoint_bytes(config: RunConfig, recipe: Recipe) -> int:
    """Per element: the master weight, the optimizer's moments, and the average where it is kept."""
    width = 8 if config.engine.precision == "fp64" else 4
    kinds = 1 + len(optim.STATE[config.optimizer.name])
    return width * sum(
        sum(p.numel() for p in net.parameters()) * (kinds + (name in recipe.averaged))
        for name, net in recipe.trained.items()
    )


def _refuse_what_does_not_fit(request: PlanRequest, answer: Mapping[str, Any]) -> None:
    chosen = answer["zero"][answer["chosen"]]
    if "impossible" in chosen:
        raise UserError(chosen["impossible"])
    mode = "on" if answer["checkpointing"] else "off"
    most, wanted = chosen["largest_micro_batch"][mode], request.config.micro_batch
    wanted = min(wanted, -(-request.config.batch // request.config.cluster.workers))
    if most is None or most >= wanted:
        return
    raise UserError(
        f"micro_batch={wanted} does not fit with engine.zero={answer['chosen']} on one "
        f"{request.gpu} ({request.usable:.1f} GiB usable, {most} clips fit); {_way_out(answer)}"
    )


def _way_out(answer: Mapping[str, Any]) -> str:
    """The first change that helps."""
    own = answer["zero"][answer["chosen"]]["largest_micro_batch"]
    if any(own.values()):
        mode = "off" if own["off"] else "on"
        extra = "" if mode == "off" else " and model.activation_checkpointing=true"
        return f"use micro_batch={own[mode]}{extra}"
    for row in answer["zero"]:
        fitting = {k: v for k, v in row.get("largest_micro_batch", {}).items() if v}
        if fitting:
            mode, most = next(iter(fitting.items()))
            extra = "" if mode == "off" else " model.activation_checkpointing=true"
            return f"use engine=deepspeed engine.zero={row['stage']} micro_batch={most}{extra}"
    return "use more GPUs, GPUs with more memory, or a smaller model"


# For people


def _tell(answer: Mapping[str, Any]) -> None:
    counts = ", ".join(f"{n} {c / 1e6:,.1f} M" for n, c in answer["parameters"].items())
    print(f"{answer['recipe']}: {counts} parameters, {answer['precision']}")
    print(
        f"{answer['gpus']} x {answer['gpu']}, {answer['usable_gib']:.1f} GiB usable on each; "
        f"batch {answer['batch']}, micro_batch {answer['micro_batch']}\n"
    )
    print("        state per GPU, GiB                                  largest micro-batch")
    print("zero   weights  master  moments  grads  rest   total      plain   checkpointed")
    for row in answer["zero"]:
        print(_row(row, answer["chosen"]))
    _tell_step(answer)
    print(_advice(answer["recommended"]))


def _advice(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "nothing fits: use more GPUs, GPUs with more memory, or a smaller model"
    words = [f"micro_batch={found['micro_batch']}"]
    if found["stage"]:
        words = ["engine=deepspeed", f"engine.zero={found['stage']}", *words]
    if found["checkpointing"]:
        words.append("model.activation_checkpointing=true")
    return f"recommended: {' '.join(words)} ({found['why']})"


def _row(row: Mapping[str, Any], chosen: int) -> str:
    mark = "*" if row["stage"] == chosen else " "
    if "impossible" in row:
        return f"{row['stage']}{mark}     not possible: {row['impossible']}"
    b = row["bytes"]
    rest = b["average"] + b["frozen"] + b["buckets"]
    cells = (b["weights"], b["master"], b["moments"], b["gradients"], rest, row["total_bytes"])
    gib = "".join(f"{cell / GIB:8.2f}" for cell in cells)
    largest = "".join(f"{_count(n):>12}" for n in row["largest_micro_batch"].values())
    return f"{row['stage']}{mark}  {gib}{largest}{'' if row['fits'] else '  does not fit'}"


def _count(largest: int | None) -> str:
    return "not offered" if largest is None else str(largest)


def _tell_step(answer: Mapping[str, Any]) -> None:
    for name, step in answer["activations"].items():
        if step is not None:
            print(f"activations, checkpointing {name}: {step['per_clip'] / GIB:.3f} GiB per clip")
    speed = answer["speed"]
    if speed:
        print(
            f"\n{speed['multiply_adds_per_clip'] / 1e9:,.1f} G multiply-adds per clip, forward and "
            f"backward\nat {speed['mfu']:.0%} of {speed['peak_tflops']:g} TFLOP/s (mfu=): "
            f"{speed['steps_per_second']:.3g} steps/s, {speed['clips_per_second']:.3g} clips/s, "
            f"{speed['steps']:,} steps in {_time(speed['days'])}"
        )
    print(f"a checkpoint: {answer['checkpoint_bytes'] / GIB:.3f} GiB   (* the config's choice)")


def _time(days: float) -> str:
    return f"{days:.1f} days" if days >= 1 else duration(days * DAYS)
