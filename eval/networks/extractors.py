"""Networks registered with torch-fidelity. They take uint8 video `B T H W C`."""

import itertools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_fidelity import register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from eval.networks.digit_reader import digit_reader, ink
from eval.networks.i3d import CLASSES, FEWEST_FRAMES, I3D
from eval.networks.preprocess import WAYS, as_it_is
from hvdm import rng
from hvdm.errors import UserError
from hvdm.nets.state_files import read_state

LAYER, LOGITS_LAYER, PLACE_LAYER = "features", "logits", "place"
TEXTURE_CLASSES, TEXTURE_EPS = 18, 1e-5
CHANNELS = (3, 16, 16, 16)
STRIDES = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
GAIN = 4.0
"""Differences of frames are small beside the frames; at equal weight motion would hardly count."""


class _Video(FeatureExtractorBase, ABC):
    """What torch-fidelity wants of an extractor with one layer."""

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | None = None,
        feature_extractor_internal_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, features_list)
        if feature_extractor_internal_dtype not in (None, "float32"):
            raise UserError(f"detector {name} computes in float32")
        self.prepare(feature_extractor_weights_path)
        self.requires_grad_(False).eval()

    @abstractmethod
    def prepare(self, path: str | None) -> None:
        """Builds the network, from a file where it has weights."""

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
        return torch.zeros(1, 16, 16, 16, 3, dtype=torch.uint8)


class Untrained(_Video):
    """Seeded 3D convolutions over frames and their differences; 64 features, 32 of one frame.

    It sees structure and motion, and knows nothing of what matters to people.
    """

    def prepare(self, path: str | None) -> None:
        if path:
            raise UserError("detector=untrained takes no weights")
        self.frames, self.motion = _convolutions("frames"), _convolutions("motion")

    def forward(self, video: Tensor) -> tuple[Tensor, ...]:
        check_video(video)
        x = video.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        still = _described(x, self.frames)
        if x.shape[2] == 1:
            return (still,)
        moved = functional.pad(x.diff(dim=2), (0, 0, 0, 0, 1, 0)) * GAIN
        return (torch.cat([still, _described(moved, self.motion)], dim=1),)


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


class I3dTfReference(_Video):
    """Our I3D with a state dict from a file, fed as the reference code of FVD does."""

    way = "tf-reference"

    def prepare(self, path: str | None) -> None:
        if path is None:
            raise UserError("detector=i3d needs a file of weights")
        self.network = I3D()
        load_state(self.network, path)

    def forward(self, video: Tensor) -> tuple[Tensor, ...]:
        check_video(video, FEWEST_FRAMES)
        return (self.network(WAYS[self.way][0](video)),)


class I3dVideoGpt(I3dTfReference):
    way = "videogpt"


class DynamicTextures(_Video):
    """I3D of the Dynamic Texture Database: what comes before its 18 logits, mean over the clip."""

    way = "dynamic-textures"

    def prepare(self, path: str | None) -> None:
        if path is None:
            raise UserError("detectors of DT-FVD need a file of weights")
        self.network = I3D(TEXTURE_CLASSES)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = TEXTURE_EPS
        load_state(self.network, path, TEXTURE_CLASSES)

    def forward(self, video: Tensor) -> tuple[Tensor, ...]:
        check_video(video, FEWEST_FRAMES)
        return (self.network.described(WAYS[self.way][0](video)).mean((2, 3, 4)),)


class I3dTorchScript(_Video):
    """The TorchScript of StyleGAN-V, which scales and resizes by itself."""

    def prepare(self, path: str | None) -> None:
        if path is None:
            raise UserError("detector=i3d-stylegan-v needs a file of weights")
        try:
            self.network = torch.jit.load(path, map_location="cpu")
        except RuntimeError as error:
            line = str(error).strip().splitlines()[0]
            raise UserError(f"{path} is no TorchScript file ({line})") from None

    def forward(self, video: Tensor) -> tuple[Tensor, ...]:
        check_video(video, FEWEST_FRAMES)
        return (self.network(as_it_is(video), rescale=True, resize=True, return_features=True),)


class Digits(_Video):
    """The reader of digits, frame by frame: features, logits, and where the digit is."""

    def prepare(self, path: str | None) -> None:
        if path:
            raise UserError("detector=digits takes no weights: its own come with the package")
        self.network = digit_reader()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (LAYER, LOGITS_LAYER, PLACE_LAYER)

    def forward(self, video: Tensor) -> tuple[Tensor, ...]:
        check_video(video)
        frames = video.flatten(0, 1)
        features, logits = self.network(frames)
        found = {LAYER: features, LOGITS_LAYER: logits, PLACE_LAYER: ink(frames)}
        return tuple(found[name] for name in self.features_list)


def load_state(network: nn.Module, path: str, classes: int = CLASSES) -> None:
    """Fills a network from a file; names the first entry that does not fit."""
    try:
        network.load_state_dict(read_state(Path(path)))
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise UserError(
            f"{path} does not fit I3D with {classes} classes ({lines[-1].strip()})"
        ) from None


def check_video(video: Tensor, frames: int = 1) -> None:
    shape = "x".join(map(str, video.shape))
    if video.dtype != torch.uint8 or video.dim() != 5 or video.shape[-1] != 3:
        raise UserError(f"a detector takes uint8 B T H W 3, got {video.dtype} {shape}")
    if video.shape[1] < frames:
        raise UserError(
            f"this detector needs clips of at least {frames} frames, these have {video.shape[1]}; "
            "use longer clips or another detector"
        )


REGISTERED: dict[str, type[FeatureExtractorBase]] = {
    "untrained": Untrained,
    "digits": Digits,
    "i3d-tf-reference": I3dTfReference,
    "i3d-videogpt": I3dVideoGpt,
    "i3d-stylegan-v": I3dTorchScript,
    "dynamic-textures": DynamicTextures,
}
for _name, _class in REGISTERED.items():
    if _name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(_name, _class)
