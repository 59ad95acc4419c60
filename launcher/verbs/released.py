"""`hvdm checkpoint import|export`: run folders from and to files of the public code."""

import importlib.util
import pkgutil
from collections.abc import Mapping, Sequence
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
from hvdm.errors import UserError, closest
from hvdm.nets.state_files import read_state, sha256_of
from hvdm.recipe import Recipe
from launcher import compose
from launcher.sizing.models import on_meta
from launcher.verbs import cards

OURS = "safetensors"
FIRST_STAGE = "autoencoder"
"""Folder of an imported diffusion run in which its autoencoder lies, a run of its own."""


class Names(Protocol):
    """What `hvdm/recipes/FAMILY/released.py` says of public code whose files the family can read.

    `CODES` are the names of that code; each has configs `CODE_released/PART` for the parts that
    `NETWORKS` gives our network's name of.
    """

    CODES: Sequence[str]
    NETWORKS: Mapping[str, str]

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


def import_files(
    family: str,
    run: Path,
    files: Mapping[str, str | None],
    first_stage: str | None,
    data: list[str],
) -> list[dict[str, Any]]:
    names = names_of("from", family)
    if not any(files.values()):
        raise UserError("autoencoder=FILE, diffusion=FILE or both are expected")
    if (run / opening.CONFIG_FILE).exists() or (run / "checkpoints").exists():
        raise UserError(f"run={run} is a run already; name a new folder with run=DIR")
    return _import(names, family, run, files, first_stage, data)


def line(row: Mapping[str, Any]) -> str:
    return f"{row['network']}: {row['parameters']:,} parameters from {row['file']} in {row['run']}"


def _import(
    names: Names,
    family: str,
    run: Path,
    files: Mapping[str, str | None],
    first_stage: str | None,
    data: list[str],
) -> list[dict[str, Any]]:
    """Everything is read and checked before anything is written."""
    ready = []
    autoencoder, diffusion = files["autoencoder"], files["diffusion"]
    home = run / FIRST_STAGE if diffusion else run
    clip: list[str] = []
    if autoencoder:
        state = read_state(Path(autoencoder))
        sizes = names.sizes("autoencoder", state)
        clip = [override for override in sizes if override.startswith("data.")]
        config = _config(family, "autoencoder", home, sizes + data)
        ready.append(
            _filled(names, config, "autoencoder", Path(autoencoder), state, on_meta(config))
        )
    if diffusion:
        below = ready[0].recipe if ready else None
        ready.append(
            _diffusion(names, family, run, Path(diffusion), first_stage, clip + data, below)
        )
    return [item.write() for item in ready]


def _diffusion(
    names: Names,
    family: str,
    run: Path,
    file: Path,
    first_stage: str | None,
    overrides: list[str],
    below: Recipe | None,
) -> "Filled":
    state = read_state(file)
    given = first_stage or str(run / FIRST_STAGE)
    if first_stage is not None:
        path, _ = opening.split_reference(first_stage)
        stage = opening.read_config(path).data
        overrides = [f"data.{k}={getattr(stage, k)}" for k in ("frames", "height", "width")] + [
            override for override in overrides if override.startswith("data.path=")
        ]
    sizes = [*names.sizes("diffusion", state), f"first_stage={given}"]
    config = _config(family, "diffusion", run, sizes + overrides)
    if below is None:
        recipe = on_meta(config)
    else:
        with torch.device("meta"):
            recipe = building.build_recipe(config, {"first_stage": below})
    _check_latent(file, names.latent_size(state), recipe)
    return _filled(names, config, "diffusion", file, state, recipe)


def _config(family: str, part: str, run: Path, overrides: list[str]) -> RunConfig:
    return compose.run_config(f"{family}_released/{part}", [*overrides, f"run={run}"])


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
        source = {"file": str(self.file), "sha256": sha256_of(self.file)}
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
    family: str, reference: str, files: Mapping[str, str | None], averaged: bool
) -> list[Path]:
    names = names_of("to", family, OURS)
    if not any(files.values()):
        raise UserError("autoencoder=FILE, diffusion=FILE or both are expected, to be written")
    opened = opening.open_run(reference, averaged)
    nets = {**opened.recipe.frozen, **opened.nets}
    paths = []
    for part, file in files.items():
        if file is None:
            continue
        name = names.NETWORKS[part]
        if name not in nets:
            raise UserError(f"run={reference} has no network {name!r}: leave {part}= out")
        net = nets[name]
        if problem := names.problem(family, net):
            raise UserError(f"run={reference}: the {part} {problem}")
        shapes = names.shapes(net)
        paths.append(_write(names.to_released(net, net.state_dict(), shapes), Path(file)))
    return paths


def _write(state: dict[str, Tensor], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().contiguous() for name, value in state.items()}
    part = file.with_name(f".part-{file.name}")
    if file.suffix == ".safetensors":
        save_file(state, part)
    else:
        torch.save(state, part)
    part.rename(file)
    return file
