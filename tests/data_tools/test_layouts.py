import io
import pickle
import sys
import tarfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from data_tools.archives import lmdb_keys
from data_tools.finding import find, read_bytes
from data_tools.settings import Settings
from data_tools.shard import shard
from data_tools.verify import verify
from hvdm.data.loader import ClipSpec, Loader
from hvdm.errors import UserError
from launcher.cli import main
from tests.data_tools import videos

SMALL = Settings(size=32, clip_frames=16, min_frames=8, per_shard=4, test=0.0)


def picture(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    return videos.png(random.integers(0, 256, (20, 24, 3), dtype=np.uint8))


def test_ucf101_has_its_classes_and_official_split(tmp_path: Path) -> None:
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    (lists / "trainlist01.txt").write_text("Archery/v_a_g01.avi 1\nBiking/v_b_g01.avi 2\n")
    (lists / "testlist01.txt").write_text("Archery/v_a_g02.avi\n")
    for name in ("Archery/v_a_g01", "Biking/v_b_g01", "Archery/v_a_g02"):
        path = tmp_path / f"UCF-101/{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = len(name) + int(name[-1])
        videos.of_codec(path, videos.shapes(seed, 16), "mpeg4", "yuv420p")
    whole = shard(str(tmp_path), tmp_path / "out", SMALL, layout="ucf101")
    assert whole["splits"]["train"]["classes"] == {"Archery": 1, "Biking": 1}
    assert whole["splits"]["test"]["classes"] == {"Archery": 1}
    (tmp_path / "UCF-101/Biking/v_new.avi").write_bytes(b"x")
    with pytest.raises(UserError, match="in none of the official lists"):
        find(str(tmp_path), False, "ucf101")


def test_folders_of_frames_are_clips(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / f"sky_{split}/video/clip_{split}"
        folder.mkdir(parents=True)
        for number, pixels in enumerate(videos.shapes(5 + len(split), 12)):
            (folder / f"frame{number}.png").write_bytes(videos.png(pixels))
    items = find(str(tmp_path), False, "skytimelapse")
    assert [Path(path).stem for path in items[0].members][:11][-2:] == ["frame9", "frame10"]
    whole = shard(str(tmp_path), tmp_path / "out", SMALL, layout="skytimelapse")
    assert {split: one["clips"] for split, one in whole["splits"].items()} == {
        "test": 1,
        "train": 1,
    }
    assert verify(tmp_path / "out").ok


def test_taichi_has_videos_or_frames(tmp_path: Path) -> None:
    videos.write(tmp_path / "train/a.mp4", videos.shapes(1, 16))
    folder = tmp_path / "test/b.mp4"
    folder.mkdir(parents=True)
    for number, pixels in enumerate(videos.shapes(2, 3)):
        (folder / f"{number:07d}.png").write_bytes(videos.png(pixels))
    items = find(str(tmp_path), False, "taichi-hd")
    assert [(item.split, item.kind) for item in items] == [("test", "frames"), ("train", "video")]


def test_celeba_has_its_partition(tmp_path: Path) -> None:
    (tmp_path / "img_align_celeba").mkdir()
    for number in range(4):
        (tmp_path / f"img_align_celeba/{number:06d}.png").write_bytes(picture(number))
    lines = [f"{number:06d}.png {part}" for number, part in enumerate((0, 0, 1, 2))]
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(lines))
    settings = Settings(mode="images", height=16, width=16)
    whole = shard(str(tmp_path), tmp_path / "out", settings, layout="celeba")
    counts = {split: one["clips"] for split, one in whole["splits"].items()}
    assert counts == {"train": 2, "valid": 1, "test": 1}
    with Loader(tmp_path / "out/train", ClipSpec(1, 16, 16)) as loader:
        assert loader.rows([0, 1])["video"].shape == (2, 1, 16, 16, 3)


@pytest.mark.parametrize("sizes, side", [({}, 8), ({"height": 4, "width": 4}, 4)])
def test_pictures_are_cut_to_their_middle_first(
    tmp_path: Path, sizes: dict[str, int], side: int
) -> None:
    """A square is white, and nothing around it comes along."""
    pixels = np.zeros((20, 24, 3), np.uint8)
    pixels[6:14, 8:16] = 255
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(videos.png(pixels))
    settings = Settings(mode="images", centre=8, test=0.0, min_side=4, **sizes)
    shard(str(tmp_path / "in"), tmp_path / "out", settings)
    with Loader(tmp_path / "out/train", ClipSpec(1, side, side)) as loader:
        assert bool((loader.rows([0])["video"] == 255).all())


def test_a_job_that_takes_no_middle_is_what_it_was() -> None:
    assert "centre" not in Settings().as_json() and Settings(centre=8).as_json()["centre"] == 8
    with pytest.raises(UserError, match="centre=1: a square of at least 2 pixels"):
        Settings(centre=1)


def archive(path: Path, extra: object = None) -> Path:
    random = np.random.default_rng(0)
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    batches: dict[str, object] = {
        name: {
            b"labels": [number % 2, 1],
            b"data": random.integers(0, 256, (2, 3072), dtype=np.uint8),
            b"extra": extra,
        }
        for number, name in enumerate(names)
    }
    batches["batches.meta"] = {b"label_names": [b"cat", b"dog"]}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in batches.items():
            data = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_cifar10_comes_out_of_its_archive(tmp_path: Path) -> None:
    archive(tmp_path / "cifar-10-python.tar.gz")
    whole = shard(str(tmp_path), tmp_path / "out", Settings(mode="images"), layout="cifar10")
    assert whole["splits"]["train"]["clips"] == 10 and whole["splits"]["test"]["clips"] == 2
    assert whole["splits"]["train"]["classes"] == {"cat": 3, "dog": 7}
    assert verify(tmp_path / "out").ok


def test_an_archive_that_runs_code_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / "cifar-10-python.tar.gz", extra=Path("/"))
    with pytest.raises(UserError, match="which no data needs"):
        find(str(tmp_path), True, "cifar10")


