"""`hvdm checkpoint import|export`: run folders from and to files of the public code."""

import importlib.util
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from hvdm import building, opening, recipes
from hvdm import config as configs
from hvdm.checkpoint import checkpoint
from hvdm.checkpoint.checkpoint import Checkpoint
from hvdm.config import RunConfig
from hvdm.disk import replacing, sha256_of_file
from hvdm.errors import UserError, closest
from hvdm.nets.state_files import read_state
from hvdm.recipe import Recipe
from launcher import compose
from launcher.sizing.models import on_meta
from launcher.verbs import cards

OURS = "safetensors"
WRAPPED = "module."
"""Before all names of a network that was saved as torch's DistributedDataParallel holds it."""


class Names(Protocol):
    """What `hvdm/recipes/FAMILY/released.py` says of public code whose files the family can read.

    `CODES` are the names of that code. Files are of parts; `NETWORKS` has our network's name for
    each, and `BELOW` the part whose run it works on, where it does. That one lies in the folder of
    the run above, under the part's name, where both are imported at once.
    """

    CODES: Sequence[str]
    NETWORKS: Mapping[str, str]
    BELOW: Mapping[str, str]

    def config(self, code: str, part: str, size: str | None) -> tuple[str, list[str]]:
        """The name of the config of an imported run, and overrides."""
        ...

    def sizes(self, part: str, state: Mapping[str, Tensor]) -> list[str]:
        """Overrides that the shapes of a file say; what they do not say is the config's."""
        ...

    def latent_size(self, state: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        """Channels and values of the latent that a file works on, where it says so."""
        ...

    def shapes(self, net: nn.Module) -> dict[str, tuple[int, ...]]:
        """Public name -> shape."""
        ...

    def to_ours(self, net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def to_released(
        self, net: nn.Module, state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Tensor]: ...

    def problem(self, code: str, net: nn.Module) -> str | None:
        """Why a network has no public names, and what to do."""
        ...


def names_of(key: str, code: str, *others: str) -> Names:
    """Of the family that knows this public code."""
    known: dict[str, Names] = {}
    for family in pkgutil.iter_modules(recipes.__path__, f"{recipes.__name__}."):
        if importlib.util.find_spec(f"{family.name}.released"):
            found = cast(Names, importlib.import_module(f"{family.name}.released"))
            known |= dict.fromkeys(found.CODES, found)
    if code not in known:
        raise UserError(f"{key}={code} is not known; {closest(code, [*known, *others])}")
    return known[code]


# Importing


@dataclass(frozen=True)
class Import:
    """Files of the parts of one run, and of the run below it."""

    names: Names
    code: str
    size: str | None
    run: Path
    files: Mapping[str, str]
    first_stage: str | None
    data: Sequence[str]

    def write(self) -> list[dict[str, Any]]:
        """Everything is read and checked before anything is written."""
        ready: dict[str, Filled] = {}
        for part in self.files:
            self.names.config(self.code, part, self.size)
        for part in self.names.NETWORKS:
            if part in self.files:
                above = part in self.names.BELOW
                ready[part] = self._above(part, ready) if above else self._alone(part)
        return [item.write() for item in ready.values()]

    def _alone(self, part: str) -> "Filled":
        file = Path(self.files[part])
        state = _state(file)
        below = any(self.names.BELOW.get(other) == part for other in self.files)
        home = self.run / part if below else self.run
        config = self._config(part, home, [*self._sizes(part, state), *self.data])
        return _filled(self.names, config, part, file, state, on_meta(config))

    def _above(self, part: str, ready: Mapping[str, "Filled"]) -> "Filled":
        """Its clips are those of the run below, which is imported with it or there already."""
        file, under = Path(self.files[part]), self.names.BELOW[part]
        state, below = _state(file), ready.get(under)
        given, clip = self.first_stage or str(self.run / under), list(self.data)
        if self.first_stage is not None:
            path, _ = opening.split_reference(self.first_stage)
            data = [override for override in self.data if override.startswith("data.path=")]
            clip = [*_clip(opening.read_config(path)), *data]
        elif below is not None:
            clip = [*_clip(below.config), *self.data]
        sizes = [*self._sizes(part, state), f"first_stage={given}", *clip]
        config = self._config(part, self.run, sizes)
        if below is None:
            recipe = on_meta(config)
        else:
            with torch.device("meta"):
                recipe = building.build_recipe(config, {"first_stage": below.recipe})
        _check_latent(file, self.names.latent_size(state), recipe)
        return _filled(self.names, config, part, file, state, recipe)

    def _sizes(self, part: str, state: Mapping[str, Tensor]) -> list[str]:
        try:
            return self.names.sizes(part, state)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.files[part]} is no released {part} of {self.code}: its names or shapes do "
                f"not fit together ({type(error).__name__}: {error}); is it incomplete?"
            ) from None

    def _config(self, part: str, run: Path, overrides: Sequence[str]) -> RunConfig:
        name, own = self.names.config(self.code, part, self.size)
        return compose.run_config(name, [*own, *overrides, f"run={run}"])


def import_files(
    code: str,
    run: Path,
    files: Mapping[str, str],
    first_stage: str | None,
    data: Sequence[str],
    size: str | None = None,
) -> list[dict[str, Any]]:
    names = names_of("from", code)
    _check_parts(names, files, "are expected")
    if (run / opening.CONFIG_FILE).exists() or (run / "checkpoints").exists():
        raise UserError(f"run={run} is a run already; name a new folder with run=DIR")
    return Import(names, code, size, run, files, first_stage, data).write()


