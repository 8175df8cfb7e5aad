"""The kernels written for a GPU equal the torch versions and dense formulas in float64, gradients included.

On a GPU if there is one; if not, in Triton's interpreter on the CPU, for which it is enough that Triton is installed.
Tolerances: float32 sums of numbers around 1 differ by 1e-5; a bfloat16 result is the float32 one rounded to 8 bits, which the
interpreter does by leaving out the others.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.errors import KanaryError
from kanary.kernels import Pattern, curved_decode, edge_gradients, on_triton
from kanary.sae import SAE, SAEConfig
from kanary.splines import make_basis

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if find_spec("triton") is None:
    pytest.skip("Triton is not installed: see CONTRIBUTING.md", allow_module_level=True)
if DEVICE == "cpu":
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton was imported before its interpreter could be chosen", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

from kanary.kernels import triton as kernels  # noqa: E402

CLOSE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2**-8 if DEVICE == "cuda" else 2**-7, "atol": 1e-4},
}


@pytest.fixture(autouse=True)
def _everything_on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KANARY_KERNELS", "triton")


def pattern_of(rows: list[list[int]], d_sae: int) -> Pattern:
    latents = torch.tensor([latent for row in rows for latent in row], dtype=torch.int64)
    counts = torch.tensor([0, *(len(row) for row in rows)])
    return Pattern(latents.to(DEVICE), counts.cumsum(0).to(DEVICE), d_sae)


# rows without entries at the beginning, in the middle and at the end, a latent twice on one token, latents never used
ROWS = [[], [3, 0, 6], [2], [], [6, 2, 6, 1], [0, 3], []]
D_SAE = 9
PATTERNS = {"mixed": ROWS, "nothing": [[], [], []], "no tokens": [], "one": [[5]]}


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw).to(DEVICE, dtype)


def codes(pattern: Pattern, dtype: torch.dtype = torch.float32) -> Tensor:
    """Codes on all pieces of the grids, before their beginning and behind their end, but not at a knot."""
    return (torch.linspace(-0.3, 4.1, len(pattern.latents)) + 0.013).to(DEVICE, dtype)


def grids(dtype: torch.dtype = torch.float32) -> Tensor:
    low = torch.zeros(D_SAE)
    return torch.stack([low, low + torch.linspace(0.5, 3.0, D_SAE)], 1).to(DEVICE, dtype)


def decoded(
    values: Tensor, pattern: Pattern, weight: Tensor, beside: Tensor, grid: Tensor, coefficients: Tensor | None
) -> Tensor:
    """The formula, from ramps ``relu(u - g)``: what a piecewise linear function is made of that begins with 0."""
    table = beside.transpose(1, 2) if coefficients is None else coefficients  # [d_sae, functions, G - 1]
    at = F.pad(table, (1, 0))
    first, bends = at.diff(dim=2)[..., :1], at.diff(n=2, dim=2)
    low, high = grid[pattern.latents].unbind(1)
    u = (values - low) / (high - low) * table.shape[2]
    ramps = torch.stack([u, *(F.relu(u - knot) for knot in range(1, table.shape[2]))], 1)
    bent = torch.einsum("eg,efg->ef", ramps, torch.cat([first, bends], 2)[pattern.latents])
    if coefficients is not None:
        bent = torch.einsum("er,erd->ed", bent, beside[pattern.latents])
    added = values[:, None] * weight[pattern.latents] + bent
    return added.new_zeros(pattern.tokens, weight.shape[1]).index_add(0, pattern.rows(), added)


def case(pattern: Pattern, d: int, knots: int, bends: int, dtype: torch.dtype) -> list[Tensor | None]:
    """Values, weight, beside, grid and coefficients (None without bends) for ``pattern``."""
    beside, coefficients = numbers(2, D_SAE, bends or knots - 1, d, dtype=dtype), None
    if bends:
        coefficients = numbers(3, D_SAE, bends, knots - 1, dtype=dtype)
    return [codes(pattern, dtype), numbers(1, D_SAE, d, dtype=dtype), beside, grids(dtype), coefficients]


def with_gradients(function: Any, pattern: Pattern, given: list[Tensor | None], along: Tensor) -> list[Tensor]:
    """The result, then the gradients of values, weight, beside and coefficients."""
    inputs = [None if each is None else each.detach().clone().requires_grad_() for each in given]
    values, weight, beside, grid, coefficients = inputs
    out = function(values, pattern, weight, beside, grid.detach(), coefficients)
    wanted = [each for each in (values, weight, beside, coefficients) if each is not None]
    return [out.detach(), *torch.autograd.grad(out, wanted, along)]


# --- curved decoders ---


SHAPES = [(1, 2, 1), (19, 8, 1), (40, 5, 3), (1, 2, 0), (19, 8, 0), (40, 4, 0)]  # d, knots, bends


@pytest.mark.parametrize(
    ("d", "knots", "bends", "dtype"),
    [(*shape, torch.float32) for shape in SHAPES] + [(19, 5, 2, torch.bfloat16), (19, 5, 0, torch.bfloat16)],
)
def test_curved_decoding_and_all_its_gradients_equal_the_formula(
    d: int, knots: int, bends: int, dtype: torch.dtype
) -> None:
    pattern = pattern_of(ROWS, D_SAE)
    given = case(pattern, d, knots, bends, dtype)
    along = numbers(4, pattern.tokens, d, dtype=dtype)
    ours = with_gradients(curved_decode, pattern, given, along)
    wanted = with_gradients(
        decoded, pattern, [None if each is None else each.double() for each in given], along.double()
    )
    assert len(ours) == (5 if bends else 4)
    for got, exact in zip(ours, wanted, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), exact, **CLOSE[dtype])


@pytest.mark.parametrize("name", ["nothing", "no tokens", "one"])
@pytest.mark.parametrize("bends", [0, 2])
def test_patterns_with_few_entries_or_none_decode_and_have_gradients(name: str, bends: int) -> None:
    pattern = pattern_of(PATTERNS[name], D_SAE)
    given, along = case(pattern, 6, 3, bends, torch.float32), numbers(4, pattern.tokens, 6)
    for got, wanted in zip(
        *(with_gradients(decode, pattern, given, along) for decode in (curved_decode, decoded)), strict=True
    ):
        torch.testing.assert_close(got, wanted, **CLOSE[torch.float32])


@pytest.mark.parametrize("bends", [0, 1])
def test_rows_wider_than_a_program_are_decoded_by_several(bends: int) -> None:
    pattern = pattern_of([[3], [8, 0]], D_SAE)
    d = kernels.ROW + 3
    given, along = case(pattern, d, 4, bends, torch.float32), numbers(4, 2, d)
    for got, wanted in zip(
        *(with_gradients(decode, pattern, given, along) for decode in (curved_decode, decoded)), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-4)  # sums of a thousand numbers


def test_frozen_weights_get_no_gradient_and_frozen_codes_neither() -> None:
    pattern = pattern_of(ROWS, D_SAE)
    values, weight, beside, grid, coefficients = case(pattern, 5, 4, 1, torch.float32)
    curved_decode(values.requires_grad_(), pattern, weight, beside, grid, coefficients).sum().backward()
    assert values.grad is not None
    curved_decode(values.detach(), pattern, weight, beside.requires_grad_(), grid, coefficients).sum().backward()
    assert weight.grad is None
    assert beside.grad is not None


def test_many_bfloat16_terms_are_summed_in_float32() -> None:
    values = torch.full((17,), 2.0**-9, device=DEVICE, dtype=torch.bfloat16)
    values[0] = 1  # in bfloat16 the sum would stay 1
    pattern = pattern_of([[0] * 17], D_SAE)
    one = torch.ones(D_SAE, 1, device=DEVICE, dtype=torch.bfloat16)
    given = [values, one, one[:, None] * 0, grids(torch.bfloat16), None]
    out, _, d_weight, _ = with_gradients(curved_decode, pattern, given, one[:1])
    assert float(out) == float(d_weight[0]) == 1 + 2.0**-5


def test_a_code_that_is_not_a_number_spoils_its_own_token_only() -> None:
    pattern = pattern_of(ROWS, D_SAE)
    given = case(pattern, 5, 4, 1, torch.float32)
    given[0][3] = torch.nan  # the entry of token 2
    out = curved_decode(given[0], pattern, *given[1:])
    assert out.isnan().all(1).tolist() == [False, False, True, False, False, False, False]
    assert not out[[0, 1, 3, 4, 5, 6]].isnan().any()


def test_weights_of_more_than_two_to_the_31_numbers_are_found() -> None:
    d, width = 2**10, 2**21 + 8  # 4 GB of address space, of which only what is read or written is ever there
    pattern = pattern_of([[width - 1], []], width)
    weight = torch.empty(width, d, dtype=torch.bfloat16, device=DEVICE)
    weight[width - 1] = F.one_hot(torch.tensor(d - 1), d) * 3
    grid = torch.tensor([[0.0, 1.0]], device=DEVICE).expand(width, 2).contiguous()
    given = torch.ones(1, device=DEVICE), pattern, weight, weight[:, None], grid, None
    assert kernels.decode(*given)[:, -1].tolist() == [6, 0]  # one knot, at 1: the line and the bend are the same
    grad = torch.ones(2, d, dtype=torch.bfloat16, device=DEVICE)
    assert kernels.decode_entries(grad, *given)[0].tolist() == [6]


def test_all_latents_of_a_width_of_65536_are_found() -> None:
    width, d = 65_536, 3
    pattern = pattern_of([[width - 1, 0], [32_768]], width)
    weight, beside, coefficients = numbers(1, width, d), numbers(2, width, 1, d), numbers(3, width, 1, 3)
    grid = torch.tensor([[0.0, 2.0]], device=DEVICE).repeat(width, 1)
    given = codes(pattern), pattern, weight, beside, grid, coefficients
    torch.testing.assert_close(kernels.decode(*given), decoded(*given), **CLOSE[torch.float32])
    grad = numbers(4, 2, d)
    values = given[0].requires_grad_()
    (wanted,) = torch.autograd.grad(decoded(*given), values, grad)
    torch.testing.assert_close(kernels.decode_entries(grad, *given)[0], wanted, **CLOSE[torch.float32])


# --- edges ---


@pytest.mark.parametrize(("name", "size", "m"), [("bspline", 8, 19), ("bspline", 4, 1), ("hat", 5, 19), ("hat", 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_gradients_of_edges_equal_those_of_the_dense_product(name: str, size: int, m: int, dtype: torch.dtype) -> None:
    pattern = pattern_of(ROWS, D_SAE)
    basis = make_basis(name, size, m).to(DEVICE, dtype)
    basis.set_range(numbers(1, m) - 3, numbers(2, m) + 3)
    x, V = (
        3 * numbers(3, pattern.tokens, m, dtype=dtype),
        numbers(4, D_SAE, m, size, dtype=dtype),
    )  # some outside the grid
    grad = numbers(5, len(pattern.latents), dtype=dtype)
    ours = edge_gradients(grad, pattern, x, V, basis.grid, basis.table, (True, True))
    exact = make_basis(name, size, m).to(DEVICE).double()
    exact.set_grid(basis.grid.double())
    exact.table.copy_(basis.table)  # of which bfloat16 has rounded numbers
    inputs = x.double().requires_grad_(), V.double().requires_grad_()
    pre = (exact.expand(inputs[0]) @ inputs[1].flatten(1).T)[pattern.rows(), pattern.latents]
    for got, wanted in zip(ours, torch.autograd.grad(pre, inputs, grad.double()), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), wanted, **CLOSE[dtype])


@pytest.mark.parametrize("name", ["nothing", "no tokens", "one"])
def test_patterns_with_few_entries_or_none_have_gradients_of_edges(name: str) -> None:
    pattern = pattern_of(PATTERNS[name], D_SAE)
    basis = make_basis("bspline", 5, 3).to(DEVICE)
    x, V, grad = numbers(1, pattern.tokens, 3), numbers(2, D_SAE, 3, 5), numbers(3, len(pattern.latents))
    d_x, d_V = edge_gradients(grad, pattern, x, V, basis.grid, basis.table, (True, True))
    assert d_x.shape == x.shape
    used = torch.zeros(D_SAE, dtype=torch.bool)
    used[pattern.latents.cpu()] = True
    assert torch.equal(d_V.abs().sum((1, 2)).cpu() > 0, used)


# --- whole SAEs ---

PARTS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("decoder", {"name": "kan-bend"}, ("decode", "decode_entries", "decode_latents")),
    ("decoder", {"name": "kan-bend", "rank": 2, "knots": 3}, ("decode", "decode_entries", "decode_latents")),
    ("decoder", {"name": "kan-curve"}, ("decode", "decode_entries", "decode_latents")),
    ("encoder", {"name": "kan-edge"}, ("edge_inputs", "edge_weights")),
    ("encoder", {"name": "kan-edge", "basis": "hat", "base": "silu"}, ("edge_inputs", "edge_weights")),
]


@pytest.mark.parametrize(("place", "part", "used"), PARTS, ids=lambda p: p if isinstance(p, str) else None)
def test_an_sae_has_the_same_codes_and_gradients_with_and_without_the_kernels(
    place: str, part: dict[str, Any], used: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sparsifier = {"name": "batchtopk", "k": 3}  # not the same number of entries for every token
    sae = SAE(SAEConfig(10, 16, sparsifier=sparsifier, **{place: part})).to(DEVICE)
    with torch.no_grad():
        for weight in sae.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
    sae.train()
    x, called = numbers(1, 7, 10), []
    for kernel in used:
        original = getattr(kernels, kernel)
        monkeypatch.setattr(kernels, kernel, lambda *a, f=original, k=kernel: (called.append(k), f(*a))[1])
    found = []
    for choice in ("torch", "triton"):
        monkeypatch.setenv("KANARY_KERNELS", choice)
        sae.zero_grad()
        active = sae.active(x)
        assert active.pattern is not None
        x_hat = sae.decoder(sae.sparsifier.activate(active), active.pattern)
        (x_hat - x).square().sum().backward()
        found.append([x_hat.detach(), *(weight.grad.clone() for weight in sae.parameters() if weight.grad is not None)])
        assert set(called) == (set() if choice == "torch" else set(used))
    for without, with_them in zip(*found, strict=True):
        torch.testing.assert_close(with_them, without, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", [{"name": "kan-curve", "basis": "bspline"}, {"name": "kan-gain"}], ids=str)
def test_functions_for_which_there_is_no_kernel_are_computed_by_torch(part: dict[str, Any]) -> None:
    sae = SAE(SAEConfig(6, 8, sparsifier={"name": "topk", "k": 2}, decoder=part)).to(DEVICE)
    assert sae(numbers(1, 3, 6)).shape == (3, 6)


# --- a GPU that is not here ---


@pytest.mark.skipif(DEVICE == "cuda", reason="the kernels have just run on a GPU")
def test_every_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("triton_compile.py"), "90"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    compiled = {line.split()[0] for line in done.stdout.splitlines()}
    assert compiled == {"_decode", "_decode_entries", "_decode_latents", "_edge_weights", "_edge_inputs"}


# --- the choice ---


def test_torch_computes_unless_told_otherwise_and_in_other_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_triton(torch.ones(1))
    assert not on_triton(torch.ones(1, dtype=torch.float64))
    monkeypatch.setenv("KANARY_KERNELS", "torch")
    assert not on_triton(torch.ones(1, device=DEVICE))
    monkeypatch.delenv("KANARY_KERNELS")
    assert not on_triton(torch.ones(1, device=DEVICE))
    monkeypatch.setenv("KANARY_KERNELS", "cuda")
    with pytest.raises(KanaryError, match="KANARY_KERNELS='cuda' is unknown"):
        on_triton(torch.ones(1))
