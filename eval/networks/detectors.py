"""Networks whose features are compared, made through torch-fidelity's registry."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch_fidelity.utils import create_feature_extractor

from eval.networks import weights
from eval.networks.extractors import LAYER, LOGITS_LAYER, PLACE_LAYER, REGISTERED
from eval.networks.i3d import FEWEST_FRAMES
from eval.networks.preprocess import WAYS, frames_of
from hvdm.errors import UserError, closest
from hvdm.nets.state_files import repacked

Takes = Literal["clips", "frames"]
Layers = Mapping[str, npt.NDArray[np.float32]]
FEATURES, LOGITS, PLACE = "features", "logits", "place"
OWN_SIZE = "x/127.5-1, size of the clip"


@dataclass(frozen=True)
class DetectorSpec:
    """How to make a detector; `missing` says what stands in the way of one that is not ready."""

    comparable: bool
    takes: tuple[Takes, ...]
    extractors: Mapping[str, str] = field(default_factory=dict)
    """The way that pixels are prepared, and torch-fidelity's name of the extractor for it."""
    layers: Mapping[str, str] = field(default_factory=lambda: {FEATURES: LAYER, LOGITS: LAYER})
    weights: str | None = None
    least_frames: int = 1
    missing: str | None = None


_UNVERIFIED = (
    "its network and weights were never verified here, so it is not part of the program; "
    "docs/evaluation.md says how to supply it"
)
_IMAGES = "TensorFlow 1 bilinear, as torch-fidelity does"

KNOWN: dict[str, DetectorSpec] = {
    "untrained": DetectorSpec(False, ("clips", "frames"), {OWN_SIZE: "untrained"}),
    "digits": DetectorSpec(
        False,
        ("frames",),
        {"ground and ink at one contrast, 32x32": "digits"},
        {FEATURES: LAYER, LOGITS: LOGITS_LAYER, PLACE: PLACE_LAYER},
    ),
    "i3d": DetectorSpec(
        True,
        ("clips",),
        {"tf-reference": "i3d-tf-reference", "videogpt": "i3d-videogpt"},
        weights="i3d",
        least_frames=FEWEST_FRAMES,
    ),
    "i3d-stylegan-v": DetectorSpec(
        True,
        ("clips",),
        {"none": "i3d-stylegan-v"},
        weights="i3d-stylegan-v",
        least_frames=FEWEST_FRAMES,
    ),
    **{
        name: DetectorSpec(
            True,
            ("clips",),
            {"dynamic-textures": "dynamic-textures"},
            weights=name,
            least_frames=frames,
        )
        for name, frames in (("dti3d", 16), ("dti3d-32", 32))
    },
    "inception": DetectorSpec(
        True,
        ("frames",),
        {_IMAGES: "inception-v3-compat"},
        {FEATURES: "2048", LOGITS: "logits_unbiased"},
        weights="inception",
    ),
    "vgg16": DetectorSpec(
        True, ("frames",), {_IMAGES: "vgg16"}, {FEATURES: "fc2_relu"}, weights="vgg16"
    ),
    "videomae": DetectorSpec(False, ("clips",), missing=f"the detector of cd-FVD: {_UNVERIFIED}"),
    "c3d": DetectorSpec(False, ("clips",), missing=f"C3D, UCF-101, of the video IS: {_UNVERIFIED}"),
}


@dataclass(frozen=True)
class DetectorChoice:
    """A detector as a worker can make it: plain, and equal for equal features."""

    name: str
    takes: Takes
    way: str
    path: str | None = None


@dataclass(frozen=True)
class Detector:
    """A network ready to use, and what a fingerprint says of it."""

    name: str
    sha256: str
    comparable: bool
    preprocessing: str
    layers: tuple[str, ...]
    extract: Callable[[Tensor], Layers]
    """uint8 `B T H W C` -> features `N D` by layer; N is B, or BT where frames count."""

    def fields(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256, "preprocessing": self.preprocessing}


def find(name: str) -> DetectorSpec:
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


def choose(
    name: str, takes: Takes | None = None, way: str | None = None, folder: Path | None = None
) -> DetectorChoice:
    """The detector for clips or frames, prepared one way or its first, with verified weights."""
    known = find(name)
    if takes and takes not in known.takes:
        raise UserError(f"detector={name} takes {known.takes[0]}, and this protocol {takes}")
    path = None
    if known.weights:
        try:
            path = str(weights.need(known.weights, folder or weights.folder_of(None)))
        except UserError as error:
            raise UserError(
                f"detector={name}: {error}; detector=untrained gives a number that is not "
                "comparable with any published one"
            ) from None
    chosen = way if way and way in known.extractors else next(iter(known.extractors))
    return DetectorChoice(name, takes or known.takes[0], chosen, path)


def make(choice: DetectorChoice | str, device: str = "cpu") -> Detector:
    """The network, through torch-fidelity's registry; kept until another one is asked for."""
    return _made(choose(choice) if isinstance(choice, str) else choice, device)


@lru_cache(maxsize=2)
def _made(choice: DetectorChoice, device: str) -> Detector:
    known = find(choice.name)
    inner = list(dict.fromkeys(known.layers.values()))
    network = _network(known, choice, inner)
    digest = weights_sha256(network)
    network.to(device)
    own_frames = known.extractors[choice.way] in REGISTERED

    @torch.no_grad()
    def extract(video: Tensor) -> Layers:
        shown = as_frames(video, own_frames) if choice.takes == "frames" else video
        found = network(shown.to(device))
        by_name = {k: v.float().cpu().numpy() for k, v in zip(inner, found, strict=True)}
        own = known.layers[FEATURES]
        return {
            name: by_name[k] for name, k in known.layers.items() if name == FEATURES or k != own
        }

    said = WAYS[choice.way][1] if choice.way in WAYS else choice.way
    return Detector(choice.name, digest, known.comparable, said, tuple(known.layers), extract)


def _network(known: DetectorSpec, choice: DetectorChoice, layers: list[str]) -> nn.Module:
    """Our own extractors read files with care; torch-fidelity's unpickle what they are given."""
    name, path = known.extractors[choice.way], choice.path
    given = repacked(Path(path)) if path and name not in REGISTERED else path
    try:
        network: nn.Module = create_feature_extractor(
            name, layers, cuda=False, verbose=False, feature_extractor_weights_path=given
        )
    except RuntimeError as error:
        line = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} does not fit detector={choice.name} ({line})") from None
    return network


def as_frames(video: Tensor, clips: bool) -> Tensor:
    """Frames one by one: as clips of one frame, or as the images that torch-fidelity's nets take"""
    return video.flatten(0, 1)[:, None] if clips else frames_of(video)


def weights_sha256(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
