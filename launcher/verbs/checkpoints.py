"""`hvdm checkpoint …`: what is there, whether it is whole, how far two are apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hvdm.config import Samples
from hvdm.errors import UserError
from hvdm.options import gathered, option
from launcher.arguments import overrides
from launcher.run_options import RUN, OpensRuns
from launcher.verb import tell
from launcher.verbs.runs import run_folder

if TYPE_CHECKING:
    from hvdm.checkpoint.checkpoint import Checkpoint
    from hvdm.checkpoint.retention import Rule


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    run: str = option(about="the run folder", shown="RUN", example=RUN, word=True)
    json: bool = option(False, "with a sha256 over each network's weights, optimizer state and EMA")
    examples: ClassVar = ("checkpoint list run=runs/tiny/hvdm_autoencoder --json",)


def list_(asked: ListOptions) -> int:
    from hvdm.checkpoint import checkpoint

    run = run_folder(asked.run)
    rows = [_row(found, hashed=asked.json) for found in checkpoint.listed(run)]
    lines = [f"step {r['step']:>8}  {r['bytes'] / 2**20:8.1f} MiB  {r['path']}" for r in rows]
    return tell(asked.json, rows, "\n".join(lines) or f"{run} has no checkpoint yet")


def _row(found: "Checkpoint", hashed: bool) -> dict[str, Any]:
    from hvdm.checkpoint import checkpoint

    row = {
        "step": found.step,
        "bytes": found.bytes,
        "world": found.manifest["world"],
        "time": found.manifest["time"],
        "path": found.where,
    }
    return row | ({"sha256": checkpoint.hashes(found)} if hashed else {})


@dataclass(frozen=True, kw_only=True)
class WholeOptions:
    run: str = option(about="the run folder", shown="RUN", example=RUN, word=True)
    json: bool = option(False, "as data")
    examples: ClassVar = ("checkpoint verify run=runs/tiny/hvdm_autoencoder",)


def verify(asked: WholeOptions) -> int:
    from hvdm.checkpoint.choosing import candidates

    rows = [_verified(found) for found in reversed(candidates(run_folder(asked.run)))]
    text = "\n".join(f"step {row['step']}: {row['damage'] or 'whole'}" for row in rows)
    return tell(asked.json, rows, text, fine=not any(row["damage"] for row in rows))


def _verified(found: "Checkpoint | str") -> dict[str, Any]:
    from hvdm.checkpoint import checkpoint

    if isinstance(found, str):
        return {"step": None, "damage": found}
    return {"step": found.step, "damage": checkpoint.damage(found)}


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    run: str = option(about="the run folder", shown="RUN", example=RUN, word=True)
    keep: int | None = option(None, "the last N stay; default the run's checkpoint.keep")
    keep_every: Samples | None = option(
        None, "the first after each N samples stays; default the run's", shown="N"
    )
    pinned: tuple[int, ...] = option((), "these stay", shown="STEP[,STEP…]")
    dry: bool = option(False, "only say what would go")
    json: bool = option(False, "as data")
    examples: ClassVar = ("checkpoint prune run=runs/tiny/hvdm_autoencoder keep=1 dry=true",)


def prune(asked: PruneOptions) -> int:
    """The same rule as training's, at once: pins and leases hold, the newest verified one stays."""
    from hvdm.checkpoint import checkpoint, places, retention
    from hvdm.checkpoint.storage import Folder

    run = run_folder(asked.run)
    rule, place = _rule(asked, run), places.storage_of(run)
    if asked.dry:
        steps = [found.step for found in retention.removable(run, place, rule)[0]]
    else:
        steps = retention.prune(run, place, rule)
        if isinstance(place, Folder):
            place.sweep()
    left = [found.step for found in checkpoint.listed(run)]
    verb = "would be removed" if asked.dry else "removed"
    text = f"{verb}: {_steps(steps)}; there are: {_steps(left)}"
    return tell(asked.json, {"dry": asked.dry, "removed": steps, "left": left}, text)


def _rule(asked: PruneOptions, run: Path) -> "Rule":
    """The run's own, but for what was typed."""
    from hvdm import opening
    from hvdm.checkpoint.retention import Rule

    own = opening.read_config(run).checkpoint
    keep = own.keep if asked.keep is None else asked.keep
    every = own.keep_every if asked.keep_every is None else asked.keep_every
    rule = Rule(keep, every, (*own.pinned, *asked.pinned))
    rule.check()
    return rule


