"""Networks whose features are compared, registered with torch-fidelity and made through it."""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_fidelity import register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
from torch_fidelity.utils import create_feature_extractor

from hvdm import rng
from hvdm.errors import UserError, closest

LAYER = "features"
CHANNELS = (3, 16, 16, 16)
STRIDES = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
GAIN = 4.0
"""Differences of frames are small beside the frames; at equal weight motion would hardly count."""


class Untrained(FeatureExtractorBase):
    """Seeded 3D convolutions over frames and their differences; 64 features per clip.

    uint8 `B T H W C`. It sees structure and motion, and knows nothing of what matters to people.
    """

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | None = None,
        feature_extractor_internal_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, features_list)
        if feature_extractor_weights_path or feature_extractor_internal_dtype not in (
            None,
            "float32",
        ):
            raise UserError(f"detector {name} takes no weights, and computes in float32")
        self.frames, self.motion = _convolutions("frames"), _convolutions("motion")
        self.requires_grad_(False).eval()

    def forward(self, video: Tensor) -> tuple[Tensor, ...]:
        if video.dtype != torch.uint8 or video.dim() != 5 or video.shape[-1] != 3:
            shape = "x".join(map(str, video.shape))
            raise UserError(f"a detector takes uint8 B T H W 3, got {video.dtype} {shape}")
        x = video.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        moved = functional.pad(x.diff(dim=2), (0, 0, 0, 0, 1, 0)) * GAIN
        return (torch.cat([_described(x, self.frames), _described(moved, self.motion)], dim=1),)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (LAYER,)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return LAYER

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 4, 16, 16, 3, dtype=torch.uint8)


def _convolutions(stream: str) -> nn.ParameterList:
    return nn.ParameterList(
        nn.Parameter(_kernel(stream, layer, below, above))
        for layer, (below, above) in enumerate(itertools.pairwise(CHANNELS))
    )


def _kernel(stream: str, layer: int, below: int, above: int) -> Tensor:
    generator = rng.generator("detector", "untrained", stream, layer)
    values = torch.randn((above, below, 3, 3, 3), generator=generator, dtype=torch.float32)
    return values * (2 / (27 * below)) ** 0.5


def _described(x: Tensor, kernels: nn.ParameterList) -> Tensor:
    """`B C T H W` -> `B D`: mean and spread of the last layer's channels."""
    for kernel, stride in zip(kernels, STRIDES, strict=True):
        x = functional.conv3d(x, kernel, stride=stride, padding=1).relu()
    x = x.flatten(2)
    return torch.cat([x.mean(2), x.std(2, correction=0)], dim=1)


@dataclass(frozen=True)
class Detector:
    """A network ready to use, and what a fingerprint says of it."""

    name: str
    sha256: str
    comparable: bool
    preprocessing: str
    extract: Callable[[Tensor], Tensor]
    """uint8 `B T H W C` -> features `B D`, float64 on the CPU."""

    def fields(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256, "preprocessing": self.preprocessing}


@dataclass(frozen=True)
class Known:
    """How to make a detector; `missing` says what stands in the way of one that is not ready."""

    comparable: bool
    preprocessing: str
    extractor: type[FeatureExtractorBase] | None = None
    missing: str | None = None


KNOWN = {
    "untrained": Known(False, "x/127.5-1, size of the clip", Untrained),
    "i3d": Known(
        True,
        "224x224 bilinear, 2x/255-1",
        missing="its weights (I3D, Kinetics-400, 400 logits) are not part of the program, and "
        "reading them from a file is not supported yet",
    ),
}
for _name, _known in KNOWN.items():
    if _known.extractor is not None and _name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(_name, _known.extractor)


def find(name: str) -> Known:
    """What is known of a detector; refuses those whose network is not at hand."""
    if name not in KNOWN:
        raise UserError(f"detector={name!r} is not known; {closest(name, KNOWN)}")
    known = KNOWN[name]
    if known.missing:
        raise UserError(
            f"detector={name}: {known.missing}; detector=untrained gives a number that is not "
            "comparable with any published one"
        )
    return known


@lru_cache(maxsize=1)
def make(name: str, device: str = "cpu") -> Detector:
    """The network, through torch-fidelity's registry."""
    known = find(name)
    network = create_feature_extractor(name, [LAYER], cuda=False, verbose=False)
    digest = weights_sha256(network)
    network.to(device)

    @torch.no_grad()
    def extract(video: Tensor) -> Tensor:
        features: Tensor = network(video.to(device))[0]
        return features.cpu().double()

    return Detector(name, digest, known.comparable, known.preprocessing, extract)


def weights_sha256(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
