"""Data sets as they are handed out: where their files lie, their labels, their official splits."""

import csv
import functools
import io
import pickle
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.items import PICTURES, VIDEOS, Item, natural
from hvdm.errors import UserError


def _need(path: Path, what: str) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing: {what}")
    return path


# UCF-101


def ucf101(root: Path) -> Iterable[Item]:
    """`UCF-101/CLASS/v_….avi` beside `ucfTrainTestlist/`; the first of the official splits."""
    lists = _need(root / "ucfTrainTestlist", "the official splits, which lie beside UCF-101/")
    split = {**_ucf_list(lists / "trainlist01.txt", "train")}
    split |= _ucf_list(lists / "testlist01.txt", "test")
    labels = {
        name: int(number) - 1
        for number, name in (line.split() for line in _lines(lists / "classInd.txt"))
    }
    videos = _need(root / "UCF-101", "the folder with one folder of videos for each class")
    for path in videos.glob("*/*.avi"):
        name = f"{path.parent.name}/{path.name}"
        if name not in split:
            raise UserError(f"{path} is in none of the official lists under {lists}")
        label = labels.get(path.parent.name)
        if label is None:
            raise UserError(f"class {path.parent.name} is not in {lists / 'classInd.txt'}")
        yield Item(name, str(path.absolute()), "video", label, path.parent.name, split=split[name])


def _ucf_list(path: Path, split: str) -> dict[str, str]:
    return {line.split()[0]: split for line in _lines(path)}


def _lines(path: Path) -> list[str]:
    text = _need(path, "a list of the official splits").read_text()
    return [line.strip() for line in text.splitlines() if line.strip()]


# SkyTimelapse and TaiChi-HD


def skytimelapse(root: Path) -> Iterable[Item]:
    """`sky_train/VIDEO/CLIP/*.jpg` and `sky_test/…`: folders of frames."""
    for split in ("train", "test"):
        yield from _frame_folders(_need(root / f"sky_{split}", "frames of that split"), split)


def taichi_hd(root: Path) -> Iterable[Item]:
    """`train/` and `test/`, each with mp4 files or with folders of frames."""
    for split in ("train", "test"):
        folder = _need(root / split, "videos or folders of frames of that split")
        for path in folder.rglob("*"):
            if path.suffix.lower() in VIDEOS and path.is_file():
                name = f"{split}/{path.relative_to(folder).as_posix()}"
                yield Item(name, str(path.absolute()), "video", split=split)
        yield from _frame_folders(folder, split)


def _frame_folders(root: Path, split: str) -> Iterator[Item]:
    folders: dict[Path, list[Path]] = {}
    for path in root.rglob("*"):
        # TaiChi-HD's frame folders are called like the video: `x.mp4/0000000.png`.
        if path.suffix.lower() in PICTURES and path.is_file():
            folders.setdefault(path.parent, []).append(path)
    for folder, members in folders.items():
        ordered = tuple(str(path.absolute()) for path in sorted(members, key=natural))
        name = f"{split}/{folder.relative_to(root).as_posix()}"
        yield Item(name, str(folder.absolute()), "frames", split=split, members=ordered)


# Images


def celeba(root: Path) -> Iterable[Item]:
    """`img_align_celeba/*.jpg` with `list_eval_partition.txt` (or .csv) beside it."""
    pictures = _need(root / "img_align_celeba", "the folder of pictures")
    names = {"0": "train", "1": "valid", "2": "test"}
    for name, part in _celeba_parts(root):
        path = pictures / name
        yield Item(name, str(path.absolute()), "image", split=names[part])


def _celeba_parts(root: Path) -> Iterator[tuple[str, str]]:
    table = root / "list_eval_partition.csv"
    if table.exists():
        with open(table, newline="") as file:
            yield from ((row["image_id"], row["partition"]) for row in csv.DictReader(file))
        return
    for line in _lines(root / "list_eval_partition.txt"):
        name, part = line.split()
        yield name, part


def cifar10(path: Path) -> Iterable[Item]:
    """The archive `cifar-10-python.tar.gz`, or the folder that holds it."""
    archive = path / "cifar-10-python.tar.gz" if path.is_dir() else path
    _need(archive, "CIFAR-10's archive for Python")
    with tarfile.open(archive) as tar:
        names = [name for name in tar.getnames() if name.rsplit("/", 1)[-1] in _CIFAR_SPLITS]
    if not names:
        raise UserError(f"{archive} has no data_batch_1 … test_batch; is it CIFAR-10 for Python?")
    kinds = _cifar_pickle(str(archive), "batches.meta")["label_names"]
    for name in sorted(names):
        batch = name.rsplit("/", 1)[-1]
        labels = _cifar_pickle(str(archive), batch)["labels"]
        for row, label in enumerate(labels):
            yield Item(
                f"{batch}/{row:05d}",
                str(archive.absolute()),
                "image",
                int(label),
                str(kinds[int(label)]),
                split=_CIFAR_SPLITS[batch],
                member=(batch, row),
            )


_CIFAR_SPLITS = {**{f"data_batch_{n}": "train" for n in range(1, 6)}, "test_batch": "test"}


def cifar_pixels(archive: str, batch: str, row: int) -> npt.NDArray[np.uint8]:
    data = _cifar_pickle(archive, batch)["data"]
    return np.ascontiguousarray(np.asarray(data)[row].reshape(3, 32, 32).transpose(1, 2, 0))


@functools.lru_cache(maxsize=3)
def _cifar_pickle(archive: str, name: str) -> dict[str, Any]:
    with tarfile.open(archive) as tar:
        member = next(m for m in tar.getmembers() if m.name.rsplit("/", 1)[-1] == name)
        file = tar.extractfile(member)
        assert file is not None
        content = _ArraysOnly(io.BytesIO(file.read()), encoding="bytes").load()
    return {_text(key): _plain(value) for key, value in content.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [_text(entry) for entry in value]
    return value


class _ArraysOnly(pickle.Unpickler):
    """A pickle can run any code; these hold arrays, and nothing else is let in."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype"}
        if module.split(".")[0] == "numpy" and name in allowed:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise UserError(f"CIFAR-10's archive asks for {module}.{name}, which no data needs")


LAYOUTS: Mapping[str, Callable[[Path], Iterable[Item]]] = {
    "ucf101": ucf101,
    "skytimelapse": skytimelapse,
    "taichi-hd": taichi_hd,
    "celeba": celeba,
    "cifar10": cifar10,
}
