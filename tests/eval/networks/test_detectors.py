import numpy as np
import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset

from data_tools.synthetic.rendering import render
from eval.blocks.extract import shuffle_frames
from eval.networks.detectors import FEATURES, _made, choose, find, make
from eval.numbers.statistics import frechet_distance, moments
from eval.summaries.frechet import _warnings
from hvdm.errors import UserError


@pytest.fixture(scope="module")
def rendered():
    return torch.stack([torch.from_numpy(render(5, i, 6, 32, 32).video) for i in range(48)])


def features(video):
    return make("untrained").extract(video)[FEATURES]


class Clips(Dataset):
    def __init__(self, video):
        self.video = video

    def __len__(self):
        return len(self.video)

    def __getitem__(self, index):
        return self.video[index]


def test_the_same_weights_and_features_whatever_the_global_generator(video):
    torch.manual_seed(1)
    first = _made.__wrapped__(choose("untrained"), "cpu")
    torch.manual_seed(2)
    second = _made.__wrapped__(choose("untrained"), "cpu")
    assert first.sha256 == second.sha256
    assert not first.comparable
    features = first.extract(video)[FEATURES]
    assert features.shape == (2, 64) and features.dtype == np.float32
    assert (features == second.extract(video)[FEATURES]).all()


def test_making_it_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    _made.__wrapped__(choose("untrained"), "cpu")
    assert torch.equal(before, torch.random.get_rng_state())


def test_torch_fidelity_finds_the_same_distance_with_it(rendered):
    a, b = rendered[:24], rendered[24:]
    theirs = torch_fidelity.calculate_metrics(
        input1=Clips(a), input2=Clips(b), feature_extractor="untrained", fid=True,
        cuda=False, verbose=False, batch_size=8, save_cpu_ram=True, cache=False,
    )["frechet_inception_distance"]  # fmt: skip
    extract = features
    ours = frechet_distance(moments(extract(a)), moments(extract(b)))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_shuffling_frames_raises_the_distance(rendered):
    extract = features
    keys = [f"clip {i}" for i in range(len(rendered))]
    shuffled = moments(extract(shuffle_frames(rendered, keys)))
    floor = frechet_distance(moments(extract(rendered[::2])), moments(extract(rendered[1::2])))
    assert frechet_distance(moments(extract(rendered)), shuffled) > 2 * floor


def test_shuffling_keeps_the_frames_and_never_their_order(rendered):
    keys = [f"clip {i}" for i in range(len(rendered))]
    shuffled = shuffle_frames(rendered, keys)
    for clip, again in zip(rendered, shuffled):
        assert not torch.equal(clip, again)
        assert torch.equal(clip.int().sum(0), again.int().sum(0))
    assert torch.equal(shuffle_frames(rendered[3:5], keys[3:5]), shuffled[3:5])


def test_detectors_that_are_not_at_hand_say_what_to_do():
    with pytest.raises(UserError, match="did you mean 'untrained'"):
        find("untraned")
    with pytest.raises(UserError, match="i3d_pretrained_400.pt.*detector=untrained gives"):
        choose("i3d")
    for name in ("videomae", "c3d"):
        with pytest.raises(UserError, match="never verified.*docs/evaluation.md"):
            choose(name)


def test_other_input_is_refused(video):
    with pytest.raises(UserError, match="uint8 B T H W 3"):
        make("untrained").extract(video.float())


def test_a_detector_that_sees_no_motion_is_pointed_out():
    real = moments(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    halves = {"value": 1.0}
    assert any("sees no motion" in text for text in _warnings(None, real, 0.5, halves))
    assert not _warnings(None, real, 1.5, halves)
