"""Protocols: named and versioned ways to measure, and the fingerprint that each number carries."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from hvdm import config as configs
from hvdm.errors import UserError, closest


@dataclass(frozen=True)
class Protocol:
    """What a name and a version fix. `frames` of () are those of the run, or of frames=N."""

    name: str
    about: str
    version: int
    kind: str
    """One of `eval.catalogue`."""
    clips: int
    block: int
    """Clips that one worker measures at a time."""
    batch: int
    """Rows of a forward pass; fixed, because float sums depend on it."""
    metric: str
    frames: tuple[int, ...] = ()
    """The lengths that the protocol knows; the first one unless told."""
    stride: int | None = None
    detector_default: str | None = None
    takes: Literal["clips", "frames"] | None = None
    way: str | None = None
    """How pixels are prepared, where the detector leaves a choice."""
    covariance: Literal["N-1", "N"] | None = None
    start: Literal["first", "random"] = "first"
    """Where a clip of real data begins; what is generated is taken from its first frame."""
    short: Literal["refuse", "leave out"] = "refuse"
    """What becomes of real videos that are too short."""
    window: tuple[int, int] | None = None
    """Frames of a sliding window, and how far apart windows begin."""
    pooled: bool = False
    """All windows of both sides are one set each; or else each is a point of a curve."""
    crop: tuple[int, int] | None = None
    """Height and width of the middle of each clip or window that the detector sees."""
    jpeg: int | None = None
    """The quality of JPEG files that frames of both sides go through before they are seen."""
    real_split: Literal["held_out", "train"] = "held_out"
    """Which split of a run's data is the real side, and what an autoencoder reconstructs."""
    real_clips: int | Literal["all"] | None = None
    """At most so many real clips, against `clips` generated ones; None: equally many."""
    what: str | None = None
    """The kind of sample that is measured; unless it says, what was asked for."""
    reads: tuple[str, ...] = ()
    """Fields of the data, besides those that samples are made of, that they are compared with."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of that kind of sample; they cannot be asked for otherwise."""
    groups: int = 20
    """Blocks of clips that the jackknife leaves out, one after the other."""

    @property
    def full_name(self) -> str:
        return f"{self.name}@{self.version}"

    def block_of(self, clips: int) -> int:
        """Smaller blocks where there are few clips: the jackknife needs several."""
        return min(self.block, max(1, -(-clips // self.groups)))

    @property
    def most_real(self) -> int | None:
        """None: all that are there."""
        return None if self.real_clips == "all" else self.real_clips or self.clips

    @property
    def ddof(self) -> int:
        return 0 if self.covariance == "N" else 1


_clips = partial(
    Protocol, version=1, kind="frechet", clips=2048, block=64, batch=8,
    metric="fvd", detector_default="i3d", takes="clips", covariance="N-1",
)  # fmt: skip
_frames = partial(
    Protocol, version=1, kind="frechet", clips=2048, block=64, batch=4,
    metric="fid", detector_default="inception", takes="frames", groups=10,
)  # fmt: skip
_against_training = partial(
    _frames, clips=50_000, block=500, batch=50, real_split="train", real_clips="all"
)
_of_dynamics = {"crop": (128, 256), "start": "random", "short": "leave out"}
"""Frames of 160x256, of which papers on image dynamics (2309.07906) look at the middle."""
_depth = partial(
    Protocol, version=1, batch=8, takes=None, groups=10,
)  # fmt: skip
MIDDLE = (128, 256)
"""Of frames of 160x256: what papers of image dynamics look at."""
_dynamics = partial(_clips, metric="fvd", way="tf-reference", crop=MIDDLE, pooled=True)
_textures = partial(
    _dynamics, metric="dtfvd", way="dynamic-textures", detector_default="dti3d"
)  # fmt: skip
_rows = partial(Protocol, version=1, batch=8, block=16)
_seconds = partial(
    Protocol, version=1, kind="seconds", clips=300, block=300, batch=100,
    metric="seconds_per_batch", groups=1,
)  # fmt: skip
_ALL = (
    Protocol(
        name="reconstruction",
        version=1,
        kind="reconstruction",
        about="PSNR, SSIM, LPIPS and R-FVD of held-out clips, encoded, decoded and rounded",
        clips=256,
        block=16,
        batch=4,
        metric="psnr",
        takes="clips",
        way="tf-reference",
    ),
    _clips(
        "fvd/stylegan-v",
        "one clip of 16 or 128 frames from each video, at random; I3D of StyleGAN-V, "
        "covariance over N",
        frames=(16, 128),
        detector_default="i3d-stylegan-v",
        way="none",
        covariance="N",
        start="random",
        short="leave out",
    ),
    _clips(
        "fvd/tf-reference",
        "clips from the first frame, TensorFlow 1 resize to 224x224; 400 logits of I3D, "
        "covariance over N-1",
        way="tf-reference",
    ),
    _clips(
        "fvd/videogpt",
        "one clip of 16 frames from each video, at random, shorter side to 224 and centre crop; "
        "400 logits of I3D, covariance over N-1",
        frames=(16,),
        way="videogpt",
        start="random",
        short="leave out",
    ),
    _clips(
        "fvd/sliding-window",
        "windows of 16 frames, one after the other, each against the same real clips of 16",
        way="tf-reference",
        window=(16, 16),
        start="random",
        short="leave out",
        metric="fvd_mean",
    ),
    _clips(
        "kvd",
        "unbiased MMD^2 of 400 logits of I3D, kernel (x.y/400+1)^3, all pairs; DIGAN and PVDM",
        kind="mmd",
        metric="kvd",
        frames=(16,),
        way="videogpt",
        covariance=None,
        start="random",
        short="leave out",
    ),
    _frames(
        "fid",
        "frames of clips as images; 2048 features of Inception v3, covariance over N-1",
        covariance="N-1",
    ),
    _frames(
        "fid/sliding-window",
        "frames within windows of 16, one after the other, each against the same real frames",
        window=(16, 16),
        covariance="N-1",
        start="random",
        short="leave out",
        metric="fid_mean",
    ),
    _against_training(
        "fid/50k",
        "50,000 images against all of the training split, as their pixels are; Inception v3",
        covariance="N-1",
    ),
    _against_training(
        "fid/50k-jpeg",
        "the same where both sides go through JPEG files of quality 75, as WaveDiff's scripts have",
        covariance="N-1",
        jpeg=75,
    ),
    _against_training(
        "prc/50k",
        "precision and recall of 50,000 images against all of the training split, 3 neighbours",
        kind="precision",
        metric="recall",
        takes=None,
        detector_default="vgg16",
        groups=1,
    ),
    _frames("kid", "MMD^2 of Inception features, 100 subsets of 1000", kind="kid", metric="kid"),
    _frames(
        "prc",
        "precision and recall within balls of 3 neighbours; features of VGG16, or of detector=",
        kind="precision",
        metric="precision",
        takes=None,
        detector_default="vgg16",
    ),
    _frames(
        "is",
        "inception score of frames by Inception v3, ten splits; of clips with detector=i3d",
        kind="inception",
        metric="is",
        takes=None,
    ),
    _frames(
        "digits",
        "digits that are read as what was asked for, distance and copies in the reader's features",
        kind="classes",
        metric="distance",
        clips=5000,
        block=128,
        batch=64,
        covariance="N-1",
        detector_default="digits",
        real_clips="all",
    ),
    _against_training(
        "fid/10k",
        "10,000 images against all of the training split, as their pixels are; Inception v3",
        covariance="N-1",
        clips=10_000,
    ),
    _frames(
        "fid/image-dynamics",
        "all frames of films, their middle 128x256, as images (2309.07906)",
        covariance="N-1",
        crop=MIDDLE,
    ),
    _frames("kid/image-dynamics", "KID of the same frames", kind="kid", metric="kid", crop=MIDDLE),
    _dynamics(
        "fvd/image-dynamics",
        "all windows of 16 frames of films, their middle 128x256; 400 logits of I3D (2309.07906)",
        window=(16, 16),
    ),
    _dynamics("fvd32/image-dynamics", "the same of windows of 32 frames", window=(32, 32)),
    _textures(
        "dtfvd/image-dynamics",
        "the same of 16 frames in 1024 features of I3D of dynamic textures: DT-FVD",
        window=(16, 16),
    ),
    _textures(
        "dtfvd32/image-dynamics",
        "the same of windows of 32 frames: DT-FVD32",
        window=(32, 32),
        detector_default="dti3d-32",
    ),
    _frames(
        "fid/image-dynamics-sliding",
        "frames within windows of 30, one after the other, against the same real frames",
        covariance="N-1",
        window=(30, 30),
        crop=MIDDLE,
        start="random",
        short="leave out",
        metric="fid_mean",
    ),
    _textures(
        "dtfvd/image-dynamics-sliding",
        "windows of 16 frames, one after the other, against the same real windows: DT-FVD",
        window=(16, 16),
        pooled=False,
        start="random",
        short="leave out",
        metric="dtfvd_mean",
    ),
    _frames(
        "nfid",
        "objects from a random side as images against real ones; Inception v3: novel-view FID",
        covariance="N-1",
        what="novel",
    ),
    _against_training(
        "nfid/20k",
        "20,000 objects from a random side against all of the training split; novel-view FID",
        covariance="N-1",
        what="novel",
        clips=20_000,
    ),
    _rows(
        "non-flatness",
        "3DGP's score: 1, all of a map at one depth, to 64, of maps from the front, half of the "
        "densities taken away",
        kind="flatness",
        metric="non_flatness",
        clips=256,
        what="places",
        options={"cut": 0.5},
    ),
    _rows(
        "views",
        "PSNR and SSIM of true views of scenes from other sides, beside the picture's pixels moved "
        "by their depth and the picture as it is",
        kind="views",
        metric="psnr",
        clips=256,
        what="turned",
        reads=("views", "seen"),
    ),
    _seconds("seconds", "seconds of 100 samples at once, as WaveDiff is timed, and of one alone"),
    _seconds("seconds/25", "the same of 25, as WaveDiff is timed at 512x512 and more", batch=25),
    Protocol(
        name="features",
        version=1,
        kind="features",
        about="Frechet distance, KID, precision and recall of two .npy files of features",
        clips=0,
        block=0,
        batch=0,
        metric="frechet",
        covariance="N-1",
    ),
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.full_name: protocol for protocol in _ALL}


def find(name: str, clips: int | None = None) -> Protocol:
    """NAME@VERSION, or NAME for its newest version; `clips` replaces the protocol's count."""
    versions = [p for p in PROTOCOLS.values() if name in (p.name, p.full_name)]
    if not versions:
        raise UserError(f"protocol={name!r} is not known; {closest(name, PROTOCOLS)}")
    found = max(versions, key=lambda p: p.version)
    if clips is None:
        return found
    if clips < 2:
        raise UserError(f"clips={clips}: a spread needs at least 2 clips")
    return replace(found, clips=clips)


def frames_of(protocol: Protocol, asked: int | None, there: int | None) -> int | None:
    """How many frames a clip has: the protocol's, what was asked for, or what is there."""
    if protocol.frames and asked is not None and asked not in protocol.frames:
        known = " or ".join(map(str, protocol.frames))
        raise UserError(f"frames={asked}: {protocol.full_name} is for clips of {known}")
    if protocol.frames:
        return asked or protocol.frames[0]
    return asked or there


def fingerprint(fields: Mapping[str, Any]) -> str:
    """sha256 of the fields: equal for two models that were measured alike."""
    return configs.digest(fields)
