"""Three ways to bring dead latents back, chosen by name: AuxK, ghost grads, resampling."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.pool import generator
from kanary.sae.model import SAE
from kanary.sae.sparsifiers.topk import TopK, TopKOptions

AUX_WEIGHT = 1 / 32
RESAMPLINGS = (1 / 8, 2 / 8, 3 / 8, 4 / 8)  # shares of training; later, new latents would not have time to learn
ResetMoments = Callable[[Tensor], None]


class Revival:
    """Does nothing; the others override one of the two moments."""

    def loss(self, sae: SAE, z: Tensor, error: Tensor, dead: Tensor) -> Tensor | None:
        """A loss added to the step's.

        Args:
            z: ``[tokens, d_model]``, standardised.
            error: ``[tokens, d_model]``, ``z`` minus its reconstruction.
            dead: ``[m]`` indices of the dead latents, m >= 1.
        """
        return None

    def after_step(
        self, sae: SAE, z: Tensor, dead: Tensor, step: int, steps: int, seed: int, reset: ResetMoments
    ) -> Tensor | None:
        """May change weights of the ``dead`` latents; returns those that start anew."""
        return None


class AuxK(Revival):
    """The dead latents with the largest pre-activations model the error (Gao et al. 2024, arXiv 2406.04093, A.2).

    A latent that is negative on every token would get no gradient through the paper's ReLU and stay dead for ever (with
    an L1 penalty, that is what dead means); such a one gets its gradient as if it were not there.
    """

    def loss(self, sae: SAE, z: Tensor, error: Tensor, dead: Tensor) -> Tensor | None:
        target = error.detach()
        wanted = max(1, sae.d_model // 2)
        k = min(wanted, len(dead))
        chooser = TopK(sae.d_model, len(dead), TopKOptions(k=k))
        active = sae.encoder.select(z, sae.decoder.b_dec.detach(), chooser, latents=dead)
        assert active is not None
        assert active.pattern is not None
        latents, pre = active.pattern.latents, active.pre
        silent = torch.ones(sae.d_sae, dtype=torch.bool, device=z.device).index_fill_(0, latents[pre > 0], False)
        values = F.relu(pre) + (pre - pre.detach()) * silent[latents]
        modelled = sae.decoder(values, active.pattern) - sae.decoder.b_dec
        loss: Tensor = AUX_WEIGHT * (k / wanted) * (target - modelled).square().sum() / len(z)
        return loss


class GhostGrads(Revival):
    """Dead latents, fired through exp, model the error at half its size (Jermyn & Templeton 2024, "Ghost Grads").

    The loss is scaled to the size of the squared error itself. Memory: tokens x dead latents x 4 bytes, a few times.
    """

    def loss(self, sae: SAE, z: Tensor, error: Tensor, dead: Tensor) -> Tensor | None:
        target = error.detach()
        pre = sae.encoder(z - sae.decoder.b_dec.detach(), latents=dead)
        fired = (pre - pre.amax(1, keepdim=True).detach()).exp()  # the size is set below, so exp may not overflow
        ghost = fired @ sae.decoder.W_dec[dead]
        size = target.norm(dim=1, keepdim=True) / (2 * ghost.norm(dim=1, keepdim=True).clamp_min(1e-6))
        loss = (target - ghost * size.detach()).square().sum() / len(z)
        reconstruction = target.square().sum() / len(z)
        scaled: Tensor = loss * (reconstruction / loss.detach().clamp_min(1e-12))
        return scaled


class Resample(Revival):
    """Dead latents start anew as the inputs that are reconstructed worst (Bricken et al. 2023, appendix)."""

    @torch.no_grad()
    def after_step(
        self, sae: SAE, z: Tensor, dead: Tensor, step: int, steps: int, seed: int, reset: ResetMoments
    ) -> Tensor | None:
        if step not in {int(share * steps) for share in RESAMPLINGS} or not len(dead):
            return None
        error = sae.standardise(sae(sae.restore(z))) - z
        weights = error.square().sum(1).square().double()
        draw = generator("resample", seed, step)
        chosen = torch.multinomial(weights.cpu(), len(dead), replacement=len(dead) > len(z), generator=draw).to(
            z.device
        )
        directions = F.normalize(z[chosen] - sae.decoder.b_dec, dim=1)
        sae.decoder.reset(dead, directions)
        sae.encoder.reset(dead, directions)
        sae.sparsifier.reset(dead)
        reset(dead)
        return dead


REVIVALS: dict[str, type[Revival]] = {"none": Revival, "auxk": AuxK, "ghost": GhostGrads, "resample": Resample}
