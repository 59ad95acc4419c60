"""`hvdm checkpoint import|export`: run folders from and to files of the public code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from hvdm import building, opening
from hvdm import config as configs
from hvdm.checkpoint import checkpoint
from hvdm.checkpoint.checkpoint import Checkpoint
from hvdm.config import RunConfig
from hvdm.errors import UserError, closest
from hvdm.nets.state_files import read_state, sha256_of
from hvdm.recipe import Recipe
from hvdm.recipes.hvdm import released
from launcher import compose
from launcher.arguments import Arguments
from launcher.sizing.models import on_meta
from launcher.verbs import cards

FAMILIES = ("hvdm", "pvdm")
NETWORK = {"autoencoder": "autoencoder", "diffusion": "denoiser"}
FIRST_STAGE = "autoencoder"
"""Folder of an imported diffusion run in which its autoencoder lies, a run of its own."""


# Importing


def import_(given: Arguments) -> int:
    family = _family(given, "from")
    run = Path(given.need("run", f"runs/{family}_released"))
    files = {part: given.take(part) for part in NETWORK}
    first_stage = given.take("first_stage")
    data = given.rest(("data",))
    if not any(files.values()):
        raise UserError("autoencoder=FILE, diffusion=FILE or both are expected")
    if (run / opening.CONFIG_FILE).exists() or (run / "checkpoints").exists():
        raise UserError(f"run={run} is a run already; name a new folder")
    made = _import(family, run, files, first_stage, data)
    print(json.dumps(made, indent=1) if given.json else "\n".join(map(_line, made)))
    return 0


def _family(given: Arguments, key: str) -> str:
    family = given.need(key, "hvdm")
    if family not in FAMILIES:
        raise UserError(f"{key}={family} is not known; {closest(family, FAMILIES)}")
    return family


def _line(row: Mapping[str, Any]) -> str:
    return f"{row['network']}: {row['parameters']:,} parameters from {row['file']} in {row['run']}"


def _import(
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
        sizes = autoencoder_sizes(state)
        clip = [override for override in sizes if override.startswith("data.")]
        config = _config(family, "autoencoder", home, sizes + data)
        ready.append(_filled(config, "autoencoder", Path(autoencoder), state, on_meta(config)))
    if diffusion:
        below = ready[0].recipe if ready else None
        ready.append(_diffusion(family, run, Path(diffusion), first_stage, clip + data, below))
    return [item.write() for item in ready]


def _diffusion(
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
    sizes = [*diffusion_sizes(state), f"first_stage={given}"]
    config = _config(family, "diffusion", run, sizes + overrides)
    if below is None:
        recipe = on_meta(config)
    else:
        with torch.device("meta"):
            recipe = building.build_recipe(config, {"first_stage": below})
    _check_latent(file, state, recipe)
    return _filled(config, "diffusion", file, state, recipe)


def _config(family: str, part: str, run: Path, overrides: list[str]) -> RunConfig:
    return compose.run_config(f"{family}_released/{part}", [*overrides, f"run={run}"])


def autoencoder_sizes(state: Mapping[str, Tensor]) -> list[str]:
    """What the shapes say of the clip and of the network; where they are missing, the config's."""
    sizes = []
    pixels = state.get("to_pixel.1.weight")
    if pixels is not None and pixels.dim() == 4:
        width, _, patch, _ = pixels.shape
        sizes += [f"model.width={width}", f"model.patch={patch}"]
        for axis, key, unit in (
            ("xy", "frames", 1),
            ("yt", "height", patch),
            ("xt", "width", patch),
        ):
            positions = state.get(f"{axis}_pos_embedding")
            if positions is not None and positions.dim() == 3:
                sizes.append(f"data.{key}={(positions.shape[1] - 1) * unit}")
    depth = len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")})
    return sizes + ([f"model.depth={depth}"] if depth else [])


def diffusion_sizes(state: Mapping[str, Tensor]) -> list[str]:
    embedding = state.get(released.DENOISER + "time_embed.0.weight")
    if embedding is None or embedding.dim() != 2:
        return []
    return [f"model.width={embedding.shape[1]}"]


def _check_latent(file: Path, state: Mapping[str, Tensor], recipe: Recipe) -> None:
    zeros = state.get(released.DENOISER + "zeros")
    shape = cast(_OnLatents, recipe).latent_shape
    wanted = (shape[0], torch.Size(shape[1:]).numel())
    if zeros is not None and tuple(zeros.shape[1:]) != wanted:
        have = "x".join(map(str, zeros.shape[1:]))
        raise UserError(
            f"{file} works on latents of {have} values, and the autoencoder makes "
            f"{wanted[0]}x{wanted[1]}; give the autoencoder that it was trained on"
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
        text = yaml.safe_dump(configs.plain(self.config), sort_keys=False)
        (run / opening.CONFIG_FILE).write_text(text)
        count = sum(p.numel() for p in net.parameters())
        return {"run": str(run), "network": self.name, "parameters": count, **source}


def _filled(
    config: RunConfig, part: str, file: Path, state: Mapping[str, Tensor], recipe: Recipe
) -> Filled:
    name = NETWORK[part]
    net = recipe.trained[name]
    check(file, f"{config.recipe} ({config.data.frames} frames)", state, released.shapes(net))
    net.load_state_dict(released.to_ours(net, state), assign=True)
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

TARGETS = (*FAMILIES, "safetensors")


def export(given: Arguments) -> int:
    target = given.need("to", "hvdm")
    if target not in TARGETS:
        raise UserError(f"to={target} is not known; {closest(target, TARGETS)}")
    reference = given.need("run", "runs/hvdm_ucf101_256/diffusion")
    averaged = given.flag("ema", True)
    if target == "safetensors":
        out = Path(given.need("out", "exported"))
        given.done()
        paths = _export_plainly(reference, out, averaged)
    else:
        files = {part: given.take(part) for part in NETWORK}
        given.done()
        paths = _export_released(target, reference, files, averaged)
    print(json.dumps([str(p) for p in paths]) if given.json else "\n".join(map(str, paths)))
    return 0


def _export_plainly(reference: str, out: Path, averaged: bool) -> list[Path]:
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


def _export_released(
    family: str, reference: str, files: Mapping[str, str | None], averaged: bool
) -> list[Path]:
    if not any(files.values()):
        raise UserError("autoencoder=FILE, diffusion=FILE or both are expected, to be written")
    opened = opening.open_run(reference, averaged)
    nets = {**opened.recipe.frozen, **opened.nets}
    paths = []
    for part, file in files.items():
        if file is None:
            continue
        if NETWORK[part] not in nets:
            raise UserError(f"run={reference} has no network {NETWORK[part]!r}: leave {part}= out")
        net = nets[NETWORK[part]]
        _check_exportable(family, reference, part, net)
        shapes = released.shapes(net)
        paths.append(_write(released.to_released(net, net.state_dict(), shapes), Path(file)))
    return paths


def _check_exportable(family: str, reference: str, part: str, net: nn.Module) -> None:
    if not released.is_released(net):
        raise UserError(
            f"run={reference}: the {part} is of model.variant=figure, which the released code "
            "has no names for; train it with model.variant=released"
        )
    if released.family_of(net) != family:
        other = released.family_of(net)
        raise UserError(f"run={reference}: the {part} is {other}'s; use to={other}")


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
