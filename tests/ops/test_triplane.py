import torch

from hvdm.ops.triplane import broadcast_sum


def test_volume_is_the_sum_of_its_shadows():
    hw, tw, th = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 5), torch.randn(2, 3, 6, 4)
    volume = broadcast_sum(hw, tw, th)
    assert volume.shape == (2, 3, 6, 4, 5)
    t, h, w = 5, 2, 3
    torch.testing.assert_close(volume[..., t, h, w], hw[..., h, w] + tw[..., t, w] + th[..., t, h])
