"""A family that reads how pictures move: an array of vectors beside the video."""

from dataclasses import dataclass

from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, array, video
from hvdm.data.moves import VECTORS
from hvdm.recipe import Batch, Context, Given, Logs, Phase, Recipe


@dataclass(frozen=True)
class Config:
    width: int = 4


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    shape = (data.frames - 1, 2, data.height, data.width)
    return video(data), array("flow", "flow.npy", shape, VECTORS, timed=True)


class Moving:
    """Regression of the vectors between two frames."""

    averaged: tuple[str, ...] = ()
    coder = None
    samples: dict[str, object] = {}

    def __init__(self, config: Config, given: Given) -> None:
        frames, components, *_ = given.shapes["flow"]
        body = nn.Conv3d(given.clip.channels, components, (2, 3, 3), padding=(0, 1, 1))
        self.trained = nn.ModuleDict({"body": body})
        self.frozen = nn.ModuleDict()
        self.phases = (Phase("body", self.loss),)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        guess = self.trained["body"](batch.pixels()).transpose(1, 2)
        return (guess - batch["flow"]).square().mean((1, 2, 3, 4)), {}


def build(config: Config, given: Given) -> Recipe:
    return Moving(config, given)
