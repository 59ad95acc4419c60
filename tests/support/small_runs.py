"""A small run of each family, and the data that it trains on: for tests of what is around them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_tools.derive import derive
from data_tools.motion_volumes import MotionVolumes
from data_tools.synthetic.making import make
from eval.protocol.request import Request
from hvdm.config import RunConfig
from hvdm.run import run
from launcher import compose

SHARED = [
    "data.lanes=4", "data.window=4", "data.threads=1", "batch=8", "micro_batch=4",
    "log.tensorboard=false",
]  # fmt: skip
IMAGES = ["data.frames=1", "data.height=16", "data.width=16"]


@dataclass(frozen=True)
class Small:
    """`data` makes a data set in a folder; `typed` are keys, and `asked` what is measured of it.

    `below` is the run that it works on, which is trained without hosts.
    """

    config: str
    data: Callable[[Path], Path]
    typed: list[str]
    asked: Request
    below: "Small | None" = None
    real: Callable[[Path], Path | None] = field(default=lambda data: None)

    def keys(self, folder: Path, data: Path, run: Path, *more: str) -> list[str]:
        """All that is typed, the run below trained first."""
        typed = [f"run={run}", f"data.path={data}", *SHARED, *self.typed, *more]
        if self.below is None:
            return typed
        return [*typed, f"first_stage={self.below.trained(folder, data, 'below')}"]

    def composed(self, folder: Path, data: Path, name: str) -> RunConfig:
        more = ["cluster=inline", "steps=2", "checkpoint.every=8"]
        return compose.run_config(self.config, self.keys(folder, data, folder / name, *more))

    def trained(self, folder: Path, data: Path, name: str = "run") -> Path:
        """Two steps here."""
        if not (folder / name).exists():
            run.train(self.composed(folder, data, name), sinks=())
        return folder / name

    def request(self, run: Path, data: Path, **more: Any) -> Request:
        real = self.real(data)
        return replace(self.asked, run=str(run), real=str(real) if real else None, **more)


def _clips(folder: Path) -> Path:
    make(folder / "clips", seed=3, train=24, test=12, per_shard=8, frames=4, height=16, width=16)
    return folder / "clips"


def _motion(folder: Path) -> Path:
    """Of swaying things, whose films lie beside it."""
    make(folder / "sway", 0, train=8, test=8, per_shard=4, frames=16, height=16, width=24, fps=8,
         kind="sway")  # fmt: skip
    derive(folder / "sway", folder / "motion", MotionVolumes(bins=4, filter="none", every=16))
    return folder / "motion"


def _scenes(folder: Path) -> Path:
    make(folder / "scenes", train=24, test=8, per_shard=8, frames=1, height=16, width=16,
         kind="scenes")  # fmt: skip
    return folder / "scenes"


_FRAMES = Request(None, "fid@1", detector="untrained", clips=8, pictures=False)
_SLICES = ["model.bins=4", "model.multipliers=[1,2]", "data.height=16", "data.width=24"]
MOTION = Small(
    "tiny/image_dynamics_autoencoder",
    _motion,
    [*_SLICES, "model.width=4", "model.frames=16", "model.slices=2"],
    _FRAMES,
)
SMALL = {
    "wavediff": Small(
        "tiny/wavediff_video",
        _clips,
        [
            "model.width=8", "model.multipliers=[1,2]", "model.labels=0", "model.critic_width=4",
            "model.mapping=1", "model.over_time=[4]", "model.penalty_every=2", "data.frames=4",
            "data.height=16", "data.width=16",
        ],
        replace(_FRAMES, protocol="fvd/tf-reference@1"),
    ),
    "pseudo_video": Small(
        "tiny/pseudo_diffusion",
        _clips,
        [
            *IMAGES, "model.width=8", "model.multipliers=[1,2]", "model.attention=[8]",
            "model.sampling_steps=3",
        ],
        _FRAMES,
    ),
    "image_dynamics": Small(
        "tiny/image_dynamics_diffusion",
        _motion,
        [
            *_SLICES, "model.width=8", "model.attending=[1]", "model.picture_width=4",
            "model.slices=2", "model.sampling_steps=3",
        ],
        replace(_FRAMES, protocol="fvd/tf-reference@1,fid@1,fvd/sliding-window@1"),
        MOTION,
        real=lambda data: data.parent / "sway/test",
    ),
    "wildfusion": Small(
        "tiny/wildfusion_autoencoder",
        _scenes,
        [
            *IMAGES, "model.trunk=[8,16]", "model.pyramid=8", "model.width=8", "model.doubling=[8]",
            "model.plane_channels=4", "model.hidden=8", "model.features=4", "model.rays=8",
            "model.coarse=6", "model.fine=4", "model.enlarging=[4]", "model.yaw_steps=2",
            "model.critics_from=1", "model.critics_ramp=1", "model.critic_widths=[4,8]",
            "model.depth_critic_widths=[4,8]", "model.penalty_every=2",
        ],
        replace(_FRAMES, protocol="reconstruction@1,views@1,non-flatness@1,nfid@1"),
    ),
}  # fmt: skip