def test_lists_carry_captions_labels_and_splits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        videos.write(tmp_path / f"v/{name}.mp4", videos.shapes(ord(name), 16))
    (tmp_path / "list.csv").write_text(
        "path,label,caption,split\nv/a.mp4,3,a ring,train\nv/b.mp4,,,test\n"
    )
    items = find(str(tmp_path / "list.csv"), False)
    assert [(i.label, i.caption, i.split) for i in items] == [
        (3, "a ring", "train"),
        (-1, None, "test"),
    ]
    (tmp_path / "list.jsonl").write_text('{"path": "v/a.mp4", "class": "ring"}\n')
    assert find(str(tmp_path / "list.jsonl"), False)[0].class_name == "ring"
    (tmp_path / "list.txt").write_text("v/a.mp4\nv/b.mp4\n")
    assert len(find(str(tmp_path / "list.txt"), False)) == 2
    assert len(find(str(tmp_path / "v/*.mp4"), False)) == 2
    (tmp_path / "gone.txt").write_text("v/none.mp4\nv/a.mp4\n")
    whole = shard(str(tmp_path / "gone.txt"), tmp_path / "out", SMALL)
    assert whole["quarantine"][0]["error"] == "there is no such file"


@pytest.mark.parametrize(
    "content, message",
    [
        ("path,label\nv/a.mp4,x\n", "label 'x' is no whole number"),
        ("label\n1\n", "'path' is missing"),
        ("path\na.mp4\na.mp4\n", "comes twice"),
    ],
)
def test_wrong_lists_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        find(str(tmp_path / "list.csv"), False)


def test_names_become_keys_that_webdataset_keeps_whole(tmp_path: Path) -> None:
    for name in ("a.b.mp4", "ä ö.mp4", "a_b.mp4", "--x.mp4"):
        videos.write(tmp_path / name, videos.shapes(1, 4))
    keys = [item.key for item in find(str(tmp_path), False)]
    assert len(set(keys)) == 4 and all(
        key.replace("-", "").replace("_", "").isalnum() for key in keys
    )


