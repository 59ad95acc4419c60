"""The masked prior: all tokens at once, the surest first (MaskGIT, arXiv 2202.04200; of frames
Phenaki, arXiv 2210.02399), of a tokenizer's run below."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.errors import UserError
from hvdm.options import option
from hvdm.recipe import (
    Batch,
    Coder,
    Context,
    Given,
    Logs,
    Noise,
    Phase,
    Recipe,
    SampleKind,
    SampleRequest,
)
from hvdm.recipes.pseudo_video.layers import Grid, Offsets, Transformer
from hvdm.recipes.pseudo_video.token_stage import TokenStage, gumbel, kinds

GRADIENT_SHARE = 0.1
"""Of what reaches the embeddings: they move slowly."""
KEPT = -1e4


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's, and of what it leaves open Phenaki's code's."""

    width: int = 512
    depth: int = 6
    heads: int = 8
    head_dim: int = 64
    steps: int = 18
    temperature: float = 0.9


@dataclass(frozen=True)
class Unmasking:
    """How tokens are drawn."""

    temperature: float | None = option(None, "of the first step's; default the run's", least=0)


stages = ("first_stage",)


def reads(config: Config, data: DataConfig) -> Sequence[Field]:
    return [video(data)]


def build(config: Config, given: Given) -> Recipe:
    for key in ("width", "depth", "heads", "head_dim", "steps"):
        if getattr(config, key) < 1:
            raise UserError(f"model.{key}={getattr(config, key)} is below 1")
    return MaskedPrior(config, given)


def masked_count(step: int, steps: int, count: int) -> int:
    """How many of so many tokens are masked before a step of sampling."""
    return max(1, round(count * math.cos(math.pi * step / (2 * steps))))


class MaskedTransformer(nn.Module):
    """Tokens, some of them masked -> logits of all."""

    def __init__(self, config: Config, grid: Grid, codes: int) -> None:
        super().__init__()
        width, count = config.width, torch.Size(grid).numel()
        self.grid = grid
        self.tokens = nn.Embedding(codes + 1, width)
        self.places = nn.Embedding(count, width)
        self.offsets = Offsets(3, config.head_dim, config.heads)
        self.layers = Transformer(width, config.depth, config.heads, config.head_dim, places=True)
        self.head = nn.Linear(width, codes)

    def forward(self, numbers: Tensor) -> Tensor:
        """`B N`, a masked one as the number after the last code -> `B N codes`."""
        places = torch.arange(numbers.shape[1], device=numbers.device)
        x = self.tokens(numbers) + self.places(places)
        x = x * GRADIENT_SHARE + x.detach() * (1 - GRADIENT_SHARE)
        out: Tensor = self.head(self.layers.over_grid(x, self.grid, self.offsets(self.grid, x)))
        return out


class MaskedPrior:
    averaged: tuple[str, ...] = ("prior",)
    coder: Coder | None = None
    samples: Mapping[str, SampleKind] = kinds(Unmasking, steps=True)

    def __init__(self, config: Config, given: Given) -> None:
        self.config, self.stage = config, TokenStage(given)
        self.bits = self.stage.coder.bits
        net = MaskedTransformer(config, self.stage.grid, self.stage.codes)
        self.trained = nn.ModuleDict({"prior": net})
        self.frozen = self.stage.nets
        self.phases: tuple[Phase, ...] = (Phase("prior", self.loss),)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """Cross-entropy of the masked tokens, as many as at a step of sampling."""
        numbers = self.stage.numbers(batch, context)
        masked = self._masked(context).to(numbers.device)
        shown = numbers.masked_fill(masked, self.stage.codes)
        logits = self.trained["prior"](shown)
        each = functional.cross_entropy(logits.transpose(1, 2), numbers, reduction="none")
        share = masked.to(each)
        loss = (each * share).sum(1) / share.sum(1)
        return loss, {"masked": share.mean(1)}

    def _masked(self, context: Context) -> Tensor:
        """`B N`: of each row as many as at a step of its own."""
        steps, count = self.config.steps, self.stage.count
        counts = torch.tensor([masked_count(step, steps, count) for step in range(steps)])
        step = context.randint(steps, "step")
        order = context.uniform((count,), "order").argsort(1).argsort(1)
        return order < counts.to(step.device)[step][:, None]

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        """The last frames `B C H W`, or all `B C T H W`; a call for each step."""
        asked, stage = request.options or Unmasking(), self.stage
        steps = request.steps or self.config.steps
        first = self.config.temperature if asked.temperature is None else asked.temperature
        rows = (len(noise.draws), stage.count)
        numbers = torch.full(rows, stage.codes, device=noise.device)
        doubt = torch.zeros(rows, device=noise.device)
        for step in range(steps):
            count = masked_count(step, steps, stage.count)
            masked = doubt.argsort(dim=1, descending=True, stable=True).argsort(1) < count
            logits = nets["prior"](numbers.masked_fill(masked, stage.codes))
            heat = max(first * (steps - 1 - step) / steps, 1e-10)
            chance = gumbel(noise, (stage.count, stage.codes), f"tokens {step}")
            drawn = (logits / heat + chance).argmax(2)
            numbers = torch.where(masked, drawn, numbers)
            sure = logits.softmax(2).gather(2, numbers[:, :, None])[:, :, 0]
            doubt = torch.where(masked, 1 - sure, KEPT)
            if request.progress:
                request.progress((step + 1) / steps)
        like = torch.zeros((), device=noise.device)
        return stage.shown(numbers, request, like)
