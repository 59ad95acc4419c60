import pytest

from eval.protocol.protocol import PROTOCOLS, find, frames_of
from hvdm.errors import UserError


def test_names_with_and_without_a_version():
    assert find("reconstruction@1") is find("reconstruction") is PROTOCOLS["reconstruction@1"]
    assert find("fvd/tf-reference@1").detector_default == "i3d"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'reconstruction@1'"):
        find("reconstructon@1")
    with pytest.raises(UserError, match="choose from: digits@1, dtfvd/image-dynamics-sliding@1"):
        find("zzz")
    with pytest.raises(UserError, match="at least 2"):
        find("reconstruction", clips=1)


def test_few_clips_are_cut_into_several_blocks():
    protocol = find("fvd/tf-reference")
    assert [protocol.block_of(n) for n in (2, 8, 21, 512, 2048)] == [1, 1, 2, 26, 64]


def test_lengths_that_a_protocol_does_not_know_are_refused():
    stylegan = find("fvd/stylegan-v")
    assert frames_of(stylegan, None, 300) == 16 and frames_of(stylegan, 128, None) == 128
    with pytest.raises(UserError, match="clips of 16 or 128"):
        frames_of(stylegan, 32, None)
    assert frames_of(find("fid"), None, 8) == 8 and frames_of(find("fid"), 4, 8) == 4


def test_every_protocol_says_what_it_is():
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.full_name and len(protocol.about) > 20
