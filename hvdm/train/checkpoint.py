"""Checkpoints that any engine reads at any world size, and that are whole or not there.

`checkpoints/step-00000010/` holds one safetensors file per network and rank, with tensors named
`KIND/PARAMETER@OFFSET`: slices of flattened fp32 vectors. KIND is `master`, `ema`, or a name of
the optimizer's state. Files go into `.part-…` and are hashed and fsynced, a manifest comes last,
and the rename of the folder is the commit.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hvdm import dist
from hvdm.errors import RunError, UserError
from hvdm.train.ema import Ema
from hvdm.train.engine import Engine

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A committed folder and its manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def nets(self) -> Mapping[str, Any]:
        return self.manifest["nets"]


# Writing


def save(
    run: Path,
    step: int,
    engines: Mapping[str, Engine],
    averages: Mapping[str, Ema],
    extra: Mapping[str, Any],
) -> Path:
    """Writes and commits on all ranks together; on failure anywhere, nothing is left behind."""
    final = run / "checkpoints" / name_of(step)
    part = final.with_name(f".part-{final.name}")
    problems = _failures(lambda: _clear(part) if dist.is_main() else None)
    if not problems:
        rows, problems = _write_rank(part, engines, averages)
    if not problems:
        manifest = _manifest(step, engines, averages, rows, extra)
        problems = _failures(lambda: _commit(part, final, manifest) if dist.is_main() else None)
    if problems:
        if dist.is_main():
            shutil.rmtree(part, ignore_errors=True)
        raise RunError(
            f"checkpoint of step {step} was not written to {final.parent}: {problems[0]}; "
            "make room or mend the folder, then run the same command again"
        )
    return final


def save_weights(
    run: Path, step: int, nets: Mapping[str, nn.Module], extra: Mapping[str, Any]
) -> Path:
    """Weights alone, by one process: there is neither an optimizer's state nor an average."""
    final = run / "checkpoints" / name_of(step)
    part = final.with_name(f".part-{final.name}")
    _clear(part)
    files, rows = {}, {}
    for name, net in nets.items():
        path = part / f"{name}.rank00000.safetensors"
        parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
        tensors = {f"master/{n}@0": p.detach().flatten() for n, p in parameters.items()}
        save_file(tensors | {f"buffer/{n}@0": b.flatten() for n, b in buffers.items()}, path)
        files[path.name] = seal(path)
        rows[name] = {
            "parameters": {n: list(p.shape) for n, p in parameters.items()},
            "buffers": {n: list(b.shape) for n, b in buffers.items()},
            "optimizer": None,
            "optimizer_steps": 0,
            "ema_updates": None,
        }
    head = {"format": FORMAT, "step": step, "time": time.time(), "world": 1}
    _commit(part, final, {**head, "nets": rows, "files": files, **extra})
    return final


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def _failures(action: Callable[[], Any]) -> list[str]:
    """Runs it on every rank and gives the failures of all, so that all decide alike."""
    try:
        action()
        failure = ""
    except OSError as error:
        failure = f"rank {dist.rank()}: {error.strerror or error}"
    except Exception as error:  # safetensors raises its own type for a failed write
        failure = f"rank {dist.rank()}: {error}"
    return [text for text in dist.all_gather(failure) if text]


def _clear(part: Path) -> None:
    for stale in part.parent.glob(".part-*"):
        shutil.rmtree(stale)
    part.mkdir(parents=True)


def _write_rank(
    part: Path, engines: Mapping[str, Engine], averages: Mapping[str, Ema]
) -> tuple[dict[str, Any], list[str]]:
    files: dict[str, Any] = {}

    def write() -> None:
        for net, engine in engines.items():
            path = part / f"{net}.rank{dist.rank():05d}.safetensors"
            save_file(_tensors(engine, averages.get(net)), path)
            files[path.name] = seal(path)

    problems = _failures(write)
    rows: dict[str, Any] = {}
    for of_rank in dist.all_gather(files):
        rows.update(of_rank)
    return rows, problems


