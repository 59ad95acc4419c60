"""The autoregressive prior: one token after the other (VideoGPT, arXiv 2104.10157; with one frame
ImageGPT), of a tokenizer's run below."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
from hvdm.recipes.pseudo_video.layers import Grid
from hvdm.recipes.pseudo_video.token_stage import TokenStage, gumbel, kinds


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's; VideoGPT's code drops 0.2, and 0.3 of what attention sees."""

    width: int = 144
    depth: int = 8
    heads: int = 4
    dropout: float = 0.0
    attention_dropout: float = 0.0


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn."""

    temperature: float = option(1.0, "of the tokens' probabilities", least=0)


stages = ("first_stage",)


def reads(config: Config, data: DataConfig) -> Sequence[Field]:
    return [video(data)]


def build(config: Config, given: Given) -> Recipe:
    if config.width % (3 * config.heads) or min(config.width, config.depth, config.heads) < 1:
        raise UserError(
            f"model.width={config.width} model.heads={config.heads}: the width is shared out among "
            "three axes and among the heads, so it has to be a multiple of both"
        )
    for key in ("dropout", "attention_dropout"):
        if not 0 <= getattr(config, key) < 1:
            raise UserError(f"model.{key}={getattr(config, key)}: expected at least 0 and below 1")
    return AutoregressivePrior(config, given)


class Memory(NamedTuple):
    """Keys and values of a layer, `B heads N d`, of all tokens; filled as far as it was come."""

    keys: Tensor
    values: Tensor


class Drop(NamedTuple):
    """Factors of what a layer's two parts add, and of what its attention sees."""

    seen: Tensor | None = None
    made: Tensor | None = None
    attention: Tensor | None = None


NOTHING = Drop()


def dropped(x: Tensor, factors: Tensor | None) -> Tensor:
    return x if factors is None else x * factors


