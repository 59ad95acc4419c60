"""What is diffused: the Haar bands of pictures and clips at half their size, or their pixels."""

from dataclasses import dataclass

from torch import Tensor

from hvdm.ops.wavelet import haar, inverse_haar
from hvdm.recipe import Clip
from hvdm.recipes.wavediff.layers import gain


@dataclass(frozen=True)
class Bands:
    """All values are in [-1, 1]; a picture is a clip of one frame."""

    clip: Clip
    wavelet: bool

    @property
    def axes(self) -> tuple[int, ...]:
        """Those that the transform halves."""
        if not self.wavelet:
            return ()
        return (2, 3, 4) if self.of_clips else (2, 3)

    @property
    def of_clips(self) -> bool:
        return self.clip.frames > 1

    @property
    def count(self) -> int:
        return int(2 ** len(self.axes))

    @property
    def shape(self) -> tuple[int, ...]:
        """`C T H W`, or `C H W` of pictures."""
        by = 2 if self.wavelet else 1
        sizes = [self.clip.height // by, self.clip.width // by]
        frames = [self.clip.frames // by] if self.of_clips else []
        return (self.clip.channels * self.count, *frames, *sizes)

    def of(self, video: Tensor) -> Tensor:
        """`B C T H W` -> `B …`, the low band first."""
        x = video if self.of_clips else video[:, :, 0]
        return haar(x, self.axes).flatten(1, 2) / gain(self.axes)

    def back(self, y: Tensor) -> Tensor:
        """`B …` -> `B C T H W`, or `B C H W` of pictures."""
        bands = (gain(self.axes) * y).unflatten(1, (self.count, -1))
        return inverse_haar(bands, self.axes).clamp(-1, 1)
