import pytest
import torch

from hvdm.errors import UserError
from hvdm.nets.perceptual import perceptual


def images():
    return torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).unbind(0)


def test_untrained_is_a_distance_per_sample():
    net, (a, b) = perceptual("untrained", 3), images()
    distance = net(a, b)
    assert distance.shape == (3,)
    assert (distance > 0).all()
    assert net(a, a).abs().max() == 0
    torch.testing.assert_close(net(a[1:2], b[1:2]), distance[1:2])


def test_untrained_is_the_same_whatever_the_global_seed():
    a, b = images()
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        results.append(perceptual("untrained", 3)(a, b))
    assert torch.equal(*results)


def test_untrained_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    perceptual("untrained", 3)
    assert torch.equal(before, torch.get_rng_state())


def test_frozen_but_gradients_reach_the_image():
    net, (a, b) = perceptual("untrained", 3), images()
    a.requires_grad_()
    net(a, b).sum().backward()
    assert a.grad.abs().max() > 0
    assert not any(p.requires_grad for p in net.parameters())


def test_equal_images_have_finite_gradients():
    net, (a, _) = perceptual("untrained", 3), images()
    flat = torch.zeros_like(a).requires_grad_()
    net(flat, flat.detach()).sum().backward()
    assert flat.grad.isfinite().all()


def test_none_is_zero():
    assert perceptual("none", 3)(*images()).tolist() == [0, 0, 0]


def test_unknown_names_list_what_there_is():
    with pytest.raises(UserError, match=r"lpips.*none.*untrained"):
        perceptual("vgg", 3)


def test_builds_on_meta():
    with torch.device("meta"):
        assert next(perceptual("untrained", 3).parameters()).is_meta
