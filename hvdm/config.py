"""Typed, frozen configs of a run: a mapping goes in at the door, nothing untyped passes it."""

import dataclasses
import hashlib
import json
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

from hvdm.errors import UserError, closest
from hvdm.options import key_of
from hvdm.redaction import redacted

Samples = NewType("Samples", int)
"""A duration. People think in samples, so a change of batch size moves no schedule."""

Resume = NewType("Resume", str)
"""`auto`, `must`, `never`, or a step."""

T = TypeVar("T")
_SUFFIX = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6}


@dataclass(frozen=True)
class DataConfig:
    path: str
    train: str = "train"
    held_out: str = "test"
    frames: int = 8
    height: int = 32
    width: int = 32
    stride: int = 1
    lanes: int = 64
    window: int = 256
    max_stride: int | None = None
    crop: Literal["centre", "random"] = "centre"
    crop_scale: float = 1.0
    flip: float = 0.0
    turn: float = 0.0
    short: Literal["refuse", "pad"] = "refuse"
    mix: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    threads: int = 2
    ahead: int = 2
    pool: Literal["threads", "processes"] = "threads"
    decoder: str = "decord"
    damaged: float = 0.01
    stall_s: float = 300.0
    timeout_s: float = 60.0
    outage_s: float = 180.0
    cache: str | None = None
    cache_gb: float = 100.0
    log_keys: bool = False


@dataclass(frozen=True)
class OptimizerConfig:
    name: Literal["adamw", "sgd"]
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    momentum: float = 0.9
    clip: float | None = None
    warmup: Samples = Samples(0)
    decay: tuple[Samples, Samples] | None = None
    schedule: Literal["constant", "linear", "cosine"] | None = None
    floor: float | None = None
    of: Mapping[str, Any] = field(default_factory=dict)

    def of_net(self, net: str) -> "OptimizerConfig":
        """With what `of` says otherwise for this network."""
        where = f"optimizer.of.{net}"
        own = self.of.get(net, {})
        if not isinstance(own, Mapping):
            raise _wrong(where, "a group of keys", own)
        if "of" in own:
            raise UserError(f"{where}.of: a network has no networks of its own; leave it out")
        return parse(OptimizerConfig, {**plain(self), **own, "of": {}}, where)


@dataclass(frozen=True)
class EngineConfig:
    name: Literal["local", "deepspeed"]
    zero: int = 0
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    bucket_mb: int = 25
    threads: int = 1
    deterministic: bool = True
    tf32: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class ClusterConfig:
    name: Literal["inline", "local", "existing"]
    workers: int = 1
    fewest_workers: int | None = None
    resize_s: float = 60.0
    spares: bool = False
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    address: str | None = None
    max_failures: int = 3
    timeout_s: int = 300


@dataclass(frozen=True)
class EmaConfig:
    decay: float = 0.9999
    every: int = 1
    warmup: bool = True


@dataclass(frozen=True)
class CheckpointConfig:
    every: Samples = Samples(4096)
    keep: int = 3
    keep_every: Samples | None = None
    pinned: tuple[int, ...] = ()
    path: str | None = None
    asynchronous: bool = True
    failures: int = 3


@dataclass(frozen=True)
class HeldOutConfig:
    every: Samples = Samples(0)
    clips: int = 64


@dataclass(frozen=True)
class PreviewConfig:
    every: Samples = Samples(0)
    count: int = 2
    seed: int = 0


@dataclass(frozen=True)
class LogConfig:
    every: Samples = Samples(64)
    tensorboard: bool = True
    wandb: bool = False


@dataclass(frozen=True)
class RunConfig:
    recipe: str
    model: Mapping[str, Any]
    data: DataConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    cluster: ClusterConfig
    batch: int
    micro_batch: int
    samples: Samples
    run: str
    steps: int | None = None
    seed: int = 0
    first_stage: str | None = None
    first_stage_config: str | None = None
    stages: Mapping[str, str] = field(default_factory=dict)
    stages_config: Mapping[str, str] = field(default_factory=dict)
    init: str | None = None
    from_data: Mapping[str, Any] = field(default_factory=dict)
    from_data_of: str | None = None
    resume: Resume = Resume("auto")
    may_change: tuple[str, ...] = ()
    skips_allowed: int = 10
    ema: EmaConfig = field(default_factory=EmaConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)

    @property
    def total_steps(self) -> int:
        return self.steps if self.steps is not None else steps_of(self.samples, self.batch)

    def check(self) -> None:
        """Every rule that crosses fields; each refusal names the key to change."""
        for rule in (
            _positive_rule,
            _optimizer_rule,
            _zero_rule,
            _precision_rule,
            _worker_rule,
            _found_rule,
        ):
            problem = rule(self)
            if problem:
                raise UserError(problem)


