"""One SAE while it learns: its losses, its optimiser, its dead latents."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanary.activations.pool import generator
from kanary.errors import KanaryError
from kanary.sae.model import SAE
from kanary.sae.parts import TILE, Active
from kanary.training.config import TrainConfig
from kanary.training.revival import REVIVALS

RATE_SAMPLE = 4096  # tokens from which the latents' first firing rates are set


class StepStats(NamedTuple):
    """One step's numbers over its batch."""

    loss: float  # everything that was minimised
    mse: float  # squared error per token, in standardised units (E|z|^2 = d_model)
    l0: float  # active latents per token
    explained_variance: float  # of this batch
    dead: int  # latents that have not fired for dead_window tokens
    lr: float


class _Batch(NamedTuple):
    """What the backward pass leaves behind, besides gradients."""

    loss: Tensor
    mse: Tensor
    l0: float
    fired: Tensor  # indices of the latents that fired, maybe repeated
    smallest: float  # the smallest code that is not zero (0 if there is none)


class Learner:
    """Trains one SAE, a batch at a time; its state is enough to go on exactly."""

    def __init__(self, sae: SAE, config: TrainConfig) -> None:
        self.sae, self.config = sae, config
        self.site = str(sae.config.trained_on.get("site", config.site))
        self.revival = REVIVALS[config.revive]()
        self.since_fired = torch.zeros(sae.d_sae, dtype=torch.int64, device=sae.mean.device)
        # fused: one pass over the weights instead of eight (measured 29 -> 3 ms at 8.4M weights, 2 cores)
        self.optimizer = torch.optim.Adam(self._groups(), lr=config.peak_lr, fused=True)
        sae.train()

    def step(self, x: Tensor, step: int) -> StepStats:
        """One update from raw activations ``x [batch, d_model]``; ``step`` counts from 0.

        Raises:
            FloatingPointError: the loss or the gradient is NaN or infinite; the weights are as before.
        """
        sae, config = self.sae, self.config
        z = sae.standardise(x)
        for part in (sae.encoder, sae.sparsifier, sae.decoder):
            part.before_step(step, config.steps)
        rate = self._set_rate(step)
        dead = (self.since_fired >= config.dead_window).nonzero().squeeze(1)
        batch = self._backward(z, dead)
        norm = nn.utils.get_total_norm([p.grad for p in sae.parameters() if p.grad is not None], foreach=True)
        if not bool(torch.isfinite(norm)) or not bool(torch.isfinite(batch.loss)):
            raise FloatingPointError(f"loss {float(batch.loss)}, gradient norm {float(norm)}")
        if float(norm) > config.clip:
            torch._foreach_mul_([p.grad for p in sae.parameters() if p.grad is not None], config.clip / float(norm))
        sae.decoder.project_gradient()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        sae.decoder.normalise()
        self.since_fired += len(z)
        self.since_fired[batch.fired] = 0
        sae.sparsifier.after_step(batch.l0, batch.smallest)
        silent = dead[self.since_fired[dead] > 0]  # some may have fired in this very step
        fresh = self.revival.after_step(sae, z, silent, step, config.steps, config.seed, self._reset_moments)
        if fresh is not None:
            self.since_fired[fresh] = 0
        variance = torch.linalg.vector_norm(z).square() / len(z) - z.mean(0).square().sum()
        return StepStats(
            float(batch.loss), float(batch.mse), batch.l0, 1 - float(batch.mse / variance), len(dead), rate
        )

    def _backward(self, z: Tensor, dead: Tensor) -> _Batch:
        active = self.sae.active(z, self.config.precision)
        if active is not None:
            return self._backward_part(active, dead, 1.0)
        # so many latents fire (early in training without top-k) that full matrices are faster; a part of the batch at a
        # time, because every term of the loss is a mean over tokens
        parts = z.split(max(1, TILE // self.sae.d_sae))
        done = [self._backward_part(self.sae.all_active(part), dead, len(part) / len(z)) for part in parts]
        shares = [len(part) / len(z) for part in parts]
        return _Batch(
            torch.stack([b.loss for b in done]).sum(),
            torch.stack([b.mse for b in done]).sum(),
            sum(b.l0 * share for b, share in zip(done, shares, strict=True)),
            torch.cat([b.fired for b in done]).unique(),
            min((b.smallest for b in done if b.smallest), default=0.0),
        )

    def _backward_part(self, active: Active, dead: Tensor, share: float) -> _Batch:
        """Adds the gradients of ``active``, which is ``share`` of the batch."""
        sae = self.sae
        values = sae.sparsifier.activate(active)
        for part in (sae.encoder, sae.decoder):
            part.observe(active, values.detach())
        x_hat = sae.decoder(values, active.pattern)
        mse = F.mse_loss(x_hat, active.x, reduction="sum") / active.tokens
        loss = self._with_prefixes(mse, active, values)
        if (penalty := sae.sparsifier.penalty(active, values, sae.decoder)) is not None:
            loss = loss + penalty
        if len(dead):
            revival = self.revival.loss(sae, active.x, active.x - x_hat, dead)
            loss = loss if revival is None else loss + revival
        (loss * share).backward()
        on = values.detach() != 0
        fired = on.any(0).nonzero().squeeze(1) if active.pattern is None else active.pattern.latents[on]
        count = int(on.sum())
        smallest = float(values.detach()[on].min()) if count else 0.0
        return _Batch(loss.detach() * share, mse.detach() * share, count / active.tokens, fired, smallest)

    def _with_prefixes(self, mse: Tensor, active: Active, values: Tensor) -> Tensor:
        """Mean squared error over nested dictionaries (Matryoshka SAEs, Bussmann et al. 2025, arXiv 2503.17547)."""
        if not self.config.matryoshka:
            return mse
        errors = [mse]
        for share in self.config.matryoshka:
            width = self.sae.d_sae // share
            if active.pattern is None:
                within = torch.arange(self.sae.d_sae, device=values.device) < width
                x_hat = self.sae.decoder(values * within, None)
            else:
                inside = active.pattern.latents < width
                x_hat = self.sae.decoder(values[inside], active.pattern.keep(inside))
            errors.append((active.x - x_hat).square().sum() / active.tokens)
        return torch.stack(errors).mean()

    def _set_rate(self, step: int) -> float:
        """Linear warm-up, constant, linear decay to zero."""
        config, steps = self.config, self.config.steps
        warm = min(1.0, (step + 1) / max(1.0, config.lr_warmup * steps))
        fall = min(1.0, (steps - step) / max(1.0, config.lr_decay * steps))
        rate = config.peak_lr * warm * fall
        paces = self._paces(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * paces.get(group["name"], 1.0)
        return rate

    def _paces(self, step: int) -> dict[str, float]:
        """Share of the learning rate by parameter, of those that do not learn at all of it."""
        parts = {"encoder": self.sae.encoder, "sparsifier": self.sae.sparsifier, "decoder": self.sae.decoder}
        return {
            f"{kind}.{name}": pace
            for kind, part in parts.items()
            for name, pace in part.paces(step, self.config.steps).items()
        }

    def _groups(self) -> list[dict[str, Any]]:
        """The parameters for the optimiser: one group for most, one for each that has a pace of its own."""
        paced = self._paces(0)
        named = dict(self.sae.named_parameters())
        rest = [parameter for name, parameter in named.items() if name not in paced]
        return [{"name": "", "params": rest}, *({"name": name, "params": [named[name]]} for name in paced)]

    def _reset_moments(self, latents: Tensor) -> None:
        for parameter, state in self.optimizer.state.items():
            if parameter.shape[0] == self.sae.d_sae:
                state["exp_avg"][latents] = 0
                state["exp_avg_sq"][latents] = 0

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, besides the batch."""
        found = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        found["since_fired"] = self.since_fired
        for name, parameter in self.sae.named_parameters():
            for key, tensor in self.optimizer.state.get(parameter, {}).items():
                found[f"adam.{key}.{name}"] = tensor
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        self.sae.load_state_dict({k.removeprefix("sae."): v for k, v in tensors.items() if k.startswith("sae.")})
        self.since_fired.copy_(tensors["since_fired"])
        for name, parameter in self.sae.named_parameters():
            moments = {key: tensors.get(f"adam.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if all(tensor is not None for tensor in moments.values()):
                self.optimizer.state[parameter] = moments


def begin(sae: SAE, sample: Tensor, bias_start: str, seed: int) -> None:
    """First weights: standardisation and ``b_dec`` from ``sample [n, d_model]`` (raw), random directions, tied encoder.

    Raises:
        KanaryError: the sample has no variance at all.
    """
    x = sample.cpu().double()
    mean = x.mean(0)
    power = float((x - mean).square().sum(1).mean())
    if power == 0:
        raise KanaryError(
            "All activations are equal; there is nothing to decompose. Is the text longer than one token?"
        )
    mode = sae.training
    sae.train()  # as the first steps will see it: BatchTopK has no threshold yet
    with torch.no_grad():
        sae.mean.copy_(mean)
        sae.scale.fill_((sae.d_model / power) ** 0.5)
        z = sae.standardise(sample)
        start = {"median": geometric_median, "mean": lambda z: z.mean(0), "zero": lambda z: torch.zeros_like(z[0])}
        sae.decoder.b_dec.copy_(start[bias_start](z))
        directions = torch.randn(sae.d_sae, sae.d_model, generator=generator("W_dec", seed))
        sae.decoder.begin(F.normalize(directions, dim=1).to(sae.mean.device))
        sae.encoder.tie(sae.decoder.W_dec)
        _set_rates(sae, z[:RATE_SAMPLE])
        sae.encoder.tie(sae.decoder.W_dec * _gain(sae, z[:RATE_SAMPLE]))
        _set_rates(sae, z[:RATE_SAMPLE])
    sae.train(mode)


def _set_rates(sae: SAE, z: Tensor) -> None:
    """Shifts every latent so that it fires as often as the sparsifier wants at the start (Conerly et al. 2025)."""
    wanted = sae.sparsifier.start()
    if wanted is None or wanted[0] >= sae.d_sae / 2:
        return
    rank = max(1, len(z) - round(len(z) * wanted[0] / sae.d_sae))
    everyone = torch.arange(sae.d_sae, device=z.device)
    cutoffs = [
        sae.encoder(z - sae.decoder.b_dec, latents=some).kthvalue(rank, dim=0).values
        for some in everyone.split(max(1, TILE // len(z)))
    ]
    sae.encoder.raise_by(wanted[1] - torch.cat(cutoffs))


def _gain(sae: SAE, z: Tensor) -> Tensor:
    """By how much the first reconstructions of ``z`` must grow to fit best: overcomplete directions say much twice."""
    target = z - sae.decoder.b_dec
    made = sae.standardise(sae(sae.restore(z))) - sae.decoder.b_dec
    return (target * made).sum() / made.square().sum().clamp_min(1e-12)


def geometric_median(z: Tensor, rounds: int = 100) -> Tensor:
    """The point with the least summed distance to ``z [n, d]`` (Weiszfeld's iteration)."""
    point = z.mean(0)
    for _ in range(rounds):
        weights = 1 / (z - point).norm(dim=1).clamp_min(1e-6)
        new = (weights[:, None] * z).sum(0) / weights.sum()
        moved = float((new - point).norm())
        point = new
        if moved < 1e-5 * float(point.norm().clamp_min(1e-3)):
            break
    return point
