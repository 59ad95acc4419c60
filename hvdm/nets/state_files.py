"""State dicts from files of others: tensors are read, and no pickled code is run."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hvdm.disk import sha256_of_file
from hvdm.errors import UserError


def read_state(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a torch file that holds nothing but tensors."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if sha256 is not None and (found := sha256_of_file(path)) != sha256.lower():
        raise UserError(f"{path} has sha256 {found}, expected {sha256}: fetch it again")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _torch_file(path)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors, and reading the rest would run code from the file; "
            "save its state dict alone"
        ) from None
    except Exception as error:  # a damaged pickle raises whatever its bytes run into
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} cannot be read ({line}): truncated? fetch it again") from None
    return _tensors(path, found)


def repacked(path: Path) -> io.BytesIO:
    """The tensors of a file as a new file, for code of others that unpickles what it is given."""
    packed = io.BytesIO()
    torch.save({name: tensor.detach() for name, tensor in read_state(path).items()}, packed)
    packed.seek(0)
    return packed


def _torch_file(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(2) == b"PK"


def _tensors(path: Path, found: Any) -> dict[str, Tensor]:
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path} holds no state dict; save one with torch.save(net.state_dict())")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise UserError(f"{path}: {name!r} is a {kind}, expected a tensor under a name")
        if not _is_there(value):
            raise UserError(f"{path}: {name!r} is no plain tensor with all of its numbers")
    return found


def _is_there(value: Tensor) -> bool:
    """A few bytes can claim to be any size, where strides are 0 or numbers are left out."""
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()
