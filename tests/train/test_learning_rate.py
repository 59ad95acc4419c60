import pytest

from hvdm.config import OptimizerConfig, Samples
from hvdm.errors import UserError
from hvdm.train.optim import learning_rate
from launcher import compose


def rates(seen: list[int], **more: object) -> list[float]:
    config = OptimizerConfig("adamw", 2.0, **more)
    return [learning_rate(config, samples) for samples in seen]


def test_constant_unless_told_otherwise():
    assert rates([0, 1, 10**9]) == [2.0, 2.0, 2.0]


def test_warm_up_rises_to_the_rate_and_stays():
    assert rates([0, 1, 2, 3, 4], warmup=Samples(3)) == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_decay_falls_in_a_line_to_a_hundredth_and_stays():
    found = rates([0, 100, 150, 200, 10**9], decay=(Samples(100), Samples(200)))
    assert found == pytest.approx([2.0, 2.0, 1.01, 0.02, 0.02])


def test_a_cosine_falls_to_its_floor():
    decay = (Samples(100), Samples(200))
    found = rates([0, 125, 150, 200, 10**9], decay=decay, schedule="cosine", floor=0.5)
    assert found == pytest.approx([2.0, 1.5 + 0.5**1.5, 1.5, 1.0, 1.0])


@pytest.mark.parametrize("decay", ["[64,64]", "[9,64]"])
def test_a_decay_that_cannot_be_is_refused(decay):
    with pytest.raises(UserError, match=r"optimizer.decay=\[.*two rising counts"):
        compose.run_config(
            "tiny/hvdm_autoencoder", ["run=r", f"optimizer.decay={decay}", "optimizer.warmup=10"]
        )
