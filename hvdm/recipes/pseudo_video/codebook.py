"""A codebook of directions that sums over the global batch move (VQ-VAE, arXiv 1711.00937, A.1).

Tokens are looked up by their cosine (arXiv 2110.04627). Codes begin as tokens of the second step,
then follow the means of their tokens (k-means) for some steps, then moving averages. Codes that
the whole batch hardly uses become tokens of it: which, follows from the rows' draws alone.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.recipe import Batch, Context, Sums


@dataclass(frozen=True)
class CodebookShape:
    """`dead`: how many tokens a step a code has to get, on average, to be kept."""

    codes: int
    width: int
    decay: float
    kmeans: int
    dead: float


class Age(IntEnum):
    """Steps that a codebook has seen, until it is one."""

    COUNTED = 1
    FILLED = 2


class Codebook(nn.Module):
    codes: Tensor
    totals: Tensor
    used: Tensor
    rows: Tensor
    age: Tensor
    resets: Tensor

    def __init__(self, shape: CodebookShape) -> None:
        super().__init__()
        self.shape = shape
        codes = functional.normalize(torch.randn(shape.codes, shape.width), dim=-1)
        self.register_buffer("codes", codes)
        self.register_buffer("totals", codes.clone())
        self.register_buffer("used", torch.ones(shape.codes))
        self.register_buffer("rows", torch.ones((), dtype=torch.int64))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        self.register_buffer("resets", torch.zeros((), dtype=torch.int64))

    def look_up(self, directions: Tensor) -> Tensor:
        """`… K` -> numbers of the nearest codes `…`."""
        exact = directions if directions.dtype == torch.float64 else directions.float()
        # there is none to leave out on the meta device, where operations are counted
        with torch.autocast("cuda" if exact.is_cuda else "cpu", enabled=False):
            return (exact @ self.codes.to(exact).T).argmax(-1)

    def code(self, numbers: Tensor, like: Tensor) -> Tensor:
        """Numbers `…` -> codes `… K`."""
        return self.codes[numbers].to(like)

    # How it moves

    def sums(self, batch: Batch, directions: Tensor, numbers: Tensor, context: Context) -> Sums:
        """Of rows `B N K`, `B N`: what each code got, and the token that each could become."""
        weight = batch.weight.double()
        tokens = directions.detach().double()
        chosen = functional.one_hot(numbers.flatten(), self.shape.codes).double()
        chosen = chosen * weight.repeat_interleave(numbers.shape[1])[:, None]
        offered, slots = self._offered(batch, numbers.shape[1], context)
        offered = offered.double() * weight[:, None]
        spare = torch.zeros(self.shape.codes, 1 + self.shape.width, dtype=torch.float64)
        shown = torch.cat((offered[:, :, None], tokens * offered[:, :, None]), 2)
        return {
            "counts": chosen.sum(0),
            "totals": chosen.T @ tokens.flatten(0, 1),
            "spare": spare.to(tokens.device).index_add_(0, slots.flatten(), shown.flatten(0, 1)),
            "rows": weight.sum(),
        }

    def _offered(self, batch: Batch, count: int, context: Context) -> tuple[Tensor, Tensor]:
        """`B N` twice: whether a token is offered, and to which code.

        Tokens of the global batch lie in one line, each row's turned by a number of its own; each
        code is offered the first token of its share of the line.
        """
        device = self.codes.device
        draws = torch.tensor(batch.draws, device=device)
        turn = context.randint(count, "turn").to(device)
        within = (torch.arange(count, device=device) + turn[:, None]) % count
        places = (draws % self.rows)[:, None] * count + within
        line, codes = self.rows * count, self.shape.codes
        slots = places * codes // line
        first = -(-slots * line // codes)  # rounded up
        return places == first, slots

    def move(self, sums: Sums) -> None:
        """Once a step, on all ranks alike."""
        age, last = int(self.age), Age.FILLED + self.shape.kmeans
        self.rows.copy_(sums["rows"].round().long())
        if Age.COUNTED <= age < Age.FILLED:
            self._become(sums["spare"], torch.ones_like(self.used, dtype=torch.bool))
        elif age >= Age.FILLED:
            keep = 0.0 if age < last else self.shape.decay
            self.used.lerp_(sums["counts"].to(self.used), 1 - keep)
            self.totals.lerp_(sums["totals"].to(self.totals), 1 - keep)
            self._become(sums["spare"], self.used < (1 if age < last else self.shape.dead))
        self.codes.copy_(functional.normalize(self.totals, dim=-1))
        self.age.add_(1)

    def _become(self, spare: Tensor, which: Tensor) -> None:
        """These codes become the tokens that they were offered, where they were offered one."""
        which = which & (spare[:, 0] > 0)
        self.used[which] = max(self.shape.dead, 1.0)
        self.totals[which] = self.used[which, None] * spare.to(self.totals)[which, 1:]
        self.resets += which.sum()

    # What the log says of it

    def perplexity(self) -> Tensor:
        share = self.used / self.used.sum()
        return torch.exp(-(share * share.clamp_min(1e-12).log()).sum())

    def dead(self) -> Tensor:
        return (self.used < self.shape.dead).sum()
