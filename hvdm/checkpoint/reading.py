"""Elements of any parameter from a checkpoint, whoever wrote it and on however many ranks."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hvdm import dist
from hvdm.checkpoint.choosing import Checkpoint, Wanted
from hvdm.checkpoint.writing import DTYPES, GROUPS, buffers
from hvdm.errors import RunError, UserError
from hvdm.train.ema import Ema
from hvdm.train.engine import Engine

_TYPES = {name: dtype for dtype, name in DTYPES.items()}


def for_inference(averaged: bool) -> Wanted:
    """The files of weights or of averages; optimizer states stay where they are."""
    left_out = {"optimizer"} if averaged else {"optimizer", "ema"}
    return lambda file: file.split(".")[1] not in left_out


class Reader:
    """Elements by kind, name and range. A file is opened when something in it is asked for.

    First the file of `rank`: of a checkpoint that as many ranks wrote alike, it has all that this
    rank asks for, and so no rank opens the files of all others.
    """

    def __init__(self, checkpoint: Checkpoint, net: str, rank: int = 0) -> None:
        self.net = checkpoint.nets[net]
        self._checkpoint = checkpoint
        files = [f for f in checkpoint.manifest["files"] if f.split(".")[0] == net]
        self._files = sorted(files, key=lambda file: (f".rank{rank:05d}." not in file, file))
        self._pieces: dict[tuple[str, str], list[tuple[int, Tensor]]] = {}

    def _load(self, kind: str | None = None) -> None:
        """Opens the files that may hold a kind; all of them where none is named."""
        while self._load_next(kind):
            pass

    def _load_next(self, kind: str | None) -> bool:
        group = {"master": "weights", "ema": "ema", "buffer": "buffers", None: None}
        wanted = group.get(kind, "optimizer")
        for file in self._files:
            held = file.split(".")[1]
            if wanted is None or held == wanted or held not in GROUPS:
                self._files.remove(file)
                self._index(self._checkpoint.file(file))
                return True
        return False

    def _index(self, path: Path) -> None:
        for (kind, name, offset), values in slices_of(path).items():
            self._pieces.setdefault((kind, name), []).append((offset, values))

    def kinds(self) -> list[str]:
        self._load()
        return sorted({kind for kind, _ in self._pieces})

    def names(self, kind: str) -> list[str]:
        self._load(kind)
        return sorted(name for k, name in self._pieces if k == kind)

    def read(self, kind: str, name: str, begin: int, length: int) -> Tensor:
        """Elements in the file's own pages where one piece has them all: copy, do not change."""
        end = begin + length
        parts, at = self._parts(kind, name, begin, end)
        while at != end:
            if not self._load_next(kind):
                raise RunError(f"{self._checkpoint.where} lacks {kind} of {name} from element {at}")
            parts, at = self._parts(kind, name, begin, end)
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0)

    def _parts(self, kind: str, name: str, at: int, end: int) -> tuple[list[Tensor], int]:
        """What the files that are open have of a stretch, and up to where."""
        parts = []
        for offset, values in sorted(self._pieces.get((kind, name), ()), key=lambda p: p[0]):
            if offset <= at < offset + len(values) and at < end:
                stop = min(end, offset + len(values))
                parts.append(values[at - offset : stop - offset])
                at = stop
        return parts, at

    def whole(self, kind: str, name: str) -> Tensor:
        shapes = self.net["buffers" if kind == "buffer" else "parameters"]
        if name not in shapes:
            raise RunError(f"{self._checkpoint.where} has {kind} of {name!r}, and no such part")
        shape = shapes[name]
        return self.read(kind, name, 0, int(torch.Size(shape).numel())).view(shape)


def slices_of(path: Path) -> dict[tuple[str, str, int], Tensor]:
    """By kind, name and offset, the tensors of a file that `writing` wrote."""
    try:
        return {_named(key): values for key, values in _mapped(path).items()}
    except (AttributeError, KeyError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RunError(
            f"{path} is as its manifest says, and no file of a checkpoint ({line}); bring another "
            "one back, or name another step"
        ) from None


def _named(key: str) -> tuple[str, str, int]:
    kind, rest = key.split("/", 1)
    name, offset = rest.rsplit("@", 1)
    return kind, name, int(offset)


def _mapped(path: Path) -> dict[str, Tensor]:
    """In its pages: new memory is what costs time."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if length > size:
            raise ValueError("its head is longer than the file")
        rows = json.loads(handle.read(length))
    pages = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)[8 + length :]
    return {key: _stretch(pages, row) for key, row in rows.items()}


def _stretch(pages: Tensor, row: Mapping[str, Any]) -> Tensor:
    first, last = row["data_offsets"]
    if not 0 <= first <= last <= len(pages):
        raise ValueError(f"it has no bytes {first} to {last}")
    return pages[first:last].view(_TYPES[row["dtype"]])


def restore(checkpoint: Checkpoint, net: str, engine: Engine, ema: Ema | None) -> None:
    """Fills an engine, and its average, from the slices of a checkpoint."""
    reader = Reader(checkpoint, net, dist.rank())
    for piece in engine.held():
        piece.master.copy_(reader.read("master", piece.name, piece.offset, piece.length))
        for kind, tensor in piece.state.items():
            tensor.copy_(reader.read(kind, piece.name, piece.offset, piece.length))
    for name, buffer in buffers(engine):
        buffer.copy_(reader.whole("buffer", name))
    engine.restored(reader.net["optimizer_steps"])
    if ema is not None:
        for piece, average in zip(engine.owned(), ema.averages):
            average.copy_(reader.read("ema", piece.name, piece.offset, piece.length))
        ema.updates = reader.net["ema_updates"]


def check_fits(checkpoint: Checkpoint, head: Mapping[str, Any]) -> None:
    """Refuses, before anything is filled, what was saved of other networks."""
    for net, row in head["nets"].items():
        if net not in checkpoint.nets:
            have = ", ".join(checkpoint.nets)
            raise UserError(f"{checkpoint.where} has no network {net!r}; it has: {have}")
        for kind in ("parameters", "buffers"):
            _check_shapes(checkpoint, net, checkpoint.nets[net][kind], row[kind])
        then, now = checkpoint.nets[net]["optimizer"], row["optimizer"]
        if then != now:
            raise UserError(
                f"{checkpoint.where} has the state of optimizer={then}, this run has {now}; "
                "set it back, or begin a new run with init=RUN"
            )
        check_rest(checkpoint, net, row.get("rest"))


def check_rest(checkpoint: Checkpoint, net: str, now: str | None) -> None:
    """Refuses what was trained inside other weights than those that keep still now."""
    then = checkpoint.nets[net].get("rest")
    if then not in (None, now):
        below = ", ".join(checkpoint.manifest.get("stages", {}).values()) or "the seed"
        raise UserError(
            f"{checkpoint.where}: what keeps still in {net} came from {below} with other weights "
            "than are there now; bring them back"
        )


def _check_shapes(
    checkpoint: Checkpoint, net: str, then: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    for name in [*then, *now]:
        if then.get(name) != now.get(name):
            raise UserError(
                f"{checkpoint.where}: {name} of {net} is {then.get(name, 'absent')}, this run's "
                f"is {now.get(name, 'absent')}; set the model back, or use run=DIR for a new run"
            )


def weights(checkpoint: Checkpoint, net: str, averaged: bool) -> dict[str, Tensor]:
    """A network's state dict: the average where there is one and it is wanted."""
    reader = Reader(checkpoint, net)
    kept = averaged and reader.net["ema_updates"] is not None
    kind = "ema" if kept else "master"
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