def test_nothing_to_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to shard there"):
        find(str(tmp_path), False)
    with pytest.raises(UserError, match="no such file"):
        find(str(tmp_path / "none"), False)
    with pytest.raises(UserError, match="did you mean 'ucf101'"):
        find(str(tmp_path), False, "ucf-101")


def stl(folder: Path, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Binary files as STL-10 has them: each colour column by column."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    made = {}
    for split, count in counts.items():
        made[split] = random.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        made[split].transpose(0, 3, 2, 1).tofile(folder / f"{split}_X.bin")
        if split != "unlabeled":
            labels = (np.arange(count) % 2 + 1).astype(np.uint8)
            labels.tofile(folder / f"{split}_y.bin")
    return made


def test_stl10_comes_out_of_its_binary_files(tmp_path: Path) -> None:
    made = stl(tmp_path / "stl10_binary", {"train": 3, "test": 2, "unlabeled": 4})
    whole = shard(str(tmp_path), tmp_path / "out", Settings(mode="images"), layout="stl10")
    counts = {split: one["clips"] for split, one in whole["splits"].items()}
    assert counts == {"train": 3, "test": 2, "unlabeled": 4}
    assert whole["splits"]["train"]["classes"] == {"airplane": 2, "bird": 1}
    with Loader(tmp_path / "out/unlabeled", ClipSpec(1, 96, 96)) as loader:
        rows = loader.rows(range(4))["video"][:, 0].numpy()
    assert sorted(map(bytes, rows)) == sorted(map(bytes, made["unlabeled"]))
    items = find(str(tmp_path / "stl10_binary"), True, "stl10")
    assert [item.label for item in items if item.split == "train"] == [0, 1, 0]


def test_stl10_that_is_incomplete_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class_names.txt is missing: .*unpack its archive"):
        find(str(tmp_path), True, "stl10")
    stl(tmp_path / "stl10_binary", {"train": 2, "test": 1})
    assert len(find(str(tmp_path), True, "stl10")) == 3
    (tmp_path / "stl10_binary/train_y.bin").write_bytes(b"\x01")
    with pytest.raises(UserError, match="train_y.bin has 1 classes for 2 pictures"):
        find(str(tmp_path), True, "stl10")
    (tmp_path / "stl10_binary/train_X.bin").write_bytes(b"\x01")
    with pytest.raises(UserError, match="no whole number of 96x96 pictures"):
        find(str(tmp_path), True, "stl10")


def laid_out(folder: Path, layout: str, files: dict[str, bytes]) -> list[str]:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return ["data", "shard", f"source={folder}", f"out={folder}.set", f"layout={layout}"]


def cifar_of(**members: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else pickle.dumps(content)
            member = tarfile.TarInfo(f"cifar/{name.replace('_meta', '.meta')}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


CIFAR, LIST = "cifar-10-python.tar.gz", "list_eval_partition.txt"
NAMES = {b"label_names": ["a"]}
MALFORMED: list[tuple[str, dict[str, bytes]]] = [
    ("celeba", {"img_align_celeba/a.png": b"", LIST: b"a.png\n"}),
    ("celeba", {"img_align_celeba/a.png": b"", LIST: b"a.png 9\n"}),
    ("celeba", {"img_align_celeba/a.png": b"", LIST: b"\xff\xfe 0\n"}),
    ("celeba", {"img_align_celeba/a.png": b"", "list_eval_partition.csv": b"x,y\n1,2\n"}),
    ("ucf101", {"UCF-101/A/v.avi": b"", "ucfTrainTestlist/trainlist01.txt": b"A/v.avi 1\n",
                "ucfTrainTestlist/testlist01.txt": b"", "ucfTrainTestlist/classInd.txt": b"A\n"}),
    ("stl10", {"class_names.txt": b"one\n", "train_X.bin": bytes(27648), "train_y.bin": b"\xff",
               "test_X.bin": b"", "test_y.bin": b""}),
    ("cifar10", {CIFAR: b"no archive"}),
    ("cifar10", {CIFAR: cifar_of(data_batch_1={b"labels": [0]})}),
    ("cifar10", {CIFAR: cifar_of(data_batch_1={b"labels": [7]}, batches_meta=NAMES)}),
    ("cifar10", {CIFAR: cifar_of(data_batch_1=5, batches_meta=NAMES)}),
    ("cifar10", {CIFAR: cifar_of(data_batch_1=b"(" * 9, batches_meta=NAMES)}),
    ("lsun", {"x_train_lmdb/data.mdb": b"no database"}),
]  # fmt: skip


@pytest.mark.parametrize("layout, files", MALFORMED)
def test_a_data_set_that_a_stranger_handed_out_ends_in_one_line(
    layout: str, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = laid_out(tmp_path / "set", layout, files)
    mode = [] if layout == "ucf101" else ["mode=images"]
    assert main([*typed, *mode]) in (1, 2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("hvdm: ") and str(tmp_path / "set") in line


def test_a_database_that_crashes_its_reader_is_contained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pages of a database refer to each other by number, and its reader believes them."""
    values = {f"{number:04d}": bytes(300) for number in range(200)}
    database(tmp_path / "set/x_train_lmdb", values)
    path = tmp_path / "set/x_train_lmdb/data.mdb"
    whole = path.read_bytes()
    typed = ["data", "shard", f"source={tmp_path / 'set'}", "layout=lsun", "mode=images"]
    for cut in (0, 8192, 12288, len(whole) // 2):
        spoilt = bytearray(whole[: len(whole) // 2] if cut == 0 else whole)
        spoilt[cut or 8192 : (cut or 8192) + 64] = b"\xff" * 64
        path.write_bytes(spoilt)
        assert main([*typed, f"out={tmp_path / f'out-{cut}'}"]) in (0, 1, 2)
        said = capsys.readouterr().err
        assert "Traceback" not in said and len(said.strip().splitlines()) <= 1


def database(folder: Path, values: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**24) as made, made.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)


def test_lsun_comes_out_of_its_databases(tmp_path: Path) -> None:
    """Encoded values stay as they are, in the order of the keys."""
    webp = io.BytesIO()
    Image.fromarray(np.full((20, 24, 3), 80, np.uint8)).save(webp, "WEBP")
    values = {"b0": picture(1), "a1": webp.getvalue()}
    database(tmp_path / "lsun/church_outdoor_train_lmdb", values)
    database(tmp_path / "lsun/church_outdoor_val_lmdb", {"c": picture(2)})
    items = find(str(tmp_path / "lsun"), True, "lsun")
    assert [item.name.rsplit("-")[-1] for item in items] == ["a1", "b0", "c"]
    assert [item.split for item in items] == ["train", "train", "test"]
    whole = shard(str(tmp_path / "lsun"), tmp_path / "out", Settings(mode="images"), layout="lsun")
    assert {split: one["clips"] for split, one in whole["splits"].items()} == {
        "train": 2,
        "test": 1,
    }
    (tar,) = (tmp_path / "out/train").glob("*.tar")
    with tarfile.open(tar) as opened:
        kept = {m.name.rsplit(".", 1)[1]: opened.extractfile(m).read() for m in opened}  # type: ignore[union-attr]
    assert kept["webp"] == values["a1"] and kept["png"] == values["b0"]


def test_celeba_hq_has_folders_or_databases_of_raw_squares(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    database(tmp_path / "lmdb/train.lmdb", {"0": raw.tobytes()})
    (item,) = find(str(tmp_path / "lmdb"), True, "celeba-hq")
    assert item.split == "train"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(read_bytes(item)))), raw)
    for name in ("train/00000.png", "test/00001.png"):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(len(name)))
    faces = find(str(tmp_path / "faces"), True, "celeba-hq")
    assert [(item.name, item.split) for item in faces] == [
        ("test/00001.png", "test"),
        ("train/00000.png", "train"),
    ]


def test_a_database_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.mdb").write_bytes(b"no database" * 999)
    with pytest.raises(UserError, match="data.mdb is no LMDB that can be read"):
        find(str(tmp_path), True, "lsun")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r"needs the package lmdb: install hvdm\[lsun\]"):
        lmdb_keys(str(tmp_path / "data.mdb"))
