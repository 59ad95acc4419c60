"""Elements of any parameter from a checkpoint, whoever wrote it and on however many ranks."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    """Elements by kind, name and range. A file is opened when something in it is asked for."""

    def __init__(self, checkpoint: Checkpoint, net: str) -> None:
        self.net = checkpoint.nets[net]
        self._checkpoint = checkpoint
        self._files = [f for f in checkpoint.manifest["files"] if f.split(".")[0] == net]
        self._pieces: dict[tuple[str, str], list[tuple[int, Tensor]]] = {}

    def _load(self, kind: str | None = None) -> None:
        """Opens the files that may hold a kind; all of them where none is named."""
        group = {"master": "weights", "ema": "ema", "buffer": "buffers", None: None}
        wanted = group.get(kind, "optimizer")
        for file in list(self._files):
            held = file.split(".")[1]
            if wanted is None or held == wanted or held not in GROUPS:
                self._files.remove(file)
                self._index(self._checkpoint.file(file))

    def _index(self, path: Path) -> None:
        for key, values in mapped(path).items():
            kind, rest = key.split("/", 1)
            name, offset = rest.rsplit("@", 1)
            self._pieces.setdefault((kind, name), []).append((int(offset), values))

    def kinds(self) -> list[str]:
        self._load()
        return sorted({kind for kind, _ in self._pieces})

    def names(self, kind: str) -> list[str]:
        self._load(kind)
        return sorted(name for k, name in self._pieces if k == kind)

    def read(self, kind: str, name: str, begin: int, length: int) -> Tensor:
        """Elements in the file's own pages where one piece has them all: copy, do not change."""
        self._load(kind)
        parts = []
        at, end = begin, begin + length
        for offset, values in sorted(self._pieces.get((kind, name), ()), key=lambda p: p[0]):
            if offset <= at < offset + len(values) and at < end:
                stop = min(end, offset + len(values))
                parts.append(values[at - offset : stop - offset])
                at = stop
        if at != end:
            raise RunError(f"{self._checkpoint.where} lacks {kind} of {name} from element {at}")
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0)

    def whole(self, kind: str, name: str) -> Tensor:
        shape = self.net["buffers" if kind == "buffer" else "parameters"][name]
        return self.read(kind, name, 0, int(torch.Size(shape).numel())).view(shape)


def mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `writing` wrote, in its pages: new memory is what costs time."""
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        rows = json.loads(handle.read(length))
    size, begin = path.stat().st_size, 8 + length
    pages = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    return {
        key: pages[begin + first : begin + last].view(_TYPES[row["dtype"]])
        for key, row in rows.items()
        for first, last in [row["data_offsets"]]
    }


def restore(checkpoint: Checkpoint, net: str, engine: Engine, ema: Ema | None) -> None:
    """Fills an engine, and its average, from the slices of a checkpoint."""
    reader = Reader(checkpoint, net)
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