def _tensors(engine: Engine, ema: Ema | None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    owned = engine.owned()
    for piece in owned:
        if piece.length:
            where = f"{piece.name}@{piece.offset}"
            tensors[f"master/{where}"] = _copy(piece.master)
            tensors.update({f"{kind}/{where}": _copy(t) for kind, t in piece.state.items()})
    for piece, average in zip(owned, ema.averages if ema else ()):
        if piece.length:
            tensors[f"ema/{piece.name}@{piece.offset}"] = _copy(average)
    if dist.is_main():
        tensors.update({f"buffer/{n}@0": _copy(b.flatten()) for n, b in _buffers(engine)})
    return tensors


def _buffers(engine: Engine) -> Iterable[tuple[str, Tensor]]:
    kept = engine.module.state_dict(keep_vars=True).keys()
    return [(name, b) for name, b in engine.module.named_buffers() if name in kept]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def seal(path: Path) -> dict[str, Any]:
    """fsyncs a file and gives its size and sha256."""
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
        os.fsync(handle.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest}


def _manifest(
    step: int,
    engines: Mapping[str, Engine],
    averages: Mapping[str, Ema],
    files: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    nets = {
        net: {
            "parameters": {n: list(_shape(p)) for n, p in engine.module.named_parameters()},
            "buffers": {n: list(b.shape) for n, b in _buffers(engine)},
            "optimizer": engine.optimizer_config.name,
            "optimizer_steps": engine.optimizer_steps,
            "ema_updates": averages[net].updates if net in averages else None,
        }
        for net, engine in engines.items()
    }
    return {
        "format": FORMAT,
        "step": step,
        "time": time.time(),
        "world": dist.world(),
        "nets": nets,
        "files": dict(sorted(files.items())),
        **extra,
    }


def _shape(parameter: Tensor) -> tuple[int, ...]:
    """ZeRO-3 leaves an empty tensor in place of a parameter and its shape beside it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _commit(part: Path, final: Path, manifest: Mapping[str, Any]) -> None:
    path = part / MANIFEST
    path.write_text(json.dumps(manifest, indent=1))
    seal(path)
    sync_folder(part)
    if final.exists():
        shutil.rmtree(final)
    part.rename(final)
    sync_folder(final.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_last(run: Path, count: int) -> None:
    """Removes all but the newest; the rename first, so that a half-removed one is never listed."""
    for old in listed(run)[:-count]:
        trash = old.path.with_name(f".trash-{old.path.name}")
        old.path.rename(trash)
        shutil.rmtree(trash)


# Choosing


def listed(run: Path) -> list[Checkpoint]:
    """Committed checkpoints, oldest first. A folder without a readable manifest is not one."""
    found = []
    for path in sorted((run / "checkpoints").glob("step-*")):
        try:
            found.append(Checkpoint(path, json.loads((path / MANIFEST).read_text())))
        except (OSError, json.JSONDecodeError):
            continue
    return found


def damage(checkpoint: Checkpoint) -> str | None:
    """The first file that is not as the manifest says, or None."""
    if checkpoint.manifest.get("format") != FORMAT:
        return f"{checkpoint.path}: format {checkpoint.manifest.get('format')}, expected {FORMAT}"
    for name, row in checkpoint.manifest["files"].items():
        path = checkpoint.path / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != row["bytes"]:
            return f"{path} has {path.stat().st_size} bytes, expected {row['bytes']}"
        with open(path, "rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != row["sha256"]:
                return f"{path} is damaged: its sha256 is not the manifest's"
    return None


def newest_valid(run: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest that verifies, falling back aloud; never silently none where some are there."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    known = {c.path: c for c in listed(run)}
    reasons = []
    for path in reversed(folders):
        problem = damage(known[path]) if path in known else f"{path} has no readable manifest"
        if problem is None:
            return known[path]
        reasons.append(problem)
        say(f"checkpoint refused: {problem}; trying the one before")
    if reasons:
        raise RunError(
            f"no checkpoint of {run} is valid ({'; '.join(reasons)}): bring one back, or move "
            "the checkpoints folder away to begin again from step 0"
        )
    return None


def choose(run: Path, step: int | None) -> Checkpoint:
    """For reading: the given step, or the newest valid one."""
    if step is None:
        found = newest_valid(run, print)
        if found is None:
            raise UserError(f"{run} has no checkpoint yet: train it first")
        return found
    for checkpoint in listed(run):
        if checkpoint.step == step:
            return checkpoint
    steps = ", ".join(str(c.step) for c in listed(run)) or "none"
    raise UserError(f"{run} has no checkpoint of step {step}; there are: {steps}")


# Reading


class Reader:
    """Elements of any parameter by kind, name and range, whoever wrote them."""

    def __init__(self, checkpoint: Checkpoint, net: str) -> None:
        self.net = checkpoint.nets[net]
        self._pieces: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        for name in checkpoint.manifest["files"]:
            if name.rsplit(".rank", 1)[0] == net:
                self._index(checkpoint.path / name)

    def _index(self, path: Path) -> None:
        handle = safe_open(path, framework="pt")
        for key in sorted(handle.keys()):
            kind, rest = key.split("/", 1)
            name, offset = rest.rsplit("@", 1)
            length = handle.get_slice(key).get_shape()[0]
            self._pieces.setdefault((kind, name), []).append((int(offset), length, handle, key))

    def kinds(self) -> list[str]:
        return sorted({kind for kind, _ in self._pieces})

    def names(self, kind: str) -> list[str]:
        return sorted(name for k, name in self._pieces if k == kind)

    def read(self, kind: str, name: str, begin: int, length: int) -> Tensor:
        parts = []
        at, end = begin, begin + length
        for offset, size, handle, key in sorted(self._pieces[kind, name], key=lambda p: p[0]):
            if offset <= at < offset + size and at < end:
                stop = min(end, offset + size)
                parts.append(handle.get_slice(key)[at - offset : stop - offset])
                at = stop
        if at != end:
            raise RunError(f"checkpoint lacks {kind} of {name} from element {at}")
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0)

    def whole(self, kind: str, name: str) -> Tensor:
        shape = self.net["buffers" if kind == "buffer" else "parameters"][name]
        return self.read(kind, name, 0, int(torch.Size(shape).numel())).view(shape)


def restore(checkpoint: Checkpoint, net: str, engine: Engine, ema: Ema | None) -> None:
    """Fills an engine, and its average, from the slices of a checkpoint."""
    reader = Reader(checkpoint, net)
    for piece in engine.held():
        piece.master.copy_(reader.read("master", piece.name, piece.offset, piece.length))
        for kind, tensor in piece.state.items():
            tensor.copy_(reader.read(kind, piece.name, piece.offset, piece.length))
    for name, buffer in _buffers(engine):
        buffer.copy_(reader.whole("buffer", name))
    engine.restored(reader.net["optimizer_steps"])
    if ema is not None:
        for piece, average in zip(engine.owned(), ema.averages):
            average.copy_(reader.read("ema", piece.name, piece.offset, piece.length))
        ema.updates = reader.net["ema_updates"]


def weights(checkpoint: Checkpoint, net: str, averaged: bool) -> dict[str, Tensor]:
    """A network's state dict: the average where there is one and it is wanted."""
    reader = Reader(checkpoint, net)
    kind = "ema" if averaged and "ema" in reader.kinds() else "master"
    state = {name: reader.whole(kind, name) for name in reader.net["parameters"]}
    return state | {name: reader.whole("buffer", name) for name in reader.net["buffers"]}


def hashes(checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
    """Per network, a sha256 over its fp32 weights, its optimizer state, and its average."""
    return {net: _hashes_of(Reader(checkpoint, net)) for net in checkpoint.nets}


def _hashes_of(reader: Reader) -> dict[str, str]:
    kinds = reader.kinds()
    state = [kind for kind in kinds if kind not in ("master", "ema", "buffer")]
    steps = str(reader.net["optimizer_steps"]).encode()
    result = {
        "weights": _sha256(reader, [k for k in ("master", "buffer") if k in kinds]),
        "optimizer": _sha256(reader, state, steps),
    }
    return result | ({"ema": _sha256(reader, ["ema"])} if "ema" in kinds else {})


def _sha256(reader: Reader, kinds: list[str], begin: bytes = b"") -> str:
    digest = hashlib.sha256(begin)
    for kind in kinds:
        for name in reader.names(kind):
            digest.update(f"{kind}/{name}".encode())
            digest.update(reader.whole(kind, name).contiguous().numpy().tobytes())
    return digest.hexdigest()
