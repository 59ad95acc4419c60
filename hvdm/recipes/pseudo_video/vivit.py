"""C-ViViT with uniform patches: frames as a grid of tokens and back (arXiv 2410.20158, section 3;
Phenaki, arXiv 2210.02399). Within each time tokens see all others, over time only earlier ones."""

from dataclasses import dataclass

from torch import Tensor, nn

from hvdm.recipes.pseudo_video.codebook import Codebook, CodebookShape
from hvdm.recipes.pseudo_video.layers import Grid, Offsets, Transformer, earlier


@dataclass(frozen=True)
class TokenizerShape:
    """`patch` are frames, rows and columns of what is one place, which has `each` tokens."""

    frames: int
    side: int
    channels: int
    patch: tuple[int, int, int]
    width: int
    heads: int
    head_dim: int
    spatial: int
    temporal: int
    norm_patches: bool
    book: CodebookShape
    each: int = 1

    @property
    def grid(self) -> Grid:
        times, rows, columns = self.patch
        return self.frames // times, self.side // rows, self.side // columns

    @property
    def tokens(self) -> Grid:
        """Those of a place lie beside one another."""
        times, rows, columns = self.grid
        return times, rows, columns * self.each

    @property
    def values(self) -> int:
        """Of one patch."""
        return self.channels * self.patch[0] * self.patch[1] * self.patch[2]


class Tokenizer(nn.Module):
    def __init__(self, shape: TokenizerShape) -> None:
        super().__init__()
        self.shape = shape
        width, values = shape.width, shape.values
        self.norm_patch = nn.LayerNorm(values) if shape.norm_patches else nn.Identity()
        self.enter = nn.Linear(values, width)
        self.norm_entered = nn.LayerNorm(width)
        self.offsets = Offsets(2, width, shape.heads)
        self.see_plane, self.make_plane = (self._layers(shape.spatial) for _ in range(2))
        self.see_time, self.make_time = (
            self._layers(shape.temporal, over_time=True) for _ in range(2)
        )
        self.to_code = nn.Linear(width, shape.each * shape.book.width)
        self.book = Codebook(shape.book)
        self.from_code = nn.Linear(shape.each * shape.book.width, width)
        self.head = nn.Linear(width, values)

    def _layers(self, depth: int, over_time: bool = False) -> Transformer:
        shape = self.shape
        return Transformer(shape.width, depth, shape.heads, shape.head_dim, over_time, over_time)

    def encode(self, frames: Tensor) -> Tensor:
        """`B C T H W` -> directions `B N K` to look up."""
        x = self.norm_entered(self.enter(self.norm_patch(patches(frames, self.shape.patch))))
        x = self._over_planes(self.see_plane, x)
        if self.shape.temporal:
            x = self.see_time.over_time(x, self.shape.grid, self._earlier(x))
        directions = self.to_code(x).unflatten(2, (self.shape.each, -1)).flatten(1, 2)
        return nn.functional.normalize(directions, dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `B N K` -> `B C T H W`."""
        x = self.from_code(codes.unflatten(1, (-1, self.shape.each)).flatten(2))
        if self.shape.temporal:
            x = self.make_time.over_time(x, self.shape.grid, self._earlier(x))
        x = self._over_planes(self.make_plane, x)
        return unpatched(self.head(x), self.shape)

    def _over_planes(self, layers: Transformer, x: Tensor) -> Tensor:
        times = self.shape.grid[0]
        rows = x.unflatten(1, (times, -1)).flatten(0, 1)
        bias = self.offsets(self.shape.grid[1:], x)
        return layers(rows, bias).unflatten(0, (-1, times)).flatten(1, 2)

    def _earlier(self, x: Tensor) -> Tensor:
        return earlier(self.shape.grid[0], self.shape.heads, x)


def patches(frames: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """`B C T H W` -> `B N values`."""
    times, rows, columns = patch
    blocks = frames.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).unflatten(2, (-1, times))
    return blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def unpatched(x: Tensor, shape: TokenizerShape) -> Tensor:
    """The inverse of `patches`."""
    blocks = x.unflatten(2, (shape.channels, *shape.patch)).unflatten(1, shape.grid)
    return blocks.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6).flatten(4, 5).flatten(2, 3)
