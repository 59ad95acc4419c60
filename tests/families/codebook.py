"""A codebook that sums of the whole batch move, its dead codes reset alike (codebook.yaml)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.recipe import Batch, Context, Given, Logs, Phase, Recipe, SampleKind, Sums


@dataclass(frozen=True)
class Config:
    codes: int = 6
    width: int = 4
    decay: float = 0.5
    dead: float = 0.3
    of_own_rows: bool = False  # the error that the equality tests have to find


class Quantiser(nn.Module):
    used: Tensor
    totals: Tensor
    codes: Tensor
    balance: Tensor
    resets: Tensor

    def __init__(self, pixels: int, config: Config) -> None:
        super().__init__()
        self.encode = nn.Linear(pixels, config.width)
        self.decode = nn.Linear(config.width, pixels)
        codes = torch.randn(config.codes, config.width)
        self.register_buffer("codes", codes)
        self.register_buffer("totals", codes.clone())
        self.register_buffer("used", torch.ones(config.codes))
        self.register_buffer("balance", torch.ones(()))
        self.register_buffer("resets", torch.zeros((), dtype=torch.int64))


class Codebook:
    averaged = ("quantiser",)
    coder = None
    samples: Mapping[str, SampleKind] = {}  # nothing

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        self.config, self.shape = config, shape
        self.net = Quantiser(torch.Size(shape).numel(), config)
        self.trained = nn.ModuleDict({"quantiser": self.net})
        self.frozen = nn.ModuleDict()
        self.phases = (Phase("quantiser", self.loss, after=self.after),)
        self.own: dict[str, Tensor] = {}

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs, Sums]:
        image = batch.pixels().flatten(1)
        code = self.net.encode(image)
        index = torch.cdist(code.float(), self.net.codes.float()).argmin(1)
        nearest = self.net.codes[index].to(code)
        told = code + (nearest - code).detach()
        made = (self.net.decode(told) - image).square().mean(1)
        committed = (code - nearest.detach()).square().mean(1)
        self.own = self.sums(batch, code.detach().double(), index, made, committed)
        return made + self.net.balance * committed, {"committed": committed}, self.own

    def sums(
        self, batch: Batch, code: Tensor, index: Tensor, made: Tensor, committed: Tensor
    ) -> dict[str, Tensor]:
        """A row's place in the batch says which code it would replace; elsewhere are zeros."""
        weight = batch.weight.double()
        chosen = nn.functional.one_hot(index, self.config.codes) * weight[:, None]
        place = torch.tensor(batch.draws, device=index.device) % 8
        spare = (place[:, None] == torch.arange(self.config.codes, device=index.device)) * weight[
            :, None
        ]
        return {
            "counts": chosen.sum(0),
            "totals": chosen.T @ code,
            "spare": spare.T @ code,
            "errors": (torch.stack([made, committed]).detach().double() * weight).sum(1),
        }

    def after(self, sums: Sums) -> None:
        """Moving averages; a code that the whole batch hardly uses takes its spare row."""
        net, keep = self.net, self.config.decay
        sums = self.own if self.config.of_own_rows else sums
        net.used.lerp_(sums["counts"].to(net.used), 1 - keep)
        net.totals.lerp_(sums["totals"].to(net.totals), 1 - keep)
        dead = net.used < self.config.dead
        net.used[dead] = 1
        net.totals[dead] = sums["spare"].to(net.totals)[dead]
        net.codes.copy_(net.totals / net.used[:, None])
        net.resets += dead.sum()
        made, committed = sums["errors"]
        net.balance.copy_((made / committed).clamp(0.1, 1))


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    return Codebook(config, given.clip.shape)
