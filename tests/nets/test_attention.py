import sys
from types import SimpleNamespace

import pytest
import torch

from hvdm.nets import attention as module
from hvdm.nets.attention import attention, backend, first_supporting


def plain(q, k, v):
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)


def inputs(device="cpu", dtype=torch.float64, queries=5, keys=7, dim=8):
    source = torch.Generator().manual_seed(0)
    shapes = ((3, n, 2, dim) for n in (queries, keys, keys))
    drawn = (torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes)
    return [x.to(device, dtype).requires_grad_() for x in drawn]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_softmax_with_gradients(dtype, tolerance):
    given = inputs(dtype=dtype)
    out, expected = attention(*given), plain(*given)
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=0)
    gradients = torch.autograd.grad(out.square().sum(), given)
    wanted = torch.autograd.grad(expected.square().sum(), given)
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, atol=20 * tolerance, rtol=0)


def test_takes_slices_of_one_projection():
    joined = torch.randn(2, 5, 2, 24)
    q, k, v = joined.chunk(3, -1)
    torch.testing.assert_close(attention(q, k, v), plain(q, k, v))


def test_cpu_never_imports_xformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    monkeypatch.setitem(sys.modules, "xformers.ops.fmha", None)
    attention(*inputs())
    assert backend(torch.device("cpu"), torch.float32, 64) == "torch"


def operator(name, reasons):
    return SimpleNamespace(NAME=name, not_supported_reasons=lambda inputs: reasons)


def test_a_pair_counts_only_if_both_ways_work():
    yes, no = operator("yes", []), operator("no", ["too small"])
    assert first_supporting([(yes, no), (no, yes), (yes, yes)], None) == (yes, yes)
    assert first_supporting([(yes, no)], None) is None


def test_without_xformers_a_gpu_uses_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers.ops.fmha", None)
    module._cuda_operator.cache_clear()
    assert backend(torch.device("cuda"), torch.float32, 64) == "torch"
    module._cuda_operator.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dim", [16, 48, 64, 6])
def test_gpu_equals_softmax(dtype, dim):
    given = inputs("cuda", dtype, queries=33, keys=40, dim=dim)
    expected = plain(*(x.double() for x in given))
    tolerance = {torch.bfloat16: 3e-2, torch.float32: 2e-3, torch.float64: 1e-10}[dtype]
    torch.testing.assert_close(attention(*given).double(), expected, atol=tolerance, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_takes_more_rows_than_a_grid():
    q = torch.randn(70000, 2, 1, 16, device="cuda", dtype=torch.bfloat16)
    assert attention(q, q, q).shape == q.shape