def _found_rule(config: RunConfig) -> str | None:
    """Recipes calculate with it, and a run folder may be anybody's."""
    for name, value in config.from_data.items():
        if not _is_numeric(value):
            return f"from_data.{name} is neither a number nor a list of them; it is the run's own"
    return None


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_numeric, value))
    return isinstance(value, int | float)


def _positive_rule(config: RunConfig) -> str | None:
    counts = {
        "batch": config.batch,
        "micro_batch": config.micro_batch,
        "cluster.workers": config.cluster.workers,
        "data.frames": config.data.frames,
        "data.height": config.data.height,
        "data.width": config.data.width,
        "data.stride": config.data.stride,
        "data.lanes": config.data.lanes,
        "data.window": config.data.window,
        "engine.threads": config.engine.threads,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep": config.checkpoint.keep,
        "held_out.clips": config.held_out.clips,
        "preview.count": config.preview.count,
    }
    for key, value in counts.items():
        if value < 1:
            return f"{key}={value} is below 1"
    if config.total_steps < 1:
        key = "samples" if config.steps is None else "steps"
        return f"{key} gives no training step: it is below one batch ({config.batch} samples)"
    return None


def _optimizer_rule(config: RunConfig) -> str | None:
    whole = config.optimizer
    each = {"optimizer": whole, **{f"optimizer.of.{net}": whole.of_net(net) for net in whole.of}}
    return next((text for key, one in each.items() if (text := _schedule_rule(key, one))), None)


def _schedule_rule(key: str, optimizer: OptimizerConfig) -> str | None:
    warmup, decay, schedule = optimizer.warmup, optimizer.decay, optimizer.schedule
    if decay and not warmup <= decay[0] < decay[1]:
        return (
            f"{key}.decay={list(decay)}: two rising counts of samples, the first at or after "
            f"{key}.warmup={warmup}"
        )
    if schedule == "constant" and decay:
        return f"{key}.schedule=constant falls nowhere: leave out {key}.decay={list(decay)}"
    if schedule in ("linear", "cosine") and not decay:
        return f"{key}.schedule={schedule} needs {key}.decay=[FIRST,LAST], counts of samples"
    if optimizer.floor is not None and not (decay and 0 <= optimizer.floor <= 1):
        return f"{key}.floor={optimizer.floor}: the share of lr, 0 to 1, that {key}.decay leaves"
    return None


def _zero_rule(config: RunConfig) -> str | None:
    engine = config.engine
    if engine.zero not in (0, 1, 2, 3):
        return f"engine.zero={engine.zero} is no ZeRO stage; choose from: 0, 1, 2, 3"
    if engine.name == "local" and engine.zero:
        return f"engine.zero={engine.zero} needs engine=deepspeed; engine=local shares no state"
    return None


def _precision_rule(config: RunConfig) -> str | None:
    if config.engine.precision == "fp64" and config.engine.name != "local":
        return "engine.precision=fp64 needs engine=local; DeepSpeed keeps its weights in fp32"
    return None


def _worker_rule(config: RunConfig) -> str | None:
    workers, batch = config.cluster.workers, config.batch
    if workers > batch:
        return f"cluster.workers={workers} leaves workers without a row: batch={batch} is smaller"
    if config.cluster.name == "inline" and workers != 1:
        return f"cluster.workers={workers} needs cluster=local or existing; inline is one process"
    fewest = config.cluster.fewest_workers
    if fewest is not None and not 1 <= fewest <= workers:
        return f"cluster.workers={fewest}..{workers} is no range; for example 2..8"
    return None


