"""The units that a model has of its own, beside an SAE's latents: which point the same way, which fire on the same tokens.

They are the neurons of the MLP whose output the site holds or sums up last, where the family's MLP is known: a neuron's
direction is what it adds to the residual stream. Elsewhere they are the dimensions of the site's activation.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanary.features.arrays import Array
from kanary.kernels import transposed_product
from kanary.lm import LanguageModel
from kanary.lm.sites import find_blocks
from kanary.sae import SAE, SparseCodes

SHOWN = 3
ROWS = 256
"""Latents that are compared with all neurons at a time."""
LARGEST = 2**30
"""Bytes of sums above which no correlations are counted: 8 for every latent and neuron."""
_DOWN = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h")
"""What writes into the residual stream, below a block, in families that put no norm after it."""


class Neurons:
    """Counts products of latents and neurons while the text is read."""

    def __init__(self, lm: LanguageModel, sae: SAE) -> None:
        self.sae, self.tokens = sae, 0
        found = _mlp(lm, str(sae.config.trained_on["site"]), sae.d_model)
        self.site: str | None = None
        self.directions: Tensor | None = None
        self.kind = f"basis dimensions of {sae.config.trained_on['site']}"
        if found is not None:
            self.site, self.directions, self.kind = found
        self.units = sae.d_model if self.directions is None else len(self.directions)
        self.counts = 8 * sae.d_sae * self.units <= LARGEST
        shape = (sae.d_sae if self.counts else 0, self.units)
        self.products = torch.zeros(shape, dtype=torch.float64, device=sae.mean.device)
        self.total, self.squares = (
            torch.zeros(self.units, dtype=torch.float64, device=sae.mean.device) for _ in range(2)
        )

    def add(self, x: Tensor, other: Tensor | None, codes: SparseCodes) -> None:
        if not self.counts:
            return
        neurons = (x if other is None else other).float()
        self.products += transposed_product(codes.values, codes.pattern, neurons)
        self.total += neurons.sum(0)
        self.squares += neurons.square().sum(0)
        self.tokens += len(neurons)

    def state(self) -> Mapping[str, Tensor]:
        tokens = torch.tensor([self.tokens])
        return {"products": self.products, "total": self.total, "squares": self.squares, "tokens": tokens}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name in ("products", "total", "squares"):
            getattr(self, name).copy_(state[name])
        self.tokens = int(state["tokens"])

    @torch.no_grad()
    def columns(self, total: Tensor, squares: Tensor) -> dict[str, Array]:
        """The most aligned and the most correlated neurons of every latent, by absolute value.

        Args:
            total, squares: ``[d_sae]`` float64, sums of the latents' values over the same tokens.
        """
        directions = F.normalize(self.sae.W_dec, dim=1)
        units = None if self.directions is None else F.normalize(self.directions, dim=1).T
        n, total, squares = self.tokens, total.to(self.products.device), squares.to(self.products.device)
        latents, neurons = (
            torch.where(n * q - s * s > 1e-12 * n * q, n * q - s * s, torch.nan).sqrt()
            for s, q in ((total, squares), (self.total, self.squares))
        )
        found: dict[str, list[Tensor]] = {}
        for start in range(0, self.sae.d_sae, ROWS):
            rows = slice(start, start + ROWS)
            numbers = {"aligned": directions[rows] if units is None else directions[rows] @ units}
            if self.counts:  # NaN where one of the two does not vary
                covariances = n * self.products[rows] - total[rows, None] * self.total
                numbers["correlated"] = covariances / (latents[rows, None] * neurons)
            for name, each in numbers.items():
                which, values = _largest(each)
                found.setdefault(f"neurons_{name}", []).append(which.int())
                found.setdefault(f"neurons_{name}_values", []).append(values.float())
        return {name: torch.cat(parts).cpu().numpy() for name, parts in found.items()}


def _largest(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The ``SHOWN`` columns with the largest absolute value of every row, -1 and NaN where there are none."""
    best = numbers.abs().nan_to_num(-1).topk(min(SHOWN, numbers.shape[1]), dim=1)
    values = numbers.gather(1, best.indices)
    return best.indices.masked_fill(best.values < 0, -1), values.masked_fill(best.values < 0, torch.nan)


def _mlp(lm: LanguageModel, name: str, d_model: int) -> tuple[str, Tensor, str] | None:
    """Site of the neurons' values, their directions ``[neurons, d_model]``, and what they are called; None if unknown."""
    site, blocks = lm.site(name), find_blocks(lm.model)
    block = {"resid_post": 0, "mlp_out": 0, "resid_pre": -1}.get(site.kind)
    if site.layer is None or block is None or blocks is None or site.layer + block < 0:
        return None
    layout, modules, prefix = blocks
    number = site.layer + block
    known = dict(modules[number].named_modules())
    path = next((path for path in _DOWN if path in known), None)
    if path is None or layout.mlp_out != "mlp":
        return None
    weight = getattr(known[path], "weight", None)
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
        return None
    weight = weight.detach().float()
    directions = weight.T if isinstance(known[path], nn.Linear) else weight  # GPT-2's is stored the other way round
    if directions.shape[1] != d_model:
        return None
    return (
        f"input:{prefix}.{number}.{path}",
        directions.to(lm.device),
        f"MLP neurons of block {number + 1} of {lm.n_layers}",
    )
