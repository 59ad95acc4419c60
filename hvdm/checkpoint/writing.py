"""A rank's slices as files: copied to host memory, written from there, described in a manifest.

One safetensors file per network, group and rank, with tensors named `KIND/PARAMETER@OFFSET`.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hvdm import dist
from hvdm.checkpoint import faults, places
from hvdm.checkpoint.choosing import FORMAT
from hvdm.checkpoint.storage import Storage
from hvdm.errors import RunError
from hvdm.train.ema import Ema
from hvdm.train.engine import Engine
from hvdm.train.part import moves

GROUPS = ("weights", "optimizer", "ema", "buffers")
_GROUP_OF = {"master": "weights", "ema": "ema", "buffer": "buffers"}
_CHUNK = 2**20
"""Small enough to be hashed out of the cache that writing it has filled."""
DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def file_of(net: str, group: str, rank: int) -> str:
    return f"{net}.{group}.rank{rank:05d}.safetensors"


class Image:
    """A safetensors file in host memory: its header, and one buffer that its tensors fill."""

    def __init__(self, tensors: Mapping[str, Tensor], pinned: bool = False) -> None:
        ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
        rows: dict[str, Any] = {}
        places, at = {}, 0
        for key, tensor in ordered:
            places[key] = (at, at := at + tensor.numel() * tensor.element_size())
            rows[key] = {
                "dtype": DTYPES[tensor.dtype],
                "shape": [tensor.numel()],
                "data_offsets": list(places[key]),
            }
        text = json.dumps(rows).encode()
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        self.data = torch.empty(at, dtype=torch.uint8, pin_memory=pinned)
        self._views = {k: self.data[a:b].view(tensors[k].dtype) for k, (a, b) in places.items()}

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        return self._views.keys() == tensors.keys() and all(
            view.numel() == tensors[key].numel() and view.dtype == tensors[key].dtype
            for key, view in self._views.items()
        )

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        if self._views:
            flat = [tensors[key].reshape(-1) for key in self._views]
            torch._foreach_copy_(list(self._views.values()), flat, non_blocking=True)

    def chunks(self) -> Iterator[memoryview]:
        yield memoryview(self.header)
        data = memoryview(self.data.numpy())  # type: ignore[arg-type]
        for at in range(0, len(data), _CHUNK):
            yield data[at : at + _CHUNK]


class HostCopy:
    """The files of this rank, filled in two parts: the second may run beside the next step.

    Weights, moments and averages move in an update only, module buffers in any forward pass. The
    memory stays between saves: new pages are what costs time.
    """

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self._to_fill: list[tuple[Image, dict[str, Tensor]]] = []
        self._computed: torch.cuda.Event | None = None
        self._stream: torch.cuda.Stream | None = None

    @property
    def bytes(self) -> int:
        return sum(image.data.numel() for image in self.images.values())

    def begin(self, engines: Mapping[str, Engine], averages: Mapping[str, Ema]) -> None:
        """Between two steps: makes room, and copies the module buffers."""
        on_gpu = any(p.is_cuda for e in engines.values() for p in e.module.parameters())
        self._to_fill = []
        for net, engine in engines.items():
            for group, tensors in _grouped(engine, averages.get(net)).items():
                file = file_of(net, group, dist.rank())
                if file not in self.images or not self.images[file].fits(tensors):
                    self.images[file] = Image(tensors, pinned=on_gpu)
                if group == "buffers":
                    self.images[file].fill(tensors)
                else:
                    self._to_fill.append((self.images[file], tensors))
        if on_gpu:
            self._computed = torch.cuda.current_stream().record_event()
            self._stream = self._stream or torch.cuda.Stream()

    def finish(self) -> None:
        """On any thread, and before the next update: copies the rest."""
        try:
            with self._beside_the_step():
                for image, tensors in self._to_fill:
                    image.fill(tensors)
        finally:
            self._to_fill = []

    @contextmanager
    def _beside_the_step(self) -> Iterator[None]:
        """On a GPU, copies beside what it computes, once it is past `begin`; and waits for them."""
        if self._stream is None or self._computed is None:
            yield
            return
        self._stream.wait_event(self._computed)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            self._stream.synchronize()


def _grouped(engine: Engine, ema: Ema | None) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for kind, where, tensor in _pieces(engine, ema):
        group = groups.setdefault(_GROUP_OF.get(kind, "optimizer"), {})
        if tensor.numel():
            group[f"{kind}/{where}"] = tensor.detach()
    return groups


def _pieces(engine: Engine, ema: Ema | None) -> Iterator[tuple[str, str, Tensor]]:
    owned = engine.owned()
    for piece in owned:
        where = f"{piece.name}@{piece.offset}"
        yield "master", where, piece.master
        for kind, tensor in piece.state.items():
            yield kind, where, tensor
    for piece, average in zip(owned, ema.averages if ema else ()):
        yield "ema", f"{piece.name}@{piece.offset}", average
    if dist.is_main():
        for name, buffer in buffers(engine):
            yield "buffer", f"{name}@0", buffer


def buffers(engine: Engine) -> Iterable[tuple[str, Tensor]]:
    kept = engine.module.state_dict(keep_vars=True).keys()
    named = engine.module.named_buffers()
    return [(name, b) for name, b in named if name in kept and moves(engine.part, name)]


class Stopped(RunError):
    """The save was abandoned while its files were being written."""


def write_files(
    place: Storage, part: str, images: Mapping[str, Image], step: int, stop: threading.Event
) -> dict[str, Any]:
    """Writes, hashes and makes durable; gives each file's row of the manifest."""
    rows = {}
    for file, image in images.items():
        action = partial(_write_one, place, part, file, image, step, stop)
        rows[file] = place.patiently(action, f"{part}/{file}")
        faults.reach("file-sealed", step)
    faults.reach("files-done", step)
    return rows


