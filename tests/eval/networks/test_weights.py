import hashlib
import json
import pickle
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from eval.networks import detectors, lpips_distance, weights
from eval.networks.detectors import FEATURES, choose, make
from eval.networks.weights import WEIGHTS, disguise_of, fetch, git_blob_of, listed, need
from hvdm.errors import RunError, UserError
from launcher.cli import main

GOOD = b"PK\x03\x04 the weights of a network"
HTML = b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
PAGES = {"/good": GOOD, "/html": HTML, "/pointer": POINTER, "/other": b"PK something else"}


class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        found = PAGES.get(self.path)
        self.send_response(200 if found is not None else 404)
        self.end_headers()
        self.wfile.write(found or b"")

    def log_message(self, *_):
        return


@pytest.fixture(scope="module")
def site():
    server = HTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_a_file_that_is_absent_is_named_with_its_url_and_hash(tmp_path):
    with pytest.raises(UserError) as error:
        need("inception", tmp_path)
    for part in ("6726825d", "https://github.com/toshas", str(tmp_path), "weights fetch"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [(HTML, "an HTML page"), (POINTER, "a Git LFS pointer"), (b"", "empty"),
     (GOOD, "expected one that begins 6726825d")],
)  # fmt: skip
def test_what_is_no_weights_is_called_by_its_name(tmp_path, data, said):
    (tmp_path / WEIGHTS["inception"].file).write_bytes(data)
    with pytest.raises(UserError, match=said):
        need("inception", tmp_path)


