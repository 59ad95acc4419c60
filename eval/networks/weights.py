"""Files of weights that others trained: where they come from, and whether they are what they say.

A file is used only when its whole hash is known: a published one, or one that was pinned in the
folder. How a hash begins tells files apart, and proves nothing: 32 bits are soon found.
"""

import hashlib
import json
import os
import shutil
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

from hvdm.disk import atomic_write, replacing, sha256_of_file
from hvdm.errors import RunError, UserError, closest
from hvdm.trust import cache_folder

PINS = "pins.json"
LFS = b"version https://git-lfs"
CHUNK = 2**20


@dataclass(frozen=True)
class Weights:
    """A file by name. Of its hash, what is published: a sha256, how it begins, a git blob's."""

    name: str
    file: str
    url: str
    about: str
    sha256: str | None = None
    sha256_begins: str | None = None
    git_blob: str | None = None

    @property
    def expected(self) -> str:
        if self.sha256:
            return f"sha256 {self.sha256}"
        if self.sha256_begins:
            return f"sha256 {self.sha256_begins}…"
        return f"git blob {self.git_blob}" if self.git_blob else "no published hash"


_TEXTURES = "https://github.com/CompVis/image2video-synthesis-using-cINNs"
"""Says where its authors keep the files."""
_ALL = (
    Weights("dti3d", "I3D_16.pth.tar", _TEXTURES, "I3D, dynamic textures, 16 frames, of DT-FVD"),
    Weights("dti3d-32", "I3D_32.pth.tar", _TEXTURES, "the same for 32 frames, of DT-FVD32"),
    Weights(
        "i3d-stylegan-v",
        "i3d_torchscript.pt",
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
        "I3D, Kinetics-400, TorchScript of StyleGAN-V",
        git_blob="93daef59c7ae0e9e8f76225521407e60cbafa6aa",
    ),
    Weights(
        "i3d",
        "i3d_pretrained_400.pt",
        "https://drive.google.com/uc?export=download&id=1mQK8KD8G6UWRa5t87SRMm5PVXtlpneJT",
        "I3D, Kinetics-400, state dict of VideoGPT",
    ),
    Weights(
        "inception",
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        "Inception v3 of TensorFlow, as torch-fidelity ships it",
        sha256_begins="6726825d",
    ),
    Weights(
        "vgg16",
        "vgg16-397923af.pth",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "VGG16, ImageNet, of torchvision",
        sha256_begins="397923af",
    ),
    Weights(
        "lpips-vgg",
        "weights-vgg16-lpips.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-vgg16-lpips.pth",
        "linear heads of LPIPS v0.1 on VGG16",
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
)
WEIGHTS: Mapping[str, Weights] = {weights.name: weights for weights in _ALL}


def folder_of(given: str | None) -> Path:
    """weights=DIR, or $HVDM_WEIGHTS, or the user's cache."""
    chosen = given or os.environ.get("HVDM_WEIGHTS")
    return Path(chosen).expanduser() if chosen else cache_folder() / "weights"


def known(name: str) -> Weights:
    if name not in WEIGHTS:
        raise UserError(f"name={name!r}: no such weights; {closest(name, WEIGHTS)}")
    return WEIGHTS[name]


def need(name: str, folder: Path) -> Path:
    """The file, verified; what is wrong with it, and how to get it, in one line otherwise."""
    weights = known(name)
    problem = problem_of(weights, folder)
    if problem:
        raise UserError(f"weights {name}: {problem}; {_remedy(weights, folder)}")
    return folder / weights.file


def _remedy(weights: Weights, folder: Path) -> str:
    return (
        f"`hvdm weights fetch name={weights.name}` on a machine with a network, or bring "
        f"{weights.file} ({weights.expected}) from {weights.url} to {folder}"
    )


def problem_of(weights: Weights, folder: Path) -> str | None:
    """Why the file cannot be used, or None."""
    path = folder / weights.file
    if not path.is_file():
        return f"{path} is not there"
    disguise = disguise_of(path)
    if disguise:
        return f"{path} is {disguise}, not weights"
    return _hash_problem(weights, path, _pins(folder).get(weights.file))


def disguise_of(path: Path) -> str | None:
    """What is often saved in place of a file."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        return "empty"
    if head.startswith(LFS):
        return "a Git LFS pointer (run `git lfs pull` where it came from)"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "an HTML page" if start.startswith((b"<!doctype html", b"<html", b"<head")) else None


def _hash_problem(weights: Weights, path: Path, pinned: str | None) -> str | None:
    found = sha256_of_file(path)
    wanted = weights.sha256 or pinned
    if wanted and found != wanted:
        return f"{path} has sha256 {found}, expected {wanted}"
    if weights.sha256_begins and not found.startswith(weights.sha256_begins):
        return f"{path} has sha256 {found}, expected one that begins {weights.sha256_begins}"
    if weights.git_blob and git_blob_of(path) != weights.git_blob:
        return f"{path} has sha256 {found}, and is not git blob {weights.git_blob}"
    if not (wanted or weights.git_blob):
        return (
            f"no whole hash of {weights.file} is published, and this one is not pinned (if you "
            f"trust it: hvdm weights fetch name={weights.name} sha256={found})"
        )
    return None


def git_blob_of(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _pins(folder: Path) -> dict[str, str]:
    path = folder / PINS
    return json.loads(path.read_text()) if path.is_file() else {}


def fetch(
    name: str,
    folder: Path,
    sha256: str | None = None,
    url: str | None = None,
    say: Callable[[str], Any] = print,
) -> Path:
    """The verified file, downloaded unless it is there; its sha256 is pinned from then on."""
    weights = known(name)
    path = folder / weights.file
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        say(f"fetching {url or weights.url}")
        _download(url or weights.url, path, weights, sha256)
        sha256 = sha256_of_file(path)
    _pin(weights, path, sha256)
    return need(name, folder)


def _download(url: str, path: Path, weights: Weights, sha256: str | None) -> None:
    with replacing(path) as part:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, open(part, "wb") as file:
                shutil.copyfileobj(answer, file)
        except (OSError, URLError) as error:
            raise RunError(
                f"{url} cannot be fetched ({error}); bring {path.name} "
                f"({weights.expected}) to {path.parent} by other means"
            ) from None
        if problem := _refusal(weights, part, sha256):
            raise RunError(f"{url} gave something else: {problem}; nothing was kept")


def _refusal(weights: Weights, part: Path, sha256: str | None) -> str | None:
    disguise = disguise_of(part)
    if disguise:
        return f"{disguise}, not weights"
    return _hash_problem(weights, part, sha256 or weights.sha256 or _first_use(weights, part))


def _first_use(weights: Weights, part: Path) -> str | None:
    """Of a file without a whole published hash, the one that came is the one that is pinned."""
    return None if weights.git_blob else sha256_of_file(part)


def _pin(weights: Weights, path: Path, sha256: str | None) -> None:
    pins = _pins(path.parent)
    found = sha256_of_file(path)
    if sha256 and sha256 != found:
        raise UserError(f"{path} has sha256 {found}, and sha256={sha256} was given")
    if weights.file in pins:
        return
    if not sha256 and problem_of(weights, path.parent):
        return
    pins[weights.file] = found
    atomic_write(path.parent / PINS, json.dumps(pins, indent=1, sort_keys=True) + "\n")


def listed(folder: Path) -> list[dict[str, Any]]:
    """Every file we know of, and what is there."""
    return [_row(weights, folder) for weights in _ALL]


def _row(weights: Weights, folder: Path) -> dict[str, Any]:
    path = folder / weights.file
    return {
        "name": weights.name,
        "about": weights.about,
        "path": str(path),
        "url": weights.url,
        "expected": weights.expected,
        "sha256": sha256_of_file(path) if path.is_file() else None,
        "problem": problem_of(weights, folder),
    }