class Layer(nn.Module):
    """Causal attention and a feed-forward, each before its residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_seen, self.norm_made = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def _split(self, x: Tensor) -> list[Tensor]:
        rows = self.query_key_value(self.norm_seen(x)).chunk(3, -1)
        return [torch.unflatten(row, -1, (self.heads, -1)).transpose(1, 2) for row in rows]

    def forward(self, x: Tensor, drop: Drop) -> Tensor:
        """`B N D` -> `B N D`."""
        q, k, v = self._split(x)
        if drop.attention is None:
            found = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            found = causal(q, k) * drop.attention @ v
        return self._made(x, found, drop)

    def next(self, x: Tensor, place: int, memory: Memory) -> Tensor:
        """`B 1 D` -> `B 1 D`, the token of this place."""
        q, k, v = self._split(x)
        memory.keys[:, :, place : place + 1] = k
        memory.values[:, :, place : place + 1] = v
        there = slice(0, place + 1)
        found = functional.scaled_dot_product_attention(
            q, memory.keys[:, :, there], memory.values[:, :, there]
        )
        return self._made(x, found, NOTHING)

    def _made(self, x: Tensor, found: Tensor, drop: Drop) -> Tensor:
        x = x + dropped(self.out(found.transpose(1, 2).flatten(2)), drop.seen)
        hidden = self.up(self.norm_made(x))
        made = self.down(hidden * torch.sigmoid(1.702 * hidden))  # as GPT approximates GELU
        return x + dropped(made, drop.made)


def causal(q: Tensor, k: Tensor) -> Tensor:
    """How much each token sees of those up to it, `B heads N N`."""
    count = q.shape[2]
    later = torch.ones(count, count, dtype=torch.bool, device=q.device).triu(1)
    return ((q @ k.mT) * q.shape[-1] ** -0.5).masked_fill(later, -torch.inf).softmax(-1)


class Enter(nn.Linear):
    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)


class Head(nn.Linear):
    """All codes are as likely at first."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class TokenTransformer(nn.Module):
    """Codes of a grid in raster order -> for each place logits, of the codes before it alone."""

    def __init__(self, config: Config, grid: Grid, codes: int, code_width: int) -> None:
        super().__init__()
        width = config.width
        self.grid = grid
        self.enter = Enter(code_width, width, bias=False)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.places = nn.ParameterList(
            nn.Parameter(0.01 * torch.randn(side, width // 3)) for side in grid
        )
        self.layers = nn.ModuleList(Layer(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = Head(width, codes, bias=False)

    def forward(self, codes: Tensor, drops: Sequence[Drop] | None = None) -> Tensor:
        """`B N K` -> `B N codes`."""
        x = torch.cat((self._first(codes[:, :1]), self.enter(codes[:, :-1])), 1)
        x = x + self._places()[: codes.shape[1]]
        for layer, drop in zip(self.layers, drops or [NOTHING] * len(self.layers), strict=True):
            x = layer(x, drop)
        out: Tensor = self.head(self.norm(x))
        return out

    def _first(self, like: Tensor) -> Tensor:
        return self.start.to(like).expand(len(like), 1, -1)

    def _places(self) -> Tensor:
        """`N D`: a third of each vector for each axis."""
        time, row, column = self.places
        t, h, w = self.grid
        thirds = (
            time[:, None, None].expand(-1, h, w, -1),
            row[:, None].expand(t, -1, w, -1),
            column.expand(t, h, -1, -1),
        )
        return torch.cat(thirds, -1).flatten(0, 2)

    def memories(self, like: Tensor) -> list[Memory]:
        """Empty ones for rows `B K`."""
        count = torch.Size(self.grid).numel()
        found = []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            shape = (len(like), layer.heads, count, len(self.start) // layer.heads)
            found.append(Memory(like.new_zeros(shape), like.new_zeros(shape)))
        return found

    def next(self, before: Tensor, place: int, memories: Sequence[Memory]) -> Tensor:
        """The code before a place, `B K` -> logits `B codes`; of the first place, of nothing."""
        x = self.enter(before[:, None]) if place else self._first(before[:, None])
        x = x + self._places()[place]
        for layer, memory in zip(self.layers, memories, strict=True):
            assert isinstance(layer, Layer)
            x = layer.next(x, place, memory)
        out: Tensor = self.head(self.norm(x))
        return out[:, 0]


class AutoregressivePrior:
    averaged: tuple[str, ...] = ("prior",)
    coder: Coder | None = None
    samples: Mapping[str, SampleKind] = kinds(Drawing)

    def __init__(self, config: Config, given: Given) -> None:
        self.config, self.stage = config, TokenStage(given)
        self.bits = self.stage.coder.bits
        stage = self.stage
        net = TokenTransformer(config, stage.grid, stage.codes, stage.code_width)
        self.trained = nn.ModuleDict({"prior": net})
        self.frozen = stage.nets
        self.phases: tuple[Phase, ...] = (Phase("prior", self.loss),)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """Cross-entropy of all tokens."""
        numbers = self.stage.numbers(batch, context)
        codes = self.stage.book.code(numbers, batch.weight)
        logits = self.trained["prior"](codes, self._drops(context))
        each = functional.cross_entropy(logits.transpose(1, 2), numbers, reduction="none").mean(1)
        return each, {"bits_per_image": each.detach() * self.stage.count / math.log(2)}

    def _drops(self, context: Context) -> list[Drop]:
        return [self._drop(context, layer) for layer in range(self.config.depth)]

    def _drop(self, context: Context, layer: int) -> Drop:
        config, count = self.config, self.stage.count
        shape = (count, config.width)
        seen, made = (
            context.keep(shape, 1 - config.dropout, f"{part} {layer}") if config.dropout else None
            for part in ("seen", "made")
        )
        if not config.attention_dropout:
            return Drop(seen, made)
        square, kept = (config.heads, count, count), 1 - config.attention_dropout
        return Drop(seen, made, context.keep(square, kept, f"attention {layer}"))

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        """The last frames `B C H W`, or all `B C T H W`; a call for each token."""
        like = torch.zeros(len(noise.draws), self.stage.code_width, device=noise.device)
        numbers = self.drawn(nets, request, noise, like)
        return self.stage.shown(numbers, request, like)

    def drawn(
        self,
        nets: nn.ModuleDict,
        request: SampleRequest,
        noise: Noise,
        like: Tensor,
        remembering: bool = True,
    ) -> Tensor:
        """Tokens `B N`; without memory each call sees all tokens anew, for the same ones."""
        stage, asked, net = self.stage, request.options or Drawing(), nets["prior"]
        assert isinstance(net, TokenTransformer)
        numbers = torch.zeros(len(like), stage.count, dtype=torch.long, device=like.device)
        memories = net.memories(like) if remembering else []
        for place in range(stage.count):
            codes = stage.book.code(numbers[:, : place + 1], like)
            if remembering:
                logits = net.next(codes[:, place - 1], place, memories)
            else:
                logits = net(codes)[:, place]
            chance = gumbel(noise, (stage.codes,), f"token {place}")
            numbers[:, place] = (logits / max(asked.temperature, 1e-10) + chance).argmax(1)
            if request.progress:
                request.progress((place + 1) / stage.count)
        return numbers
