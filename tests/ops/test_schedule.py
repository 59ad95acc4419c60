import pytest
import torch

from hvdm.ops.schedule import (
    alpha_bars,
    cosine_betas,
    linear_betas,
    q_sample,
    sqrt_linear_betas,
    x0_from_eps,
)

ALPHA_BAR = alpha_bars(sqrt_linear_betas())


@pytest.mark.parametrize("step, value", [(1, 0.9985), (500, 0.11584), (1000, 1.423e-4)])
def test_constants(step, value):
    assert ALPHA_BAR[step - 1].item() == pytest.approx(value, rel=1e-3)


def test_betas_run_between_their_ends():
    betas = sqrt_linear_betas()
    assert betas.dtype == torch.float64
    assert betas[[0, -1]].tolist() == pytest.approx([0.0015, 0.0195])
    assert (betas.diff() > 0).all()


def test_tables_stay_on_the_cpu_under_a_meta_device():
    with torch.device("meta"):
        assert alpha_bars(sqrt_linear_betas()).device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_samples_keep_their_dtype(dtype):
    x = torch.zeros(2, 3, dtype=dtype)
    assert q_sample(x, torch.tensor([0, 999]), x, ALPHA_BAR).dtype == dtype


def test_conversions_invert_q_sample():
    x0, eps = torch.randn(2, 3, 4, 2, 2, 2, dtype=torch.float64).unbind(0)
    t = torch.tensor([0, 500, 999])
    x = q_sample(x0, t, eps, ALPHA_BAR)
    torch.testing.assert_close(x0_from_eps(x, t, eps, ALPHA_BAR), x0)


def test_rows_have_their_own_time():
    x0, eps = torch.ones(2, 1), torch.zeros(2, 1)
    x = q_sample(x0, torch.tensor([0, 999]), eps, ALPHA_BAR)
    torch.testing.assert_close(x.flatten().double(), ALPHA_BAR[[0, 999]].sqrt())


def test_betas_of_the_public_image_models():
    assert linear_betas()[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert linear_betas(4000)[[0, -1]].tolist() == pytest.approx([2.5e-5, 0.005])
    cosine = alpha_bars(cosine_betas(4000))
    assert float(cosine[1999]) == pytest.approx(0.4938, abs=1e-3)
    assert float(cosine_betas(4000)[-1]) == 0.999
