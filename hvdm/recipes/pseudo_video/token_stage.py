"""What both priors share: the tokenizer below them, and images of the tokens that they make."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.recipe import Batch, Clip, Given, Noise, SampleKind, SampleRequest
from hvdm.recipes.pseudo_video.codebook import Codebook
from hvdm.recipes.pseudo_video.tokenizer import TokenCoder, tokenizer_of


class TokenStage:
    """A frozen tokenizer: images to numbers of codes, and back."""

    def __init__(self, given: Given) -> None:
        below = given.stages["first_stage"]
        if not isinstance(below.coder, TokenCoder):
            raise UserError("first_stage is no tokenizer: name a run of pseudo_video.tokenizer")
        self.coder = below.coder
        self.nets = nn.ModuleDict({"tokenizer": below.trained["tokenizer"]})
        self.grid = below.coder.shape.tokens
        self.count = torch.Size(self.grid).numel()
        self.codes, self.code_width = self.book.shape.codes, self.book.shape.width
        _check_side(given.clip, below.coder.shape.side)

    @property
    def book(self) -> Codebook:
        return tokenizer_of(self.nets).book

    @torch.no_grad()
    def numbers(self, batch: Batch, noise: Noise) -> Tensor:
        """The codes of rows, `B N`."""
        return self.coder.numbers(self.nets, batch.pixels()[:, :, 0], noise)

    @torch.no_grad()
    def shown(self, numbers: Tensor, request: SampleRequest, like: Tensor) -> Tensor:
        """Of `B N`: the last frames `B C H W`, or all `B C T H W`."""
        codes = self.book.code(numbers, like)
        frames = self.coder.frames(self.nets, codes).clamp(-1, 1)
        return frames if request.what == "frames" else frames[:, :, -1]


def _check_side(clip: Clip, side: int) -> None:
    if (clip.frames, clip.height, clip.width) != (1, side, side):
        raise UserError(
            f"data.frames={clip.frames} data.height={clip.height} data.width={clip.width}: "
            f"first_stage was trained on single images of {side}x{side}"
        )


def kinds(options: type, steps: bool = False) -> Mapping[str, SampleKind]:
    return {
        "images": SampleKind("images, each the last frame", options, "images", steps=steps),
        "frames": SampleKind("the frames that lead to them", options, steps=steps),
    }


def gumbel(noise: Noise, shape: tuple[int, ...], use: str) -> Tensor:
    """What makes the largest of logits a draw of their softmax."""
    uniform = noise.uniform(shape, use).clamp(1e-10, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))
