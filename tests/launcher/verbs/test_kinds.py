"""A family's own kinds of samples, as they are typed: written, helped with, and measured."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import hvdm
from eval.protocol import protocol
from hvdm.data.decode import decode_image
from hvdm.media import mesh
from launcher.cli import main

FOLDER = Path(__file__).parents[2] / "drawn"


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        typed = [f"config={FOLDER}/toy_kinds.yaml", f"run={run}", f"data.path={shapes}"]
        assert main(["train", *typed, "cluster=inline", "steps=2", "log.tensorboard=false"]) == 0
        yield run


def sampled(run, out, capsys, *typed):
    capsys.readouterr()
    assert main(["sample", f"run={run}", f"out={out}", *typed, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_grid_of_pictures(run, tmp_path, capsys):
    told = sampled(run, tmp_path, capsys, "tone=cold", "count=3", "batch=2")
    assert told["what"] == "grid" and told["options"] == {"tone": "cold"}
    names = [Path(name).name for name in told["files"]]
    stem = "seed-0-tone-cold"
    assert names == [f"{stem}-sheet.png", *(f"{stem}-{draw:04d}.png" for draw in range(3))]
    first = decode_image((tmp_path / f"{stem}-0000.png").read_bytes())[0]
    sheet = decode_image((tmp_path / f"{stem}-sheet.png").read_bytes())[0]
    assert (sheet[: len(first), : first.shape[1]] == first).all() and sheet.shape[1] > 3 * 64
    images = hvdm.load(run).sample(2, tone="cold")
    assert images.shape == (2, 3, 16, 16)


def test_a_mesh_is_read_back(run, tmp_path, capsys):
    told = sampled(run, tmp_path, capsys, "what=mesh", "count=2")
    names = [Path(name).name for name in told["files"]]
    assert names == ["mesh-seed-0-sheet.png", "mesh-seed-0-0000.glb", "mesh-seed-0-0001.glb"]
    (made, _) = hvdm.load(run).sample(2, what="mesh")
    vertices, faces, colours = parsed((tmp_path / "mesh-seed-0-0000.glb").read_bytes())
    np.testing.assert_array_equal(vertices, made.vertices.numpy())
    np.testing.assert_array_equal(faces, made.faces.numpy())
    np.testing.assert_array_equal(colours[:, :3], made.colours.numpy())
    picture = mesh.picture(made)
    assert picture.shape == (128, 128, 3) and (picture != 255).any()


def parsed(data):
    """Vertices, faces and colours of a .glb, by what its JSON says of its numbers."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    scene = json.loads(data[20 : 20 + size])
    rest = 20 + size
    binary, name = struct.unpack_from("<I4s", data, rest)
    assert kind == b"JSON" and name == b"BIN\0" and size % 4 == binary % 4 == 0
    assert rest + 8 + binary == len(data)
    types = {5126: "<f4", 5125: "<u4", 5121: "u1"}
    widths = {"SCALAR": 3, "VEC3": 3, "VEC4": 4}
    found = []
    for accessor in scene["accessors"]:
        view = scene["bufferViews"][accessor["bufferView"]]
        at = rest + 8 + view["byteOffset"]
        values = np.frombuffer(data[at : at + view["byteLength"]], types[accessor["componentType"]])
        assert (
            len(values) == accessor["count"] * {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        )
        found.append(values.reshape(-1, widths[accessor["type"]]))
    np.testing.assert_allclose(scene["accessors"][0]["min"], found[0].min(0))
    return found


@pytest.mark.parametrize(
    "what, suffixes",
    [("page", {".html"}), ("depth", {".png", ".npy"}), ("spectrum", {".png", ".npy"})],
)
def test_other_media(run, tmp_path, capsys, what, suffixes):
    told = sampled(run, tmp_path, capsys, f"what={what}", "count=2")
    assert {Path(name).suffix for name in told["files"]} == suffixes
    if what == "spectrum":
        kept = np.load(tmp_path / "spectrum-seed-0-0001.npy")
        expected = hvdm.load(run).sample(2, what=what)[1]
        np.testing.assert_allclose(kept, expected.numpy())


def test_help_lists_the_kinds_of_a_run(run, capsys):
    assert main(["sample", f"run={run}", "--help"]) == 0
    told = capsys.readouterr().out
    assert "what=grid: pictures of few colours (images)" in told
    assert "tone=warm|cold  which colours; default warm" in told
    assert "contrast=X" in told and "what=mesh: a tetrahedron (mesh)" in told
    assert main(["sample", "--help"]) == 0


@pytest.mark.parametrize(
    "typed, said",
    [
        (["what=film"], "this model cannot sample that; choose from: depth, grid"),
        (["what=mesh", "tone=cold"], "unknown key 'tone' for what=mesh"),
        (["tone=blue"], "tone='blue' is not known; choose from: cold, warm"),
        (["contrast=much"], "contrast='much' is a str; expected float"),
        (["what=mesh", "write=mp4"], "write='mp4'; choose from: glb"),
        (["steps=3"], "steps=3: what=grid of this model is drawn in a number of steps of its own"),
    ],
)
def test_wrong_kinds_and_options_are_one_line(run, tmp_path, capsys, typed, said):
    capsys.readouterr()
    assert main(["sample", f"run={run}", f"out={tmp_path}", *typed]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1, error


def evaluated(run, *typed):
    where = [f"run={run}", "cluster=inline", "detector=untrained", "clips=4"]
    return main(["evaluate", *where, *typed, "--json"])


def test_a_protocol_names_a_kind(run, capsys, monkeypatch, tmp_path):
    named = replace(protocol.find("fid"), name="toy/grid", what="grid")
    monkeypatch.setitem(protocol.PROTOCOLS, named.full_name, named)
    monkeypatch.setenv("HVDM_CACHE", str(tmp_path))
    capsys.readouterr()
    assert evaluated(run, "protocol=toy/grid@1", "sample.tone=cold") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["fields"]["generated"]["sampled"] == "grid"
    assert result["fields"]["video"]["frames"] == 1 and np.isfinite(result["values"]["fid"])
    for typed, said in (
        (["protocol=toy/grid@1", "what=mesh"], "toy/grid@1 samples what=grid"),
        (
            ["protocol=fid@1", "what=mesh"],
            "what=mesh gives mesh, and fid@1 looks at film",
        ),
        (["protocol=fid@1", "size=8x8"], "size= goes with generated="),
        (["protocol=fid@1", "sample.tone=blue"], "tone='blue' is not known"),
    ):
        assert evaluated(run, *typed) == 2
        error = capsys.readouterr().err.strip()
        assert said in error and len(error.splitlines()) == 1, error


def test_nothing_is_drawn_to_learn_what_a_run_samples(run, capsys, monkeypatch, tmp_path):
    import toy_kinds

    monkeypatch.setenv("HVDM_CACHE", str(tmp_path))
    drawn, sample = [], toy_kinds.Colours.sample

    def counted(self, nets, request, noise):
        drawn.extend(noise.draws)
        return sample(self, nets, request, noise)

    monkeypatch.setattr(toy_kinds.Colours, "sample", counted)
    assert evaluated(run, "protocol=fid@1") == 0
    assert sorted(drawn) == [0, 1, 2, 3]


def test_a_mesh_that_is_none_is_refused():
    wrong = mesh.Mesh(torch.zeros(2, 3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(Exception, match="faces M 3 of their numbers"):
        mesh.glb(wrong)
