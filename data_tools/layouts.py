"""Data sets as they are handed out: where their files lie, their labels, their official splits.

Archives are opened in a child: a stranger's may crash their reader, or grow without end.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from data_tools.archives import LMDB, LOCK, cifar_labels, lmdb_keys, stl_count
from data_tools.items import PICTURES, VIDEOS, Item, natural
from hvdm.data import child
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


def _lines(path: Path, what: str = "a list of the official splits") -> list[str]:
    text = _need(path, what).read_text()
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
    kinds, batches = child.call(cifar_labels, str(archive), tuple(_CIFAR_SPLITS))
    if not batches:
        raise UserError(f"{archive} has no data_batch_1 … test_batch; is it CIFAR-10 for Python?")
    for batch, labels in batches.items():
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


def stl10(root: Path) -> Iterable[Item]:
    """`stl10_binary/`, or the folder that holds it, with train, test and unlabeled pictures."""
    folder = root / "stl10_binary" if (root / "stl10_binary").is_dir() else root
    classes = _lines(folder / "class_names.txt", "names of STL-10's classes; unpack its archive")
    for split in ("train", "test", "unlabeled"):
        pixels = folder / f"{split}_X.bin"
        if split == "unlabeled" and not pixels.exists():
            continue
        count = stl_count(_need(pixels, "STL-10's pictures of that split"))
        labels = _stl_labels(folder / f"{split}_y.bin", count) if split != "unlabeled" else None
        for row in range(count):
            label = -1 if labels is None else labels[row]
            yield Item(
                f"{split}/{row:06d}",
                str(pixels.absolute()),
                "image",
                label,
                None if label < 0 else classes[label],
                split=split,
                member=(pixels.name, row),
            )


def _stl_labels(path: Path, count: int) -> list[int]:
    """From 1 there, from 0 here."""
    labels = [value - 1 for value in _need(path, "the classes of STL-10's pictures").read_bytes()]
    if len(labels) != count:
        raise UserError(f"{path} has {len(labels)} classes for {count} pictures: fetch it again")
    return labels


def pictures(root: Path) -> Iterable[Item]:
    """Files of pictures or LMDBs in any folder; one called train, val or test says the split."""
    for path in sorted(root.rglob("*")):
        split = _split_in(path.relative_to(root))
        name = path.relative_to(root).as_posix()
        if not path.is_file():
            continue
        if path.suffix.lower() in PICTURES:
            yield Item(name, str(path.absolute()), "image", split=split)
        elif path.suffix in LMDB and path.name != LOCK:
            for number, key in enumerate(child.call(lmdb_keys, str(path))):
                yield Item(
                    f"{name}/{number:07d}-{key}",
                    str(path.absolute()),
                    "image",
                    split=split,
                    member=(key, 0),
                )


_SPLIT_WORDS = {"train": "train"} | dict.fromkeys(("val", "valid", "validation", "test"), "test")


def _split_in(path: Path) -> str | None:
    words = (word for part in path.parts for word in re.split("[^a-z]+", part.lower()))
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


LAYOUTS: Mapping[str, Callable[[Path], Iterable[Item]]] = {
    "ucf101": ucf101,
    "skytimelapse": skytimelapse,
    "taichi-hd": taichi_hd,
    "celeba": celeba,
    "cifar10": cifar10,
    "stl10": stl10,
    "celeba-hq": pictures,
    "lsun": pictures,
}
