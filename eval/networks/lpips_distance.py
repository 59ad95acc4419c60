"""LPIPS by torch-fidelity's module, with verified files in place of its downloads."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_fidelity.utils import create_sample_similarity

from eval.networks import weights
from eval.networks.detectors import weights_sha256
from hvdm.errors import UserError
from hvdm.nets.state_files import repacked

FILES = ("lpips-vgg", "vgg16")


def available(folder: Path) -> str | None:
    """None where both files are there and whole; else what is missing."""
    for name in FILES:
        try:
            weights.need(name, folder)
        except UserError as error:
            return str(error)
    return None


@lru_cache(maxsize=1)
def make(folder: str, device: str = "cpu") -> nn.Module:
    """The network; `folder` holds both files."""
    paths = [weights.need(name, Path(folder)) for name in FILES]
    with _hub_of(paths):
        network: nn.Module = create_sample_similarity(
            "lpips-vgg16", cuda=False, sample_similarity_dtype="uint8", verbose=False
        )
    return network.to(device).eval().requires_grad_(False)


@contextmanager
def _hub_of(paths: list[Path]) -> Iterator[None]:
    """torch's download folder, for a moment one in which the tensors of the files are there."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkpoints"
        place.mkdir()
        for path in paths:
            (place / path.name).write_bytes(repacked(path).getbuffer())
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


def sha256(folder: str) -> str:
    return weights_sha256(make(folder))


def distance(network: nn.Module, original: Tensor, other: Tensor, device: str = "cpu") -> Tensor:
    """uint8 `B T H W C` twice -> the mean over the frames of each clip."""
    pairs = [video.flatten(0, 1).permute(0, 3, 1, 2).to(device) for video in (original, other)]
    found: Tensor = network(*pairs).flatten().double().cpu()
    return found.unflatten(0, original.shape[:2]).mean(1)
