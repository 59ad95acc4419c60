import pytest
import torch

from hvdm.errors import UserError
from hvdm.ops.sampler import ddim, ddpm, dpm_solver_2m, timesteps
from hvdm.ops.schedule import alpha_bars, sqrt_linear_betas

ALPHA_BAR = alpha_bars(sqrt_linear_betas())
MEAN, STD = 0.1, 0.3


def gaussian_eps(x, t):
    """E[eps | x_t] where x_0 is normal: the best any network can do."""
    a = ALPHA_BAR[t][:, None].to(x)
    return (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * STD**2 + 1 - a)


def no_noise(step):
    raise AssertionError("eta = 0 asks for no noise")


def test_timesteps_of_the_paper():
    assert timesteps(100) == [*range(999, 0, -10), -1]
    assert timesteps(1000) == list(range(999, -2, -1))


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 400])
def test_timesteps_are_a_floored_line(steps):
    line = torch.linspace(-1, 999, steps + 1, dtype=torch.float64) + 1e-9
    assert timesteps(steps)[::-1] == [-1, *(int(value) for value in line[1:])]


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(UserError, match="between 1 and 1000"):
        timesteps(steps)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_analytic_gaussian_comes_out(eta):
    source = torch.Generator().manual_seed(0)
    start = torch.randn(4000, 1, generator=source, dtype=torch.float64)

    def draw(step):
        return torch.randn(4000, 1, generator=source, dtype=torch.float64)

    out = ddim(gaussian_eps, start, ALPHA_BAR, 1000, eta, draw if eta else no_noise)
    assert out.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert out.std().item() == pytest.approx(STD, abs=0.02)


def test_known_clip_is_found_in_one_step_and_held_in_range():
    x0 = torch.tensor([[0.5, -0.25, 3.0]], dtype=torch.float64)
    a = ALPHA_BAR[-1]
    start = torch.randn(1, 3, dtype=torch.float64)
    out = ddim(
        lambda x, t: (x - a.sqrt() * x0) / (1 - a).sqrt(), start, ALPHA_BAR, 1, 0.0, no_noise
    )
    torch.testing.assert_close(out, x0.clamp(-1, 1))


def test_last_step_adds_no_noise_and_steps_are_numbered():
    asked = []

    def noise(step):
        asked.append(step)
        return torch.zeros(1, 1)

    ddim(lambda x, t: torch.zeros_like(x), torch.ones(1, 1), ALPHA_BAR, 4, 1.0, noise)
    assert asked == [0, 1, 2]


def test_ddpm_gives_the_analytic_gaussian():
    source = torch.Generator().manual_seed(0)

    def draw(step=0):
        return torch.randn(4000, 1, generator=source, dtype=torch.float64)

    out = ddpm(gaussian_eps, draw(), ALPHA_BAR, 1000, draw)
    assert out.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert out.std().item() == pytest.approx(STD, abs=0.02)


# half the log of signal over noise falls evenly, and ends where nothing is left to remove
EVEN = torch.sigmoid(2 * torch.linspace(16, -4, 1000, dtype=torch.float64))


def even_eps(x, t):
    a = EVEN[t][:, None]
    return (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * STD**2 + 1 - a)


def exact(start):
    """Where the probability flow of a Gaussian takes each point."""
    a = EVEN[-1]
    return MEAN + STD * (start - a.sqrt() * MEAN) / (a * STD**2 + 1 - a).sqrt()


def test_dpm_solver_is_of_second_order():
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def errors(solve):
        return [(solve(n) - exact(start)).abs().max().item() for n in (50, 100, 200)]

    first = errors(lambda n: ddim(even_eps, start, EVEN, n, 0.0, no_noise, 10.0))
    second = errors(lambda n: dpm_solver_2m(even_eps, start, EVEN, n, 10.0))
    assert 1.7 < first[1] / first[2] < 2.3
    assert 3.4 < second[1] / second[2] < 4.6
    assert second[0] < first[0] / 3
