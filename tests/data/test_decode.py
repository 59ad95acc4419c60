import io
import sys
from typing import Any

import av
import numpy as np
import pytest

from data_tools.synthetic.making import encode_h264
from data_tools.synthetic.rendering import render
from hvdm.data.decode import (
    CannotDecode,
    ClipSpec,
    Frames,
    check_decoder,
    crop_to_aspect,
    decode,
    decode_all,
    read_frames,
    resize,
)
from hvdm.errors import UserError


@pytest.fixture(scope="module")
def frames() -> Frames:
    return render(0, 1, 12, 64, 64).video


@pytest.fixture(scope="module")
def mp4(frames: Frames) -> bytes:
    return encode_h264(frames, 8)


def psnr(a: Frames, b: Frames) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def encode(frames: Frames, codec: str, container: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return file.getvalue()


def test_what_is_encoded_comes_back(frames: Frames, mp4: bytes) -> None:
    clip = decode(mp4, ClipSpec(12, 64, 64))
    assert clip.dtype == np.uint8 and clip.shape == frames.shape
    assert psnr(clip, frames) > 28


def test_a_window_is_a_part_of_the_whole(mp4: bytes) -> None:
    whole = decode(mp4, ClipSpec(12, 64, 64))
    assert np.array_equal(decode(mp4, ClipSpec(3, 64, 64, stride=3), start=5), whole[5:12:3])
    assert len(decode_all(mp4)) == 12


def test_pyav_reads_the_same_pixels_as_decord(mp4: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    by_decord = decode(mp4, ClipSpec(5, 64, 64), start=4)
    monkeypatch.setitem(sys.modules, "decord", None)
    assert np.array_equal(decode(mp4, ClipSpec(5, 64, 64), start=4), by_decord)
    assert len(decode_all(mp4)) == 12


@pytest.mark.parametrize("decoder", ["decord", "pyav", "torchcodec"])
def test_decoders_agree_on_every_frame(mp4: bytes, decoder: str) -> None:
    if decoder == "torchcodec":
        pytest.importorskip("torchcodec", reason="torchcodec is not installed")
    check_decoder(decoder)
    indices = [11, 0, 5, 6]
    assert np.array_equal(read_frames(mp4, indices, 12, "x", decoder), decode_all(mp4)[indices])


def test_a_decoder_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'decord'"):
        check_decoder("decrod")


def test_what_decord_cannot_read_pyav_does(frames: Frames) -> None:
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this PyAV has no AV1 encoder to make a clip with")
    clip = decode(encode(frames, "libsvtav1", "mp4"), ClipSpec(12, 64, 64))
    assert psnr(clip, frames) > 25


def test_a_wrong_number_of_frames_is_an_error(mp4: bytes) -> None:
    with pytest.raises(CannotDecode, match=r"a.tar/k: 12 frames where 14 were promised"):
        decode(mp4, ClipSpec(4, 64, 64), promised=14, name="a.tar/k")
    with pytest.raises(CannotDecode, match="frame 13 is asked for"):
        decode(mp4, ClipSpec(4, 64, 64), start=10)


@pytest.mark.parametrize("data", [b"", b"no video" * 50])
def test_what_is_no_video_is_named(data: bytes) -> None:
    with pytest.raises(CannotDecode, match=r"a.tar/k: unreadable"):
        decode(data, ClipSpec(4, 64, 64), name="a.tar/k")


def test_a_cut_file_is_an_error(mp4: bytes) -> None:
    with pytest.raises(CannotDecode):
        decode_all(mp4[: len(mp4) // 2], strict=True)


def test_damage_that_decoders_conceal_is_found_when_asked_for(mp4: bytes) -> None:
    damaged = bytearray(mp4)
    damaged[len(mp4) // 2] ^= 0x55
    assert len(decode_all(bytes(damaged))) == 12
    with pytest.raises(CannotDecode):
        decode_all(bytes(damaged), strict=True)


def test_resize_crops_to_the_aspect_and_keeps_the_middle() -> None:
    wide = np.zeros((2, 40, 100, 3), np.uint8)
    wide[:, :, 30:70] = 200
    assert crop_to_aspect(wide, 20, 20).shape == (2, 40, 40, 3)
    assert np.array_equal(resize(wide, 20, 20), np.full((2, 20, 20, 3), 200, np.uint8))
    assert resize(wide, 30, 10).shape == (2, 30, 10, 3)
    assert resize(wide, 40, 100) is wide


def test_resize_averages_instead_of_skipping_pixels() -> None:
    checker = np.indices((32, 32)).sum(0) % 2 * 255
    frame = np.repeat(checker[None, :, :, None], 3, axis=3).astype(np.uint8)
    assert np.abs(resize(frame, 8, 8).astype(int) - 127).max() < 16


def test_a_clip_reaches_from_its_first_frame_to_its_last() -> None:
    assert ClipSpec(4, 8, 8, stride=3).span == 10
    with pytest.raises(UserError, match="at least 1"):
        ClipSpec(0, 8, 8)


@pytest.mark.parametrize("width", [16, 24, 48, 72])
def test_widths_that_decord_refuses_are_read(width: int) -> None:
    video = np.full((4, 32, width, 3), 120, np.uint8)
    frames = decode(encode_h264(video, 8), ClipSpec(4, 32, width))
    assert frames.shape == video.shape
    assert np.abs(frames.astype(int) - 120).max() <= 4