def _steps(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"


@dataclass(frozen=True, kw_only=True)
class DistanceOptions(OpensRuns):
    runs: tuple[str, ...] = option(about="two runs, each RUN or RUN@STEP", shown="A B", word=True)
    base: str | None = option(
        None, "where they began, instead of the initial weights", shown="RUN[@STEP]"
    )
    kind: str = option("master", "what to compare: master, ema, or a state of the optimizer")
    json: bool = option(False, "as data")
    examples: ClassVar = ("checkpoint diff runs/a runs/b@100 --json",)


def diff(asked: DistanceOptions) -> int:
    from launcher.verbs.distance import difference

    if len(asked.runs) != 2:
        raise UserError("two runs are expected: hvdm checkpoint diff A B [base=C]")
    rows = difference(*asked.runs, asked.base, asked.kind)
    return tell(asked.json, rows, "\n".join(starmap(_distances, rows.items())))


def _distances(net: str, row: Mapping[str, Any]) -> str:
    travel = "-" if row["of_travel"] is None else f"{row['of_travel']:.3e}"
    return f"{net}: relative {row['relative']:.3e}  of_travel {travel}"


# From and to files of a family's public code

SIZES = "cifar10, stl10, celeba_256, celeba_512, celeba_1024 and lsun"


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    family: str = option(
        about="whose files they are",
        shown="hvdm|pvdm|wavediff|improved_diffusion",
        example="hvdm",
        key="from",
    )
    run: str = option(
        about="the new run folder; with two files, the autoencoder is below it",
        shown="DIR", example="runs/released",
    )  # fmt: skip
    size: str | None = option(
        None, "which of the code's networks, where the files do not tell: wavediff's are " + SIZES
    )
    first_stage: str | None = option(
        None, "the autoencoder's run, where only diffusion= is given", shown="RUN"
    )
    json: bool = option(False, "what was read, as data")
    data: Mapping[str, str] = gathered(
        "the data set to evaluate on, as data.path=DIR, and other keys of data",
        "data.KEY=VALUE", ("data",),
    )  # fmt: skip
    files: Mapping[str, str] = gathered(
        "state dicts, .pth or .safetensors, of the parts of a run; no code in them is run",
        "PART=FILE",
        rows=(
            ("autoencoder=FILE", "of hvdm and pvdm"),
            ("diffusion=FILE", "their denoiser; take the average, ema_model_*.pth"),
            ("generator=FILE", "of wavediff, netG_*.pth"),
            ("unet=FILE", "of improved_diffusion; take the average, ema_*.pt"),
        ),
    )
    examples: ClassVar = (
        "checkpoint import from=hvdm autoencoder=ae.pth diffusion=ema.pth run=runs/public",
        "checkpoint import from=pvdm autoencoder=ae.pth run=runs/pvdm_public",
        "checkpoint import from=wavediff size=celeba_256 generator=netG_475.pth run=runs/faces",
    )


def import_(asked: ImportOptions) -> int:
    from launcher.verbs import released

    data = overrides(asked.data)
    made = released.import_files(
        asked.family, Path(asked.run), asked.files, asked.first_stage, data, asked.size
    )
    return tell(asked.json, made, "\n".join(map(released.line, made)))


@dataclass(frozen=True, kw_only=True)
class ExportOptions(OpensRuns):
    run: str = option(
        about="the run; its newest valid checkpoint unless told",
        shown="RUN[@STEP]", example="runs/hvdm_ucf101_256/diffusion",
    )  # fmt: skip
    to: str = option(
        about="the public names, or ours",
        shown="hvdm|pvdm|wavediff|improved_diffusion|safetensors",
        example="hvdm",
    )
    out: str | None = option(None, "with our names: one file for each network", shown="DIR")
    ema: bool = option(True, "averaged weights where the run keeps them")
    json: bool = option(False, "the files, as data")
    files: Mapping[str, str] = gathered(
        "with public names: .safetensors, or a torch file", "PART=FILE"
    )
    examples: ClassVar = ("checkpoint export run=runs/public to=hvdm diffusion=unet.pth",)


def export(asked: ExportOptions) -> int:
    from hvdm import opening
    from launcher.verbs import released

    if asked.to == released.OURS and asked.out is None:
        raise UserError("out= is missing; for example out=exported")
    with opening.kept(asked.run):
        if asked.out is not None and asked.to == released.OURS:
            paths = released.export_plainly(asked.run, Path(asked.out), asked.ema)
        else:
            paths = released.export_released(asked.to, asked.run, asked.files, asked.ema)
    return tell(asked.json, paths, "\n".join(map(str, paths)))
