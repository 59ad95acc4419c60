"""What both autoencoders of the family share: their coder, and distances of one value a row."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.ops.wavelet import SPACE, SPACE_TIME, haar
from hvdm.recipe import Batch, Clip, Noise, SampleKind, SampleRequest
from hvdm.recipes.hvdm.networks import Autoencoder


@dataclass(frozen=True)
class ClipCoder:
    """Coding with the network `autoencoder`; `planes` are the sides of a latent of three planes."""

    clip: Clip
    latent_shape: tuple[int, ...]
    planes: tuple[tuple[int, int], ...] | None = None

    def encode(self, nets: nn.ModuleDict, batch: Batch) -> Tensor:
        """The latent, in (-1, 1)."""
        latent: Tensor = _of(nets).encoder(batch.pixels())
        return latent

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Mapping[str, Tensor]:
        """The video, `B C T H W` in (-1, 1)."""
        return {"video": _of(nets).decoder(latent)}


class Reconstruction:
    """It decodes what it encodes, and samples nothing."""

    samples: Mapping[str, SampleKind] = {}

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        raise UserError(
            "an autoencoder does not sample: reconstruct with it (protocol=reconstruction), or "
            "train a diffusion model on top (first_stage=RUN) and sample that"
        )


def _of(nets: nn.ModuleDict) -> Autoencoder:
    net = nets["autoencoder"]
    assert isinstance(net, Autoencoder)
    return net


def one_frame(noise: Noise, use: str, *videos: Tensor) -> tuple[Tensor, ...]:
    """`B C H W` of each: one random frame per row, the same in all of them."""
    frame = noise.randint(videos[0].shape[2], use)
    rows = torch.arange(len(frame), device=frame.device)
    return tuple(video[rows, :, frame] for video in videos)


def distances(video: Tensor, output: Tensor) -> Mapping[str, Tensor]:
    """One value per sample."""
    error = output - video
    mse = error.detach().square().mean((1, 2, 3, 4)) / 4  # of pixels in [0, 1]
    return {
        "l1": error.abs().mean((1, 2, 3, 4)),
        "psnr": -10 * mse.clamp_min(1e-10).log10(),
    }


def bands_of(error: Tensor, in_time: bool) -> Tensor:
    """Mean over the Haar bands of |dW|. The DWT is linear, so one transform serves both videos."""
    return haar(error, SPACE_TIME if in_time else SPACE).abs().mean((1, 2, 3, 4, 5))