def test_a_git_blob_is_what_git_calls_it(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    assert git_blob_of(path) == "ce013625030ba8dba906f756967f9e9ca394464a"
    (tmp_path / WEIGHTS["i3d-stylegan-v"].file).write_bytes(GOOD)
    with pytest.raises(UserError, match="not git blob 93daef59c7"):
        need("i3d-stylegan-v", tmp_path)


def test_fetching_pins_what_came_first(tmp_path, site):
    quiet = lambda text: None  # noqa: E731
    path = fetch("i3d", tmp_path, url=f"{site}/good", say=quiet)
    assert path.read_bytes() == GOOD
    assert json.loads((tmp_path / "pins.json").read_text()) == {path.name: sha256(GOOD)}
    assert need("i3d", tmp_path) == path
    path.write_bytes(GOOD + b"!")
    with pytest.raises(UserError, match="has sha256 .*, expected"):
        need("i3d", tmp_path)


@pytest.mark.parametrize(
    ("page", "said"),
    [("html", "an HTML page"), ("pointer", "Git LFS"), ("other", "expected"), ("none", "404")],
)
def test_a_download_of_something_else_leaves_nothing(tmp_path, site, page, said):
    with pytest.raises(RunError, match=said):
        fetch("i3d", tmp_path, sha256(GOOD), f"{site}/{page}", lambda text: None)
    assert not list(tmp_path.iterdir())


def test_a_file_of_ones_own_is_used_only_when_it_is_pinned(tmp_path):
    path = tmp_path / WEIGHTS["i3d"].file
    path.write_bytes(GOOD)
    with pytest.raises(UserError, match=f"not pinned.*sha256={sha256(GOOD)}"):
        need("i3d", tmp_path)
    with pytest.raises(UserError, match="sha256=00 was given"):
        fetch("i3d", tmp_path, "00")
    assert fetch("i3d", tmp_path, sha256(GOOD)) == path


def test_no_detector_falls_back_to_random_weights(tmp_path):
    for name in ("i3d", "i3d-stylegan-v", "inception", "vgg16", "dti3d", "dti3d-32"):
        with pytest.raises(UserError, match=WEIGHTS[detectors.KNOWN[name].weights].file):
            choose(name, folder=tmp_path)


def test_our_i3d_reads_a_state_dict_and_says_what_does_not_fit(tmp_path, video):
    from eval.networks.i3d import I3D

    path = tmp_path / WEIGHTS["i3d"].file
    torch.save(I3D().state_dict(), path)
    fetch("i3d", tmp_path, weights.sha256_of_file(path))
    long = video.repeat(1, 2, 1, 1, 1)[:1, :9]
    ways = ("tf-reference", "videogpt")
    found = [make(choose("i3d", way=way, folder=tmp_path)).extract(long)[FEATURES] for way in ways]
    assert found[0].shape == (1, 400) and not (found[0] == found[1]).all()
    with pytest.raises(UserError, match="at least 9 frames, these have 5"):
        make(choose("i3d", folder=tmp_path)).extract(video)
    for content, said in (({"a": torch.zeros(1)}, "does not fit I3D"), (GOOD, "cannot be read")):
        other = tmp_path / f"other{len(said)}"
        other.mkdir()
        wrong = other / path.name
        wrong.write_bytes(content) if isinstance(content, bytes) else torch.save(content, wrong)
        fetch("i3d", other, weights.sha256_of_file(wrong))
        with pytest.raises(UserError, match=said):
            make(choose("i3d", folder=other))


def test_files_of_dt_fvd_are_read_as_their_authors_write_them(tmp_path):
    from eval.networks.i3d import I3D

    path = tmp_path / WEIGHTS["dti3d"].file
    torch.save({"epoch": 3, "state_dict": I3D(18).state_dict()}, path)
    fetch("dti3d", tmp_path, weights.sha256_of_file(path))
    video = torch.zeros(1, 16, 16, 24, 3, dtype=torch.uint8)
    video[:, :, :, 12:] = 255
    found = make(choose("dti3d", folder=tmp_path)).extract(video)[FEATURES]
    assert found.shape == (1, 1024)
    assert not (
        found == make(choose("dti3d", folder=tmp_path)).extract(255 - video)[FEATURES]
    ).all()
    torch.save(I3D().state_dict(), path)
    with pytest.raises(UserError, match="has sha256"):
        choose("dti3d", folder=tmp_path)


class Scripted(torch.nn.Module):
    """Called like the TorchScript of StyleGAN-V."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool):
        assert rescale and resize and return_features
        return x.mean(dim=[2, 3, 4]).repeat(1, 134)[:, :400]


def test_the_torchscript_is_fed_with_0_to_255(tmp_path, monkeypatch, video):
    path = tmp_path / WEIGHTS["i3d-stylegan-v"].file
    torch.jit.script(Scripted()).save(str(path))
    monkeypatch.setattr(weights, "git_blob_of", lambda _: WEIGHTS["i3d-stylegan-v"].git_blob)
    long = video.repeat(1, 2, 1, 1, 1)
    found = make(choose("i3d-stylegan-v", folder=tmp_path)).extract(long)[FEATURES]
    assert found.shape == (2, 400)
    expected = long.float().mean((1, 2, 3))
    torch.testing.assert_close(torch.from_numpy(found[:, :3]), expected, rtol=1e-5, atol=0)


def test_lpips_is_the_written_formula_on_a_random_trunk(tmp_path, monkeypatch, video):
    import torchvision
    from torch_fidelity import sample_similarity_lpips as theirs

    torch.manual_seed(0)
    trunk = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]).eval()
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1)
             for i, c in enumerate((64, 128, 256, 512, 512))}  # fmt: skip
    monkeypatch.setattr(weights, "problem_of", lambda *_: None)
    for name in lpips_distance.FILES:
        torch.save({"a": torch.zeros(1)}, tmp_path / WEIGHTS[name].file)
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: heads)
    monkeypatch.setattr(
        theirs, "torchvision_load_pretrained_vgg16", lambda: type("V", (), {"features": trunk})
    )
    monkeypatch.setattr(theirs.SampleSimilarityLPIPS, "load_state_dict", loose)
    network = lpips_distance.make.__wrapped__(str(tmp_path))
    other = video.flip(1)
    found = lpips_distance.distance(network, video, other)
    assert lpips_distance.distance(network, video, video).tolist() == [0, 0]
    torch.testing.assert_close(found, written(trunk, heads, video, other), rtol=1e-5, atol=0)


def loose(self, state):
    return torch.nn.Module.load_state_dict(self, state, strict=False)


def written(trunk, heads, a, b):
    """arXiv 1801.03924, version 0.1, from its description."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = 0
    for layer, last in enumerate((4, 9, 16, 23, 30)):
        sides = []
        for video in (a, b):
            x = ((video.flatten(0, 1) / 127.5 - 1) - shift) / scale
            f = trunk[:last](x.permute(0, 3, 1, 2))
            sides.append(f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10))
        head = heads[f"lin{layer}.model.1.weight"][0, :, 0, 0]
        total = total + ((sides[0] - sides[1]) ** 2 * head[None, :, None, None]).sum(1).mean((1, 2))
    return total.view(a.shape[:2]).mean(1).double()


