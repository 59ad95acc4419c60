import numpy as np
import pytest

from eval.numbers.jackknife import estimate, jackknife
from eval.numbers.statistics import (
    Moments,
    fold,
    frechet_distance,
    merge,
    moments,
    null_bias,
    without,
)
from hvdm import rng


def normal(*parts, count=200, dimensions=6):
    return rng.numpy_generator("test", *parts).normal(size=(count, dimensions))


def exactly(mean, covariance, count=1000):
    return Moments(count, np.asarray(mean, float), np.asarray(covariance, float) * (count - 1))


def close(a, b):
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-11, atol=1e-9)
    assert a.count == b.count


def test_distance_of_two_gaussians_is_the_closed_form():
    random = rng.numpy_generator("test", "gaussians")
    means, spreads = random.normal(size=(2, 400)), random.uniform(0.1, 4, size=(2, 400))
    a, b = (exactly(m, np.diag(s)) for m, s in zip(means, spreads))
    expected = ((means[0] - means[1]) ** 2).sum()
    expected += ((spreads[0] ** 0.5 - spreads[1] ** 0.5) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_distance_of_equal_moments_is_zero():
    a = moments(normal("same"))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_distance_of_a_shift_and_of_a_scale():
    covariance = moments(normal("spread")).covariance()
    a = exactly(np.zeros(6), covariance)
    assert frechet_distance(a, exactly(np.full(6, 0.5), covariance)) == pytest.approx(6 * 0.25)
    scaled = exactly(np.zeros(6), 9 * covariance)
    assert frechet_distance(a, scaled) == pytest.approx(4 * np.trace(covariance))


def test_distance_does_not_change_with_rotation_translation_and_order():
    x, y = normal("x"), 2 * normal("y") + 1
    rotation, _ = np.linalg.qr(normal("q", count=6))
    expected = frechet_distance(moments(x), moments(y))
    moved = frechet_distance(moments(x @ rotation + 3), moments(y @ rotation + 3))
    assert moved == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moments(y), moments(x)) == pytest.approx(expected, rel=1e-9)


def test_covariance_is_that_of_numpy():
    x = normal("cov")
    np.testing.assert_allclose(moments(x).covariance(), np.cov(x, rowvar=False), rtol=1e-12)
    biased = np.cov(x, rowvar=False, ddof=0)
    np.testing.assert_allclose(moments(x).covariance(0), biased, rtol=1e-12)


@pytest.mark.parametrize("offset", [0, 1e4, 1e6])
def test_merge_and_its_inverse(offset):
    x, y = normal("a", count=30) + offset, normal("b", count=7) + offset
    whole = merge(moments(x), moments(y))
    np.testing.assert_allclose(
        whole.covariance(), np.cov(np.vstack([x, y]), rowvar=False), rtol=1e-8, atol=1e-10
    )
    np.testing.assert_allclose(
        without(whole, moments(y)).covariance(), np.cov(x, rowvar=False), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_fold_is_equal_to_the_bit_for_any_number_of_workers(workers):
    rows = np.array_split(normal("blocks", count=205), 11)
    straight = fold({number: moments(part) for number, part in enumerate(rows)})
    found = {}
    for worker in reversed(range(workers)):
        for number in range(worker, 11, workers):
            found[number] = moments(rows[number])
    again = fold(found)
    assert (again.mean == straight.mean).all() and (again.scatter == straight.scatter).all()
    close(again, moments(np.vstack(rows)))


def test_merging_by_worker_would_not_be_equal_to_the_bit():
    parts = [moments(x) for x in np.array_split(normal("blocks", count=205), 11)]
    straight = fold(dict(enumerate(parts)))
    by_worker = merge(fold(dict(enumerate(parts[::2]))), fold(dict(enumerate(parts[1::2]))))
    assert not (by_worker.scatter == straight.scatter).all()


def test_null_bias_is_the_published_figure():
    assert null_bias(exactly(np.zeros(400), np.eye(400), 2048)) == pytest.approx(39.57, abs=0.01)


def test_null_bias_is_what_two_samples_show():
    distances = [
        frechet_distance(moments(normal("n", i)), moments(normal("m", i))) for i in range(60)
    ]
    expected = null_bias(exactly(np.zeros(6), np.eye(6), 200))
    error = np.std(distances) / 60**0.5
    assert abs(np.mean(distances) - expected) < 4 * error


def test_jackknife_of_a_mean_is_its_textbook_error():
    x = normal("mean", count=50, dimensions=1)[:, 0]
    left_out = [(x.sum() - value) / 49 for value in x]
    knife = jackknife(x.mean(), left_out, [1] * 50)
    assert knife.debiased == pytest.approx(x.mean(), rel=1e-9)
    assert knife.standard_error == pytest.approx(x.std(ddof=1) / 50**0.5, rel=1e-9)


def test_jackknife_weighs_blocks_by_size_and_removes_a_bias_of_order_one_over_n():
    sizes = [5, 9, 3, 8]
    n = sum(sizes)
    left_out = [2 + 7 / (n - size) for size in sizes]
    assert jackknife(2 + 7 / n, left_out, sizes).debiased == pytest.approx(2)


def test_estimate_removes_most_of_the_bias():
    def cut(x):
        return {n: moments(part) for n, part in enumerate(np.array_split(x, 16))}

    trials = [
        estimate(
            cut(normal("e", i, count=320, dimensions=16)),
            cut(normal("f", i, count=320, dimensions=16) + 0.2),
        )
        for i in range(12)
    ]
    truth = 16 * 0.04
    plain = np.mean([trial.value for trial in trials])
    assert plain - truth > 0.5
    assert abs(np.mean([trial.debiased for trial in trials]) - truth) < 0.2 * (plain - truth)
    covered = [abs(t.debiased - truth) < 2 * t.standard_error for t in trials]
    assert np.mean(covered) >= 0.75


def test_too_few_samples_have_no_debiased_value_and_say_why():
    cut = {n: moments(x) for n, x in enumerate(np.array_split(normal("few", count=12), 4))}
    found = estimate(cut, cut)
    assert found.debiased is None and found.standard_error is not None
    assert "2 per feature" in found.reason