def steps_of(samples: int, batch: int) -> int:
    """The step by which this many samples have been seen."""
    return -(-samples // batch)


def load(mapping: Mapping[str, Any]) -> RunConfig:
    config = parse(RunConfig, mapping)
    config.check()
    return config


def renewed(then: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config, or a checkpoint's identity, in today's keys where it is older."""
    groups = (then.get("data", {}), then.get("model", {}))
    if not all(isinstance(group, Mapping) for group in groups):
        return dict(then)  # whoever parses it says what is wrong
    data, model = map(dict, groups)
    if before := data.pop("before", 0):
        model["before"] = before
    return {**then, "data": {**_LATER, **data}, "model": model} if data else dict(then)


_LATER = {"turn": 0.0}
"""Keys that older files are without, and what they meant."""


def parse(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """A frozen dataclass from a mapping; a wrong key or value is named with its way out.

    Words of the command line are taken for the values that they spell: `8`, `true`, `a,b`.
    """
    hints = get_type_hints(cls)
    fields = {key_of(f): f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            known = [_join(where, name) for name in fields]
            raise UserError(
                f"unknown key {_join(where, key)!r}; {closest(_join(where, key), known)}"
            )
    for key, f in fields.items():
        required = f.default is f.default_factory is dataclasses.MISSING
        if required and key not in mapping:
            raise UserError(_missing(_join(where, key), f.metadata, hints[f.name]))
    values = {}
    for key, value in mapping.items():
        f, whole = fields[key], _join(where, key)
        read, least = f.metadata.get("read"), f.metadata.get("least")
        found = read(whole, value) if read else _convert(hints[f.name], value, whole)
        if least is not None and found is not None and found < least:
            raise UserError(f"{whole}={value} is below {least}")
        values[f.name] = found
    return cls(**values)


def _missing(key: str, metadata: Mapping[str, Any], kind: Any) -> str:
    if example := metadata.get("example"):
        return f"{key}= is missing; for example {key}={example}"
    return f"{key} is missing; expected {_name(kind)}"


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _optional(kind, value, where)
    if origin is Literal:
        return _literal(kind, value, where)
    if origin is tuple:
        return _tuple(kind, value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise _wrong(where, "a group of keys", value)
        return parse(kind, value, where)
    if kind is Samples:
        return _samples(value, where)
    if kind is Resume:
        return _resume(value, where)
    if isinstance(origin or kind, type) and issubclass(origin or kind, Mapping):
        return _mapping(kind, value, where)
    return _scalar(kind, value, where)


def _mapping(kind: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, "a group of keys", value)
    _, inner = get_args(kind) or (str, Any)
    if inner is Any:
        return dict(value)
    return {key: _convert(inner, item, _join(where, key)) for key, item in value.items()}


def _optional(kind: Any, value: Any, where: str) -> Any:
    if value is None:
        return None
    (inner,) = [arg for arg in get_args(kind) if arg is not type(None)]
    return _convert(inner, value, where)


def _literal(kind: Any, value: Any, where: str) -> Any:
    choices = get_args(kind)
    for choice in choices:
        if value == choice and not isinstance(value, bool) or value == str(choice):
            return choice
    raise UserError(f"{where}={value!r} is not known; {closest(str(value), choices)}")


def _tuple(kind: Any, value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part]
    if not isinstance(value, list | tuple):
        raise _wrong(where, _name(kind), value)
    inner = get_args(kind)
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(inner) != len(value):
        raise _wrong(where, f"{len(inner)} values", value)
    return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, value)))


def _samples(value: Any, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        for suffix, factor in {"": 1, **_SUFFIX}.items():
            number = value.removesuffix(suffix)
            if (number != value or not suffix) and number.isdigit():
                return int(number) * factor
    raise _wrong(where, "a number of samples such as 4096 or 64Ki", value)


def _resume(value: Any, where: str) -> str:
    words = ("auto", "must", "never")
    if value in words or isinstance(value, int | str) and str(value).isdigit():
        return str(value)
    raise UserError(f"{where}={value!r} is neither a step nor one of {', '.join(words)}")


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            raise _wrong(where, "float", value) from None
    if isinstance(value, str) and kind in (int, bool):
        value = _typed(kind, value)
    expected = get_origin(kind) or kind
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise _wrong(where, _name(kind), value)
    return value


def _typed(kind: Any, word: str) -> Any:
    """A word of the command line as the value that it spells; what does not fit stays a word."""
    if kind is bool:
        return {"true": True, "false": False}.get(word.lower(), word)
    return int(word) if re.fullmatch(r"-?\d+", word) else word


def _wrong(where: str, expected: str, value: Any) -> UserError:
    return UserError(f"{where}={value!r} is a {type(value).__name__}; expected {expected}")


def _name(kind: Any) -> str:
    if kind is bool:
        return "true or false"
    return getattr(kind, "__name__", None) or str(kind).replace("typing.", "")


def take(cls: type[T], config: Any) -> T:
    """Another dataclass from the fields that it shares with a config."""
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: getattr(config, name) for name in names if hasattr(config, name)})


def plain(config: Any) -> dict[str, Any]:
    """The config as JSON-able values; `load` of it gives the config back."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=dict))


def shown(config: Any) -> dict[str, Any]:
    """As it may be written down and passed on."""
    return json.loads(redacted(json.dumps(plain(config), ensure_ascii=False)))


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, stable over runs and machines."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def flat(value: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted name."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flat(inner, f"{where}{key}.")
        else:
            yield f"{where}{key}", inner
