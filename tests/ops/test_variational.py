import math

import pytest
import torch

from hvdm.ops.variational import kl_in_bits, pixel_bits


def test_values_of_8_bits_add_up_to_one():
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, spread in ((0.0, 0.1), (0.99, 0.3), (-1.2, 0.05)):
        log_variance = torch.full((256,), 2 * math.log(spread), dtype=torch.float64)
        bits = pixel_bits(values, torch.full((256,), mean, dtype=torch.float64), log_variance)
        assert float((2.0**-bits).sum()) == pytest.approx(1, abs=1e-6)


def test_kl_is_that_of_torch():
    first, other = torch.distributions.Normal(0.3, 0.7), torch.distributions.Normal(-0.2, 1.1)
    given = (value for d in (first, other) for value in (d.mean, 2 * d.scale.log()))
    found = kl_in_bits(*given)
    wanted = torch.distributions.kl_divergence(first, other) / math.log(2)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