def _check_parts(names: Names, files: Mapping[str, str], expected: str) -> None:
    for part in files:
        if part not in names.NETWORKS:
            raise UserError(f"unknown key {part!r}; {closest(part, names.NETWORKS)}")
    if not files:
        wanted = ", ".join(f"{part}=FILE" for part in names.NETWORKS)
        raise UserError(f"{wanted}{' or both' if ',' in wanted else ''} {expected}")


def _clip(config: RunConfig) -> list[str]:
    return [f"data.{k}={getattr(config.data, k)}" for k in ("frames", "height", "width")]


def _state(file: Path) -> dict[str, Tensor]:
    state = read_state(file)
    if empty := [name for name, value in state.items() if value.numel() == 0]:
        raise UserError(f"{file} is no released file: {empty[0]!r} has no numbers")
    if not all(name.startswith(WRAPPED) for name in state):
        return state
    return {name.removeprefix(WRAPPED): value for name, value in state.items()}


def line(row: Mapping[str, Any]) -> str:
    return f"{row['network']}: {row['parameters']:,} parameters from {row['file']} in {row['run']}"


def _check_latent(file: Path, have: tuple[int, ...] | None, recipe: Recipe) -> None:
    shape = cast(_OnLatents, recipe).latent_shape
    wanted = (shape[0], torch.Size(shape[1:]).numel())
    if have is not None and have != wanted:
        raise UserError(
            f"{file} works on latents of {'x'.join(map(str, have))} values, and the autoencoder "
            f"makes {wanted[0]}x{wanted[1]}; give the autoencoder that it was trained on"
        )


class _OnLatents(Protocol):
    latent_shape: tuple[int, ...]


class Filled:
    """A recipe with imported weights, and the run folder that it goes to."""

    def __init__(self, config: RunConfig, name: str, file: Path, recipe: Recipe) -> None:
        self.config, self.name, self.file, self.recipe = config, name, file, recipe

    def write(self) -> dict[str, Any]:
        run, net = Path(self.config.run), self.recipe.trained[self.name]
        run.mkdir(parents=True, exist_ok=True)
        source = {"file": str(self.file), "sha256": sha256_of_file(self.file)}
        extra = {"identity": {"imported": source}, "cursor": {"seed": self.config.seed, "draw": 0}}
        checkpoint.save_weights(run, 0, {self.name: net}, extra)
        text = yaml.safe_dump(configs.shown(self.config), sort_keys=False)
        (run / opening.CONFIG_FILE).write_text(text)
        count = sum(p.numel() for p in net.parameters())
        return {"run": str(run), "network": self.name, "parameters": count, **source}


def _filled(
    names: Names,
    config: RunConfig,
    part: str,
    file: Path,
    state: Mapping[str, Tensor],
    recipe: Recipe,
) -> Filled:
    name = names.NETWORKS[part]
    net = recipe.trained[name]
    check(file, f"{config.recipe} ({config.data.frames} frames)", state, names.shapes(net))
    net.load_state_dict(names.to_ours(net, state), assign=True)
    return Filled(config, name, file, recipe)


def check(
    file: Path, what: str, state: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """The file has the names, the sizes, and numbers."""
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    if missing or unexpected:
        raise UserError(
            f"{file} is no released {what}: {_first(missing, 'missing')}, "
            f"{_first(unexpected, 'unexpected')}; is it of another model, or incomplete?"
        )
    for name, shape in wanted.items():
        value = state[name]
        if tuple(value.shape) != shape:
            have, want = ("x".join(map(str, s)) for s in (value.shape, shape))
            raise UserError(f"{file}: {name} is {have}, expected {want} for {what}")
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise UserError(f"{file}: {name} has values that are not finite; the file is damaged")


def _first(names: list[str], what: str) -> str:
    return f"{len(names)} names {what}" + (f", the first {names[0]!r}" if names else "")


# Exporting


def export_plainly(reference: str, out: Path, averaged: bool) -> list[Path]:
    """Our own names, one file for each network, and a model card."""
    run, step = opening.split_reference(reference)
    opening.read_config(run)
    found = checkpoint.choose(run, step, checkpoint.for_inference(averaged))
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, state in _states(reference, found, averaged).items():
        paths.append(out / f"{name}.safetensors")
        save_file({key: value.contiguous() for key, value in state.items()}, paths[-1])
    return [*paths, cards.write(run, found, paths, averaged)]


def _states(reference: str, found: Checkpoint, averaged: bool) -> dict[str, Mapping[str, Tensor]]:
    """Whole networks: where one moves in part, the run below has the rest."""
    if any("rest" in row for row in found.nets.values()):
        nets = opening.open_run(reference, averaged).nets
        return {name: net.state_dict() for name, net in nets.items()}
    return {name: checkpoint.weights(found, name, averaged) for name in found.nets}


def export_released(
    code: str, reference: str, files: Mapping[str, str], averaged: bool
) -> list[Path]:
    names = names_of("to", code, OURS)
    _check_parts(names, files, "are expected, to be written")
    opened = opening.open_run(reference, averaged)
    nets = {**opened.recipe.frozen, **opened.nets}
    paths = []
    for part, file in files.items():
        name = names.NETWORKS[part]
        if name not in nets:
            raise UserError(f"run={reference} has no network {name!r}: leave {part}= out")
        net = nets[name]
        if problem := names.problem(code, net):
            raise UserError(f"run={reference}: the {part} {problem}")
        shapes = names.shapes(net)
        paths.append(_write(names.to_released(net, net.state_dict(), shapes), Path(file)))
    return paths


def _write(state: dict[str, Tensor], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().contiguous() for name, value in state.items()}
    with replacing(file) as part:
        if file.suffix == ".safetensors":
            save_file(state, part)
        else:
            torch.save(state, part)
    return file
