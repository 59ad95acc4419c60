"""Cases whose answers are known beforehand, and torch-fidelity's own functions beside ours."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from eval.numbers import similarity
from eval.numbers.jackknife import estimate, extrapolate, interval, student_975
from eval.numbers.similarity import inception_score, joined, kid, mmd2, precision_recall
from eval.numbers.statistics import (
    Moments,
    factor_distance,
    fold,
    frechet_distance,
    moments,
    null_bias,
)
from hvdm import rng


def normal(*parts, count=200, dimensions=6):
    return rng.numpy_generator("closed", *parts).normal(size=(count, dimensions))


def cut(rows, count=20):
    return np.array_split(rows, count)


def blocks(rows, count=20):
    return {k: moments(part) for k, part in enumerate(cut(rows, count))}


def known(mean, variances, count=1000):
    return Moments(count, np.asarray(mean, float), np.diag(np.asarray(variances)) * (count - 1))


# Frechet


def test_the_distance_of_diagonal_gaussians_to_thirteen_digits():
    random = rng.numpy_generator("closed", "diagonal")
    means, variances = random.normal(size=(2, 400)), random.uniform(0.1, 4, size=(2, 400))
    a, b = (known(m, v) for m, v in zip(means, variances))
    expected = ((means[0] - means[1]) ** 2).sum()
    expected += ((variances[0] ** 0.5 - variances[1] ** 0.5) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-13)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-13)


def test_fewer_samples_than_features_and_equal_sets_are_zero_apart():
    few = normal("few", count=50, dimensions=400)
    assert factor_distance(few, few) == 0
    assert frechet_distance(moments(few), moments(few)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("counts", [(50, 60), (300, 350)])
def test_the_factor_form_is_the_distance(counts):
    x, y = (
        normal("x", count=counts[0], dimensions=100),
        normal("y", count=counts[1], dimensions=100),
    )
    found = factor_distance(x, y + 0.1)
    assert found == pytest.approx(frechet_distance(moments(x), moments(y + 0.1)), rel=1e-6)


@pytest.mark.parametrize("dimensions", [8, 64, 400])
def test_torch_fidelity_finds_the_same_frechet_distance(dimensions):
    x = normal("p", dimensions, count=3 * dimensions, dimensions=dimensions)
    y = 1.2 * normal("q", dimensions, count=4 * dimensions, dimensions=dimensions) + 0.1
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(side)) for side in (x, y)), verbose=False
    )[KEY_METRIC_FID]
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(theirs, rel=1e-9)


def test_null_bias_of_sets_of_two_sizes():
    distances = [
        frechet_distance(moments(normal("n", i, count=100)), moments(normal("m", i, count=300)))
        for i in range(60)
    ]
    expected = null_bias(known(np.zeros(6), np.ones(6)), 100, 300)
    assert abs(np.mean(distances) - expected) < 4 * np.std(distances) / 60**0.5


def test_null_bias_of_400_features_is_what_is_measured():
    found = [
        frechet_distance(*(moments(normal(s, i, count=2048, dimensions=400)) for s in "ab"))
        for i in range(2)
    ]
    assert np.mean(found) == pytest.approx(39.57, abs=0.6)


# The jackknife


def trial(number, ratio, dimensions=32):
    """The estimate for two Gaussians of decaying spectrum, whose distance is known."""
    random = rng.numpy_generator("trial", ratio, number)
    spread = np.exp(-np.arange(dimensions) / (dimensions / 8))
    count = int(float(ratio) * dimensions)
    a = random.normal(size=(count, dimensions)) * spread**0.5
    b = random.normal(size=(count, dimensions)) * (1.3 * spread) ** 0.5 + 0.05
    truth = (spread * (1 - 1.3**0.5) ** 2).sum() + dimensions * 0.05**2
    return estimate(blocks(a), blocks(b)), truth


@pytest.mark.parametrize("ratio", ["2.5", "5"])
def test_the_interval_covers_the_truth_in_300_trials(ratio):
    covered = plain = 0
    for number in range(300):
        found, truth = trial(number, ratio)
        low, high = found.interval
        covered += low < truth < high
        low, high = interval(found.value, found.standard_error, len(found.left_out))
        plain += low < truth < high
    assert covered / 300 >= 0.88
    assert plain / 300 < 0.20


def test_a_debiased_value_may_be_negative():
    found = [
        estimate(blocks(normal("u", i, count=320)), blocks(normal("v", i, count=320))).debiased
        for i in range(12)
    ]
    assert min(found) < 0 and abs(np.mean(found)) < 0.02


def test_extrapolation_on_both_sides_takes_the_bias_away():
    truth, plain, found = 64 * 0.01, [], []
    for i in range(6):
        a = blocks(normal("s", i, count=1280, dimensions=64))
        b = blocks(normal("t", i, count=1280, dimensions=64) + 0.1)
        plain.append(frechet_distance(fold(a), fold(b)))
        found.append(extrapolate(a, b).value)
    assert np.mean(plain) - truth > 1
    assert abs(np.mean(found) - truth) < 0.15 * (np.mean(plain) - truth)


def test_too_few_samples_are_not_extrapolated():
    few = blocks(normal("few", count=60, dimensions=64))
    assert extrapolate(few, few) is None


@pytest.mark.parametrize(("degrees", "expected"), [(3, 3.182), (9, 2.262), (19, 2.093)])
def test_students_t_is_that_of_the_tables(degrees, expected):
    assert student_975(degrees) == pytest.approx(expected, abs=4e-3)


# Kernels


def cubic(mean, covariance, other_mean, other_covariance):
    """E (x.y/d + 1)^3 of two independent Gaussians."""
    d, a = len(mean), mean @ other_mean
    one, two = mean @ other_covariance @ mean, other_mean @ covariance @ other_mean
    trace = np.trace(covariance @ other_covariance)
    square = trace + one + two + a**2
    cube = (
        a**3 + 3 * a * (two + trace + one) + 6 * other_mean @ covariance @ other_covariance @ mean
    )
    return cube / d**3 + 3 * square / d**2 + 3 * a / d + 1


def test_mmd_of_two_gaussians_is_the_closed_form():
    d = 16
    means = np.zeros(d), np.full(d, 0.7)
    spreads = np.ones(d), np.linspace(0.5, 2, d)
    sides = [
        normal("mmd", i, count=4000, dimensions=d) * spreads[i] ** 0.5 + means[i] for i in (0, 1)
    ]
    of = [[cubic(means[i], np.diag(spreads[i]), means[j], np.diag(spreads[j])) for j in (0, 1)]
          for i in (0, 1)]  # fmt: skip
    expected = of[0][0] + of[1][1] - 2 * of[0][1]
    found = mmd2(*(cut(side) for side in sides))
    assert abs(found.value - expected) < 4 * found.standard_error
    assert found.standard_error < 0.1 * expected


def test_mmd_of_one_distribution_is_about_zero():
    sides = [cut(normal(name, count=800, dimensions=64)) for name in ("one", "two")]
    found = mmd2(*sides)
    assert abs(found.value) < 4 * found.standard_error < 0.01


def test_mmd_by_blocks_is_mmd_of_all_pairs_and_leaving_out_is_that_of_the_rest():
    x, y = normal("k", count=43), normal("l", count=50) + 0.3

    def plain(a, b):
        kernel = [(s @ t.T / 6 + 1) ** 3 for s, t in ((a, a), (b, b), (a, b))]
        n, m = len(a), len(b)
        inside = [(k.sum() - np.trace(k)) for k in kernel[:2]]
        return inside[0] / (n * (n - 1)) + inside[1] / (m * (m - 1)) - 2 * kernel[2].mean()

    found = mmd2(cut(x, 5), cut(y, 5))
    assert found.value == pytest.approx(plain(x, y), rel=1e-10)
    rest = [np.concatenate(cut(side, 5)[1:]) for side in (x, y)]
    assert found.left_out[0] == pytest.approx(plain(*rest), rel=1e-10)


def test_kid_and_precision_are_torch_fidelitys():
    x, y = normal("real", count=120), normal("made", count=120) + 0.5
    sides = [torch.from_numpy(side) for side in (y, x)]
    theirs = kid_features_to_metric(*sides, kid_subsets=100, kid_subset_size=120, verbose=False)
    ours = kid(x, y)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    shares = prc_features_to_metric(*sides, verbose=False)
    found = precision_recall(cut(x), cut(y))
    assert found["precision"].value == shares["precision"]
    assert found["recall"].value == shares["recall"]
    assert found["precision"].standard_error > 0


# Inception score, precision, recall


def test_inception_score_of_even_certainty_is_the_number_of_classes():
    logits = np.tile(np.eye(5) * 1000, (40, 1))
    assert inception_score(logits).value == pytest.approx(5, rel=0.2)
    whole = isc_features_to_metric(torch.from_numpy(logits), splits=1)
    assert whole["inception_score_mean"] == pytest.approx(5, abs=1e-12)


def test_inception_score_of_no_opinion_is_one():
    found = inception_score(np.ones((100, 7)))
    assert found.value == pytest.approx(1, abs=1e-12) and found.deviation == pytest.approx(0)


def test_precision_and_recall_of_known_sets():
    x, far = normal("set", count=80), normal("far", count=80) + 100
    same, apart = precision_recall(cut(x), cut(x)), precision_recall(cut(x), cut(far))
    assert [same[n].value for n in ("precision", "recall")] == [1, 1]
    assert [apart[n].value for n in ("precision", "recall")] == [0, 0]
    part = precision_recall(cut(x), cut(x[:40]))
    assert part["precision"].value == 1
    narrow = precision_recall(cut(x), cut(0.1 * normal("narrow", count=80)))
    assert narrow["precision"].value > 0.9 > 0.5 > narrow["recall"].value
    swapped = precision_recall(cut(0.1 * normal("narrow", count=80)), cut(x))
    assert swapped["precision"].value == narrow["recall"].value


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_torch_fidelitys(k, monkeypatch):
    """Which holds blocks of 10,000 by 10,000 distances; here some rows at a time are enough."""
    real, made = (np.random.default_rng(seed).normal(size=(90 + seed, 6)) for seed in (0, 1))
    theirs = prc_features_to_metric(
        torch.from_numpy(made), torch.from_numpy(real), prc_neighborhood=k, prc_batch_size=10000,
        save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    for pairs in (1, 1000, 1 << 20):
        monkeypatch.setattr(similarity, "PAIRS_AT_ONCE", pairs)
        ours = precision_recall(np.array_split(real, 5), np.array_split(made, 5), k)
        for name in ("precision", "recall"):
            assert ours[name].value == pytest.approx(theirs[name], abs=1e-6)


def test_neighbours_in_one_array_are_joined_without_a_copy():
    whole = np.arange(12.0).reshape(6, 2).copy()
    assert np.shares_memory(joined(np.array_split(whole, 3)), whole)
    parts = [whole[:2].copy(), whole[2:]]
    assert (joined(parts) == whole).all()
    assert (joined([whole[3:], whole[:3]]) == whole[[3, 4, 5, 0, 1, 2]]).all()
    assert (joined([whole[:2], whole[4:]]) == whole[[0, 1, 4, 5]]).all()
