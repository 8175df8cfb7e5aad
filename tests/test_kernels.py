"""Products with sparse codes equal the dense ones, gradients included, and never make a tokens x k x d tensor."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from kanary.kernels import Pattern, linear_at, score_at, sparse_decode
from kanary.kernels.sparse import transposed_product, weigh_rows

quick = settings(max_examples=60, deadline=None)


@st.composite
def cases(draw: Any) -> tuple[Pattern, Tensor, torch.Generator, int]:
    """A random pattern (empty rows, empty columns and no entries at all included) and its dense 0/1 mask."""
    tokens, d_sae, d_model = draw(st.integers(1, 6)), draw(st.integers(1, 12)), draw(st.integers(1, 9))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    mask = torch.rand(tokens, d_sae, generator=seed) < share
    return pattern_of(mask), mask, seed, d_model


def pattern_of(mask: Tensor) -> Pattern:
    return Pattern(mask.nonzero()[:, 1], F.pad(mask.sum(1).cumsum(0), (1, 0)), mask.shape[1])


def numbers(seed: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seed, dtype=torch.float64)


def dense_of(values: Tensor, mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)


@quick
@given(cases())
def test_decoding_sparse_codes_equals_the_dense_product_and_so_do_both_gradients(case: Any) -> None:
    pattern, mask, seed, d_model = case
    values = numbers(seed, int(mask.sum())).requires_grad_()
    weight = numbers(seed, mask.shape[1], d_model).requires_grad_()
    upstream = numbers(seed, len(mask), d_model)
    ours = sparse_decode(values, weight, pattern)
    dense = dense_of(values, mask) @ weight
    torch.testing.assert_close(ours, dense)
    for got, wanted in zip(*(torch.autograd.grad(y, (values, weight), upstream) for y in (ours, dense)), strict=True):
        torch.testing.assert_close(got, wanted)


@quick
@given(cases())
def test_the_encoder_at_a_few_entries_has_the_gradients_of_the_full_matrix(case: Any) -> None:
    pattern, mask, seed, d_model = case
    weight = numbers(seed, mask.shape[1], d_model).requires_grad_()
    bias, shift = numbers(seed, mask.shape[1]).requires_grad_(), numbers(seed, d_model).requires_grad_()
    x, upstream = numbers(seed, len(mask), d_model), numbers(seed, int(mask.sum()))
    dense = ((x - shift) @ weight.T + bias)[mask]
    ours = linear_at(weight, bias, shift, (x - shift).detach(), dense.detach(), pattern)
    torch.testing.assert_close(ours, dense)
    for got, wanted in zip(
        *(torch.autograd.grad(y, (weight, bias, shift), upstream) for y in (ours, dense)), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@quick
@given(cases(), st.booleans())
def test_b_dec_gets_its_gradient_through_the_encoder_and_through_the_decoder(case: Any, frozen: bool) -> None:
    pattern, mask, seed, d_model = case
    W_enc, W_dec = (numbers(seed, mask.shape[1], d_model).requires_grad_() for _ in range(2))
    b_enc, b_dec = numbers(seed, mask.shape[1]).requires_grad_(), numbers(seed, d_model).requires_grad_()
    x = numbers(seed, len(mask), d_model)
    wanted_pre = (x - b_dec) @ W_enc.T + b_enc
    dense = (wanted_pre * mask) @ W_dec + (b_dec.detach() if frozen else b_dec)
    pre = linear_at(W_enc, b_enc, b_dec, (x - b_dec).detach(), wanted_pre.detach()[mask], pattern)
    ours = sparse_decode(pre, W_dec, pattern) + (b_dec.detach() if frozen else b_dec)
    parameters = (W_enc, b_enc, b_dec, W_dec)
    for got, wanted in zip(
        *(torch.autograd.grad((y - x).square().sum(), parameters) for y in (ours, dense)), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@quick
@given(cases())
def test_scores_at_entries_and_transposed_products_equal_the_dense_ones(case: Any) -> None:
    pattern, mask, seed, d_model = case
    x, weight, values = numbers(seed, len(mask), d_model), numbers(seed, mask.shape[1], d_model), None
    torch.testing.assert_close(score_at(x, weight, pattern), (x @ weight.T)[mask])
    values = numbers(seed, int(mask.sum()))
    torch.testing.assert_close(transposed_product(values, pattern, x), dense_of(values, mask).T @ x)
    torch.testing.assert_close(weigh_rows(values, pattern, weight), dense_of(values, mask) @ weight)


@quick
@given(cases(), st.data())
def test_keeping_some_entries_of_a_pattern_keeps_their_rows_and_columns(case: Any, data: Any) -> None:
    pattern, mask, seed, _ = case
    entries = torch.rand(int(mask.sum()), generator=seed) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    kept = mask.clone().masked_scatter_(mask, entries)
    ours, wanted = pattern.keep(entries), pattern_of(kept)
    assert torch.equal(ours.latents, wanted.latents)
    assert torch.equal(ours.offsets, wanted.offsets)
    assert torch.equal(ours.rows(), kept.nonzero()[:, 0])


def test_renamed_columns_lie_where_their_names_say() -> None:
    pattern = pattern_of(torch.tensor([[True, False, True], [False, False, True]]))
    renamed = pattern.renamed(torch.tensor([7, 8, 3]), 10)
    assert renamed.latents.tolist() == [7, 3, 3]
    assert renamed.d_sae == 10
    assert transposed_product(torch.ones(3), renamed, torch.eye(2)).nonzero().tolist() == [[3, 0], [3, 1], [7, 0]]


@pytest.mark.parametrize("d_sae", [2**15 - 1, 2**15, 2**15 + 1, 70_000])
def test_the_transpose_is_right_on_both_sides_of_sixteen_bit_latents(d_sae: int) -> None:
    latents = torch.tensor([0, d_sae - 1, 1, d_sae - 1, d_sae - 2])
    pattern = Pattern(latents, torch.tensor([0, 2, 4, 5]), d_sae)
    x, values = torch.randn(3, 2, dtype=torch.float64), torch.arange(1.0, 6, dtype=torch.float64)
    dense = torch.zeros(3, d_sae, dtype=torch.float64).index_put((pattern.rows(), latents), values)
    torch.testing.assert_close(transposed_product(values, pattern, x), dense.T @ x)


def test_entries_may_stand_in_any_order_within_a_row() -> None:
    mask = torch.rand(5, 9) < 0.5
    pattern = pattern_of(mask)
    order = torch.cat([a + torch.randperm(b - a) for a, b in zip(pattern.offsets, pattern.offsets[1:], strict=False)])
    shuffled = Pattern(pattern.latents[order], pattern.offsets, 9)
    values, x, weight = (torch.randn(*s, dtype=torch.float64) for s in ((len(order),), (5, 4), (9, 4)))
    torch.testing.assert_close(sparse_decode(values[order], weight, shuffled), sparse_decode(values, weight, pattern))
    torch.testing.assert_close(transposed_product(values[order], shuffled, x), transposed_product(values, pattern, x))
    torch.testing.assert_close(score_at(x, weight, shuffled), score_at(x, weight, pattern)[order])


def test_frozen_weights_get_no_gradient_and_frozen_values_neither() -> None:
    pattern = pattern_of(torch.ones(2, 3, dtype=torch.bool))
    values, weight = torch.randn(6, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    sparse_decode(values, weight.detach(), pattern).sum().backward()
    assert weight.grad is None
    assert values.grad is not None
    sparse_decode(values.detach(), weight, pattern).sum().backward()
    assert weight.grad is not None


def test_a_step_back_and_forth_makes_no_tensor_of_tokens_times_active_times_width() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    tokens, k, d_sae, d_model = 64, 16, 128, 64

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                    self.seen = max(self.seen, tensor.untyped_storage().nbytes())
            return result

    latents = torch.stack([torch.randperm(d_sae)[:k] for _ in range(tokens)]).flatten()
    pattern = Pattern(latents, torch.arange(tokens + 1) * k, d_sae)
    values, weight = torch.randn(tokens * k, requires_grad=True), torch.randn(d_sae, d_model, requires_grad=True)
    with Largest() as largest:
        sparse_decode(values, weight, pattern).square().sum().backward()
    assert 0 < largest.seen < tokens * k * d_model * 4 / 4