def test_listing_and_fetching_from_the_command_line(tmp_path, site, capsys):
    assert main(["weights", "list", f"weights={tmp_path}"]) == 0
    assert capsys.readouterr().out.count("is not there") == len(WEIGHTS)
    folder = f"weights={tmp_path}"
    assert main(["weights", "fetch", "name=i3d", folder, f"url={site}/good"]) == 0
    assert sha256(GOOD) in capsys.readouterr().out
    assert main(["weights", "list", folder, "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["i3d"]["problem"] is None and rows["inception"]["problem"]
    assert main(["weights", "fetch", "name=i3e", folder]) == 2
    assert "did you mean 'i3d'" in capsys.readouterr().err
    assert [row["name"] for row in listed(tmp_path)] == list(WEIGHTS)


def test_a_page_that_begins_with_a_byte_order_mark_is_still_a_page(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf  <HTML>")
    assert disguise_of(tmp_path / "a") == "an HTML page"


class Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def forged(tmp_path, monkeypatch, name):
    """A file whose hash begins as the published one does, and that runs code; and the mark."""
    mark, path = tmp_path / "ran", tmp_path / WEIGHTS[name].file
    path.write_bytes(pickle.dumps(Runs(mark)))
    begins = weights.sha256_of_file(path)[:8]
    monkeypatch.setitem(weights.WEIGHTS, name, replace(WEIGHTS[name], sha256_begins=begins))
    return mark, path


def measured_with(tmp_path, clips, name, protocol):
    asked = [f"real={clips / 'test'}", f"generated={MADE}", "clips=8", f"weights={tmp_path}"]
    return main(["evaluate", *asked, f"protocol={protocol}", f"detector={name}", "cluster=inline"])


MADE = f"python:{Path(__file__).parents[1] / 'eval_callables.py'}:shapes"
DETECTORS = [("inception", "fid@1"), ("vgg16", "prc@1")]


@pytest.mark.parametrize(("name", "protocol"), DETECTORS)
def test_eight_digits_of_a_hash_let_no_file_in(
    tmp_path, monkeypatch, capsys, clips, name, protocol
):
    mark, path = forged(tmp_path, monkeypatch, name)
    assert measured_with(tmp_path, clips, name, protocol) == 2
    assert f"not pinned (if you trust it: hvdm weights fetch name={name} sha256=" in (
        capsys.readouterr().err
    )
    assert not mark.exists()


@pytest.mark.parametrize(("name", "protocol"), DETECTORS)
def test_not_even_a_pinned_file_runs_code(tmp_path, monkeypatch, capsys, clips, name, protocol):
    mark, path = forged(tmp_path, monkeypatch, name)
    whole = f"sha256={weights.sha256_of_file(path)}"
    assert main(["weights", "fetch", f"name={name}", f"weights={tmp_path}", whole]) == 0
    assert measured_with(tmp_path, clips, name, protocol) == 2
    assert "holds more than tensors" in capsys.readouterr().err
    assert not mark.exists()


def test_torch_fidelity_is_given_the_tensors_as_they_are(tmp_path, monkeypatch):
    """Its own network from its own loading, and ours from the same file: equal in every bit."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    names = ("2048", "logits_unbiased")
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", loose)
    torch.manual_seed(0)
    untouched = theirs.FeatureExtractorInceptionV3("inception-v3-compat", list(names))
    path = tmp_path / WEIGHTS["inception"].file
    torch.save(untouched.state_dict(), path)
    monkeypatch.undo()
    mine = fetch("inception", tmp_path, pin_of(tmp_path, monkeypatch, path))
    found = make(choose("inception", "frames", folder=tmp_path))
    video = torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8)
    expected = untouched(video.flatten(0, 1).permute(0, 3, 1, 2))
    assert mine == path and found.sha256 == detectors.weights_sha256(untouched)
    made = found.extract(video)
    for layer, value in zip((FEATURES, detectors.LOGITS), expected):
        assert (made[layer] == value.numpy()).all()


def pin_of(tmp_path, monkeypatch, path):
    found = weights.sha256_of_file(path)
    changed = replace(WEIGHTS["inception"], sha256_begins=found[:8])
    monkeypatch.setitem(weights.WEIGHTS, "inception", changed)
    return found


@pytest.mark.parametrize(
    "claimed",
    [
        torch.zeros(1).expand(10**6, 10**6),
        torch.sparse_coo_tensor([[0], [0]], [1.0], (10**9, 10**9), check_invariants=True),
        torch.empty(10**12, device="meta"),
    ],
)
def test_a_tensor_that_is_not_there_is_refused(claimed, tmp_path, capsys):
    """A few bytes may claim a million million numbers; importing would lay them out."""
    torch.save({"all_modules.0.weight": claimed}, tmp_path / "w.pth")
    typed = ["checkpoint", "import", "from=wavediff", f"generator={tmp_path / 'w.pth'}"]
    assert main([*typed, "size=cifar10", f"run={tmp_path / 'run'}"]) == 2
    assert "no plain tensor with all of its numbers" in capsys.readouterr().err


IN, OUT = "input_blocks.0.0.weight", "out.2.weight"


@pytest.mark.parametrize(
    "code, part, shapes",
    [
        ("improved_diffusion", "unet", {IN: (0, 3, 3, 3), OUT: (3,)}),
        ("improved_diffusion", "unet", {IN: (), OUT: (3,)}),
        ("improved_diffusion", "unet", {IN: (8, 3), OUT: (3,), "input_blocks.99999999999.": (1,)}),
        ("hvdm", "autoencoder", {"to_pixel.1.weight": (0, 3, 4, 4)}),
    ],
)
def test_names_and_shapes_of_a_stranger_end_an_import_in_one_line(
    code, part, shapes, tmp_path, capsys
):
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "w.pth")
    typed = ["checkpoint", "import", f"from={code}", f"{part}={tmp_path / 'w.pth'}"]
    assert main([*typed, f"run={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "is no released" in line and "w.pth" in line
