"""Depth beside pictures: `hvdm data derive depth`, by an estimator or from files."""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from hvdm import config as configs
from hvdm.data import child
from hvdm.data.decode import CannotDecode
from hvdm.data.depth import DEPTH_FILES, DEPTH_SUFFIX, Placing, checked, read_depth
from hvdm.data.derivation import saved
from hvdm.data.fields import read_media
from hvdm.data.schema import Sample
from hvdm.disk import sha256_of, sha256_of_file
from hvdm.errors import UserError

Estimate = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.generic]]
"""Pixels `H W 3` -> depth or disparity `H W`."""


@dataclass
class Depth:
    """Of pictures. `files` is a folder of KEY.png, KEY.npz or KEY.npy; `estimator` a TorchScript
    file, or MODULE:NAME of a function, and `sha256` the hash of that file or that module's."""

    files: str | None = None
    estimator: str | None = None
    sha256: str | None = None
    rule: Literal["robust", "none"] = "robust"
    gives: Literal["depth", "disparity"] = "depth"
    near: float = 1.9
    far: float = 4.2

    def __post_init__(self) -> None:
        if (self.files is None) == (self.estimator is None):
            raise UserError("depth comes from files=DIR, or from estimator= with sha256=")
        if self.files is not None and not Path(self.files).is_dir():
            raise UserError(f"files={self.files}: there is no such folder")
        if self.estimator is not None:
            self.sha256 = _trusted(self.estimator, self.sha256)

    @property
    def placing(self) -> Placing:
        return configs.take(Placing, self)

    def identity(self) -> dict[str, Any]:
        source = _listing(Path(self.files)) if self.files else self.sha256
        placing = configs.plain(self.placing)
        return {"generator": "depth", "source": source, "arguments": placing}

    def samples(self, key: str, parts: Mapping[str, bytes]) -> Iterator[Sample]:
        picture = child.call(read_media, dict(parts), False, key)
        if len(picture) != 1:
            raise CannotDecode(f"it has {len(picture)} frames, and depth is made of pictures")
        found = _of_file(Path(self.files), key) if self.files else self._estimated(picture[0])
        depth = self.placing.placed(checked(found, picture.shape[1:3]))
        yield Sample(key, {DEPTH_SUFFIX: saved(depth)})

    def _estimated(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.generic]:
        assert self.estimator is not None and self.sha256 is not None
        return _estimator(self.estimator, self.sha256)(picture)


def _listing(folder: Path) -> str:
    """A hash of which files there are, and how large."""
    rows = sorted(f"{path.name} {path.stat().st_size}" for path in folder.iterdir())
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _of_file(folder: Path, key: str) -> npt.NDArray[np.generic]:
    for suffix in DEPTH_FILES:
        path = folder / f"{key}.{suffix}"
        if path.is_file():
            return child.call(read_depth, path.read_bytes(), suffix)
    raise CannotDecode(f"{folder} has no {key}.{{{','.join(DEPTH_FILES)}}}")


# Estimators: to load one is to run what its file says


def _file_of(estimator: str) -> Path:
    module, sign, name = estimator.rpartition(":")
    if not sign:
        return Path(estimator)
    origin = _origin(module) if name.isidentifier() else None
    if origin is None:
        raise UserError(f"estimator={estimator}: expected a file, or MODULE:NAME that Python finds")
    return Path(origin)


def _origin(module: str) -> str | None:
    """Where a module lies; to find one in a package must not run the package."""
    folders: Sequence[str] | None = None
    origin = None
    for count, _ in enumerate(module.split("."), start=1):
        whole = ".".join(module.split(".")[:count])
        spec = PathFinder.find_spec(whole, folders)
        if spec is None:
            return None
        origin, folders = spec.origin, spec.submodule_search_locations or ()
    return origin


def _trusted(estimator: str, sha256: str | None) -> str:
    path = _file_of(estimator)
    if not path.is_file():
        raise UserError(f"estimator={estimator}: there is no such file")
    own = sha256_of_file(path)
    if sha256 is None or sha256.lower() != own:
        raise UserError(
            f"estimator={estimator} runs what {path.name} says, whose sha256 is {own}: give it as "
            f"sha256= if you know where the file comes from"
        )
    return own


@lru_cache(maxsize=1)
def _estimator(estimator: str, sha256: str) -> Estimate:
    """In each process once; what lies there by then is what the hash was given for."""
    data = _file_of(estimator).read_bytes()
    if sha256_of(data) != sha256:
        raise UserError(f"estimator={estimator} has another sha256 than {sha256} by now")
    module, sign, name = estimator.rpartition(":")
    if sign:
        found: Estimate | None = vars(import_module(module)).get(name)
        if found is None:
            raise UserError(f"estimator={estimator}: {module} has no {name}")
        return found
    return _scripted(torch.jit.load(io.BytesIO(data), map_location="cpu").eval())


def _scripted(network: Any) -> Estimate:
    """A TorchScript module takes `1 3 H W` in [0, 1]."""

    @torch.no_grad()
    def estimate(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.generic]:
        torch.set_num_threads(1)
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        return np.asarray(network(pixels.float() / 255).float().numpy())

    return estimate
