"""What the second stage builds on, and which latents its networks can work on."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from hvdm.errors import UserError
from hvdm.recipe import Clip
from hvdm.recipes.hvdm.reconstruction import ClipCoder


class Memory:
    """An encoder that keeps the latents of the clips it has seen, up to a number of them.

    Rows are encoded one by one, so that a latent does not depend on what was in memory.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], most: int) -> None:
        self._encode, self._most = encode, most
        self._known: dict[bytes, Tensor] = {}

    def __call__(self, video: Tensor) -> Tensor:
        """`B C T H W` -> `B E ...`."""
        return torch.cat([self._row(row) for row in video.split(1)])

    def _row(self, row: Tensor) -> Tensor:
        if row.is_meta or isinstance(row, FakeTensor):  # it has no content to be known by
            return self._encode(row)
        content = row.detach().cpu().contiguous().numpy()
        key = hashlib.blake2b(content.data, digest_size=16).digest()
        if key not in self._known:
            latent = self._encode(row)
            if len(self._known) >= self._most:
                return latent
            self._known[key] = latent
        return self._known[key]


def check_clip(clip: Clip, trained: Clip) -> None:
    """The first stage encodes clips of one shape only."""
    for name in ("frames", "height", "width"):
        wanted, have = getattr(trained, name), getattr(clip, name)
        if wanted != have:
            raise UserError(
                f"data.{name}={have}, and first_stage was trained on {wanted}: set "
                f"data.{name}={wanted}, or name a first_stage of that size"
            )


def check_levels(multipliers: Sequence[int], coder: ClipCoder) -> None:
    unit = 2 ** (len(multipliers) - 1)
    for name, side in _halved_sides(coder).items():
        if side % unit:
            raise UserError(
                f"data.{name} gives a latent {name} of {side}, which {len(multipliers)} "
                f"levels (model.multipliers) cannot halve: it must be a multiple of {unit}"
            )


def _halved_sides(coder: ClipCoder) -> dict[str, int]:
    if coder.planes is None:
        return {"height": coder.latent_shape[-2], "width": coder.latent_shape[-1]}
    (height, width), (frames, _), _ = coder.planes
    return {"height": height, "width": width, "frames": frames}
