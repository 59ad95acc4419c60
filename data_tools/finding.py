"""What there is to shard: folders, globs, lists with captions and labels, known layouts."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from data_tools.archives import read_member
from data_tools.items import PICTURES, VIDEOS, Item
from data_tools.layouts import LAYOUTS
from hvdm.data import child
from hvdm.data.schema import KEY
from hvdm.errors import UserError, closest

OWN_FOLDERS = ("journal", "preview")
"""What lies in a data set's folder beside its splits."""


def find(source: str, images: bool, layout: str | None = None) -> list[Item]:
    """The sources, sorted by name; a name that comes twice is refused."""
    if layout is not None:
        items: Iterable[Item] = _laid_out(source, layout)
    elif any(character in source for character in "*?["):
        root = _root_of(source)
        items = _plain(root.glob(str(Path(source).relative_to(root))), root, images)
    else:
        items = _from_path(_existing(source), images)
    found = sorted(items, key=lambda item: item.name)
    _check_names(found, source, images)
    return found


def _laid_out(source: str, layout: str) -> list[Item]:
    if layout not in LAYOUTS:
        raise UserError(f"layout={layout!r} is not known; {closest(layout, LAYOUTS)}")
    try:
        return list(LAYOUTS[layout](_existing(source)))
    except (LookupError, OSError, ValueError, csv.Error, child.Failed) as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"source={source} is not what layout={layout} is handed out as ({reason[:300]}): "
            "fetch it again, or name its files in a list"
        ) from None


def _existing(source: str) -> Path:
    path = Path(source)
    if not path.exists():
        raise UserError(f"source={source}: there is no such file or folder")
    return path


def _from_path(path: Path, images: bool) -> Iterable[Item]:
    if path.is_dir():
        return _plain(path.rglob("*"), path, images)
    suffix = path.suffix.lower()
    if suffix in (VIDEOS if not images else PICTURES):
        return _plain([path], path.parent, images)
    if suffix in READERS:
        return _from_list(path, _entries(path, READERS[suffix]), images)
    raise UserError(f"source={path}: expected a folder, a video, or a list (.txt, .csv, .jsonl)")


def _root_of(pattern: str) -> Path:
    """The folder before the first wildcard."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if any(c in part for c in "*?["))
    return Path(*parts[:fixed]) if fixed else Path()


def _plain(paths: Iterable[Path], root: Path, images: bool) -> Iterable[Item]:
    suffixes = PICTURES if images else VIDEOS
    kind: Literal["image", "video"] = "image" if images else "video"
    for path in paths:
        if path.suffix.lower() in suffixes and path.is_file():
            yield Item(path.relative_to(root).as_posix(), str(path.absolute()), kind)


def _check_names(items: list[Item], source: str, images: bool) -> None:
    if not items:
        kinds = ", ".join(PICTURES if images else VIDEOS)
        raise UserError(f"source={source}: nothing to shard there; looked for {kinds}")
    for before, after in zip(items, items[1:], strict=False):
        if before.name == after.name:
            raise UserError(f"source={source}: {after.name} comes twice")


# Lists

Entries = list[dict[str, Any]]
LONGEST = 4096
LABEL = re.compile(r"-?[0-9]{1,9}")


def _read_txt(path: Path) -> Entries:
    lines = path.read_text("utf-8").splitlines()
    return [{"path": line.strip()} for line in lines if line.strip()]


def _read_csv(path: Path) -> Entries:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _read_jsonl(path: Path) -> Entries:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


READERS: Mapping[str, Callable[[Path], Entries]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}


def _entries(path: Path, read: Callable[[Path], Entries]) -> Entries:
    try:
        return read(path)
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path} is no {path.suffix} list ({error}); save it as UTF-8") from None


def _from_list(path: Path, entries: Entries, images: bool) -> Iterable[Item]:
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not _is_path(entry.get("path")):
            raise UserError(f"{path}, entry {number}: 'path' is missing, or no path")
        yield _listed(path, number, entry, images)


def _listed(path: Path, number: int, entry: Mapping[str, Any], images: bool) -> Item:
    file = Path(entry["path"])
    file = file if file.is_absolute() else path.parent / file
    label = entry.get("label")
    if label not in (None, "") and not LABEL.fullmatch(str(label)):
        raise UserError(f"{path}, entry {number}: label {_shown(label)} is no whole number")
    split = entry.get("split") or None
    if split is not None and not _is_split(str(split)):
        raise UserError(
            f"{path}, entry {number}: split {_shown(split)} is no name for a folder of the data "
            "set; use letters, digits, '_', '-', and neither " + " nor ".join(OWN_FOLDERS)
        )
    item = Item(str(entry["path"]), str(file.absolute()), "image" if images else "video")
    return replace(
        item,
        label=-1 if label in (None, "") else int(str(label)),
        class_name=_text(path, number, entry, "class"),
        caption=_text(path, number, entry, "caption"),
        split=None if split is None else str(split),
    )


def _is_path(value: Any) -> bool:
    """What a file can be called: text that the file system takes."""
    return _is_text(value) and 0 < len(value) < LONGEST and "\0" not in value


def _is_split(name: str) -> bool:
    return bool(KEY.fullmatch(name)) and len(name) < 100 and name not in OWN_FOLDERS


def _is_text(value: Any) -> bool:
    """Halves of surrogate pairs, which JSON can spell, are none."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


def _text(path: Path, number: int, entry: Mapping[str, Any], name: str) -> str | None:
    value = entry.get(name)
    if value in (None, ""):
        return None
    if not _is_text(value):
        raise UserError(f"{path}, entry {number}: {name} {_shown(value)} is no text")
    return str(value)


def _shown(value: Any) -> str:
    return repr(value)[:60]


# Pictures


def read_bytes(item: Item) -> bytes:
    """The file of a picture, or what one out of an archive would be."""
    if item.member is None:
        return Path(item.path).read_bytes()
    return read_member(item.path, *item.member)


def changed(item: Item) -> tuple[int, int]:
    """Size and time of a source, or -1: what says whether it is still what was probed."""
    try:
        stats = [Path(path).stat() for path in item.members or (item.path,)]
    except OSError:
        return -1, -1
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)
