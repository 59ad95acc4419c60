"""Why some of it is ours: what torch-fidelity does, pinned, so that we notice when it changes."""

import inspect

import numpy as np
import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset, IterableDataset
from torch_fidelity import utils
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from eval.networks import extractors  # noqa: F401  (registers the extractors)
from eval.numbers.statistics import frechet_distance, moments
from hvdm import rng


class Clips(Dataset):
    def __init__(self, seed, count=8):
        generator = rng.generator("limits", seed)
        self.video = torch.randint(0, 256, (count, 4, 16, 16, 3), generator=generator).byte()

    def __len__(self):
        return len(self.video)

    def __getitem__(self, index):
        return self.video[index]


class Stream(IterableDataset):
    def __iter__(self):
        yield from Clips(0).video


def fid(a, b, **more):
    return torch_fidelity.calculate_metrics(
        input1=a, input2=b, feature_extractor="untrained", fid=True, cuda=False, verbose=False,
        save_cpu_ram=True, **more,
    )["frechet_inception_distance"]  # fmt: skip


def test_its_cache_is_keyed_by_a_name_and_returns_what_was_true_once(tmp_path):
    here = {"cache_root": str(tmp_path), "input2_cache_name": "set"}
    first = fid(Clips(0), Clips(1), **here)
    assert fid(Clips(0), Clips(2), **here) == first
    assert fid(Clips(0), Clips(2), cache=False) != first


def test_it_takes_no_stream_of_clips():
    with pytest.raises((TypeError, NotImplementedError, AttributeError)):
        fid(Clips(0), Stream(), cache=False)


def test_its_means_of_float32_features_are_float32():
    rows = (rng.numpy_generator("limits", "rows").normal(size=(4000, 4)) + 5000).astype(np.float32)
    theirs = fid_features_to_statistics(torch.from_numpy(rows))["mu"]
    exact = rows.astype(np.float64).mean(axis=0)
    assert theirs.dtype == np.float32
    assert np.abs(moments(rows).mean - exact).max() < 1e-9 < np.abs(theirs - exact).max()


def test_statistics_of_two_precisions_do_not_go_together():
    rows = rng.numpy_generator("limits", "mixed").normal(size=(50, 4))
    sides = [fid_features_to_statistics(torch.from_numpy(rows.astype(kind)))
             for kind in (np.float32, np.float64)]  # fmt: skip
    with pytest.raises(AssertionError):
        fid_statistics_to_metric(*sides, verbose=False)
    assert frechet_distance(moments(rows.astype(np.float32)), moments(rows)) < 1e-9


def test_conditional_generators_need_a_numpy_that_is_gone():
    assert "np.int)" in inspect.getsource(utils) and not hasattr(np, "int")


def test_a_feature_that_is_not_finite_is_not_named():
    rows = torch.ones((5, 3))
    rows[2, 1] = float("nan")
    statistics = [fid_features_to_statistics(part) for part in (rows, torch.rand((5, 3)))]
    with pytest.raises(np.linalg.LinAlgError), np.errstate(all="ignore"):
        fid_statistics_to_metric(*statistics, verbose=False)
