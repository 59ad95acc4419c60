"""What each published protocol does to pixels before its network: uint8 `B T H W C` in."""

from torch import Tensor
from torch.nn import functional
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x as tensorflow_bilinear,
)

SIDE = 224


def tf_reference(video: Tensor) -> Tensor:
    """TensorFlow 1 bilinear to 224x224 whatever the aspect, without antialias; 2x/255-1."""
    images, shape = _images(video)
    scaled = tensorflow_bilinear(images, size=(SIDE, SIDE), align_corners=False)
    return _video(scaled * (2 / 255) - 1, shape)


def videogpt(video: Tensor) -> Tensor:
    """The shorter side to 224, bilinear without antialias, the centre cut out; 2x/255-1."""
    images, shape = _images(video)
    height, width = images.shape[2:]
    scale = SIDE / min(height, width)
    # as in its code: the longer side is rounded up
    size = [SIDE if side == min(height, width) else _up(side * scale) for side in (height, width)]
    scaled = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return _video(scaled[:, :, top : top + SIDE, left : left + SIDE] * (2 / 255) - 1, shape)


def dynamic_textures(video: Tensor) -> Tensor:
    """Bilinear to 224x224 whatever the aspect, corners on corners; 2x/255-1."""
    images, shape = _images(video)
    scaled = functional.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=True)
    return _video(scaled * (2 / 255) - 1, shape)


def as_it_is(video: Tensor) -> Tensor:
    """0 to 255 as floats, for a network that scales and resizes by itself."""
    return video.permute(0, 4, 1, 2, 3).float()


def frames_of(video: Tensor) -> Tensor:
    """uint8 `B T H W C` -> uint8 `BT C H W`: each frame an image."""
    return video.flatten(0, 1).permute(0, 3, 1, 2).contiguous()


def _images(video: Tensor) -> tuple[Tensor, tuple[int, int]]:
    return frames_of(video).float(), (video.shape[0], video.shape[1])


def _video(images: Tensor, shape: tuple[int, int]) -> Tensor:
    return images.unflatten(0, shape).transpose(1, 2).contiguous()


def _up(value: float) -> int:
    return int(-(-value // 1))


WAYS = {
    "tf-reference": (tf_reference, "TensorFlow 1 bilinear to 224x224, no antialias, 2x/255-1"),
    "videogpt": (videogpt, "shorter side bilinear to 224, centre crop, no antialias, 2x/255-1"),
    "dynamic-textures": (dynamic_textures, "bilinear to 224x224, corners on corners, 2x/255-1"),
    "none": (as_it_is, "0 to 255; the network resizes and scales"),
}
"""Ways that detectors of clips can be fed, and what a fingerprint says of each."""