def _write_one(
    place: Storage, part: str, file: str, image: Image, step: int, stop: threading.Event
) -> dict[str, Any]:
    if stop.is_set():
        raise Stopped
    with place.writing(part, file) as handle:
        faults.reach("file-begun", step)
        return _write(handle, image, step, stop)


def _write(handle: Any, image: Image, step: int, stop: threading.Event) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    for chunk in image.chunks():
        if stop.is_set():
            raise Stopped
        handle.write(chunk)
        digest.update(chunk)
        if size == 0:
            faults.reach("file-half", step)
        size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}


def head(
    step: int,
    engines: Mapping[str, Engine],
    averages: Mapping[str, Ema],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest but for its files, as things are now."""
    nets = {
        net: {
            "parameters": {n: list(_shape(p)) for n, p in engine.moving.items()},
            "buffers": {n: list(b.shape) for n, b in buffers(engine)},
            "optimizer": engine.optimizer_config.name,
            "optimizer_steps": engine.optimizer_steps,
            "ema_updates": averages[net].updates if net in averages else None,
            **({"part": list(engine.part), "rest": engine.rest} if engine.part else {}),
        }
        for net, engine in engines.items()
    }
    return {**_common(step, dist.world()), "nets": nets, **extra}


def _common(step: int, world: int) -> dict[str, Any]:
    return {"format": FORMAT, "step": step, "time": time.time(), "world": world}


def _shape(parameter: Tensor) -> tuple[int, ...]:
    """ZeRO-3 leaves an empty tensor in place of a parameter and its shape beside it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def whole(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuses to commit what lacks a rank's file."""
    wanted = {
        file_of(net, "weights", rank)
        for net in manifest["nets"]
        for rank in range(manifest["world"])
    }
    missing = sorted(wanted - manifest["files"].keys())
    if missing:
        raise RunError(f"{missing[0]} was not written, and {len(missing) - 1} more")
    return manifest


def save_weights(
    run: Path, step: int, nets: Mapping[str, nn.Module], extra: Mapping[str, Any]
) -> Path:
    """Weights alone, by one process: there is neither an optimizer's state nor an average."""
    place, final = places.storage_of(run), name_of(step)
    images, rows = {}, {}
    for net, module in nets.items():
        named, kept = dict(module.named_parameters()), dict(module.named_buffers())
        images[file_of(net, "weights", 0)] = _filled("master", named)
        images[file_of(net, "buffers", 0)] = _filled("buffer", kept)
        rows[net] = {
            "parameters": {n: list(p.shape) for n, p in named.items()},
            "buffers": {n: list(b.shape) for n, b in kept.items()},
            "optimizer": None,
            "optimizer_steps": 0,
            "ema_updates": None,
        }
    part = place.begin(final)
    files = write_files(place, part, images, step, threading.Event())
    place.commit(part, final, {**_common(step, 1), "nets": rows, "files": files, **extra})
    return place.path(final)


def _filled(kind: str, tensors: Mapping[str, Tensor]) -> Image:
    keyed = {f"{kind}/{name}@0": t.detach() for name, t in tensors.items() if t.numel()}
    image = Image(keyed)
    image.fill(keyed)
    return image
