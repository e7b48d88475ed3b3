"""The dense way through 4-bit layers gives what the packed kernel gives."""

from typing import Any

import pytest
import torch

from actors.engine.packed_linear import MIN_DENSE_ROWS, PackedLinear, use_packed_linears

bnb: Any = pytest.importorskip("bitsandbytes")


def layer(kind: str, *, double: bool, bias: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    linear = bnb.nn.Linear4bit(
        128, 96, bias=bias, compute_dtype=torch.bfloat16, quant_type=kind, compress_statistics=double
    )
    weights = {"weight": torch.randn(96, 128), **({"bias": torch.randn(96)} if bias else {})}
    linear.load_state_dict(weights)
    result: torch.nn.Module = linear.to("cpu").eval()
    return result


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_dense_and_packed_products_agree(kind: str, double: bool, bias: bool) -> None:
    linear = layer(kind, double=double, bias=bias)
    inputs = torch.randn(1, MIN_DENSE_ROWS, 128, dtype=torch.bfloat16)
    few = torch.cat([linear(part) for part in inputs.split(8, dim=1)], dim=1).float()
    many = PackedLinear(linear)(inputs).float()
    assert many.shape == (1, MIN_DENSE_ROWS, 96)
    # One unit in the last place of bfloat16, for the few sums that lie at a rounding boundary.
    assert torch.allclose(many, few, rtol=2**-7, atol=1e-2)
    if not bias:
        assert (many == few).float().mean() > 0.99


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_few_rows_are_the_layers_own_to_the_bit(kind: str, *, bias: bool) -> None:
    linear = layer(kind, double=False, bias=bias)
    wrapped = PackedLinear(linear)
    inputs = torch.randn(3, 5, 256, dtype=torch.bfloat16)[..., ::2]  # not contiguous
    assert torch.equal(wrapped(inputs), linear(inputs.contiguous()))
    if bnb.functional.has_avx512bf16():
        assert wrapped._kernel is not None


@torch.inference_mode()
def test_small_inputs_and_other_layers_are_left_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(128, 128), layer("nf4", double=False, bias=False))
    inputs = torch.randn(4, 128, dtype=torch.bfloat16)
    want = model[1](inputs)
    assert use_packed_linears(model) == 1
    assert isinstance(model[0], torch.nn.Linear)
    assert torch.equal(model[1](inputs), want)
    wrapped: Any = model[1]
    # An output layer's width is asked for after it was wrapped.
    assert (wrapped.in_features, wrapped.out_features) == (128, 96)
    assert use_packed_linears(torch.nn.Sequential(torch.nn.Linear(2, 2))) == 0
