"""The SAE: encoder, sparsifier, decoder, and the standardisation they were trained in."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanary.errors import KanaryError
from kanary.sae.codes import SparseCodes
from kanary.sae.parts import (
    DECODERS,
    ENCODERS,
    SPARSIFIERS,
    Active,
    Decoder,
    Encoder,
    Sparsifier,
    import_parts,
    make_part,
)
from kanary.sae.readable import LatentFunction, functions


@dataclass(frozen=True)
class SAEConfig:
    """What an SAE is made of; the file ``config.json`` beside its weights.

    Attributes:
        d_model: width of the activations.
        d_sae: number of latents.
        encoder, sparsifier, decoder: ``{"name": ..., option: value, ...}``.
        trained_on: where the activations came from: model, revision, fingerprint, site, tokenizer, special token ids …
    """

    d_model: int
    d_sae: int
    encoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "linear"})
    sparsifier: Mapping[str, Any] = field(default_factory=lambda: {"name": "topk"})
    decoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "linear"})
    trained_on: Mapping[str, Any] = field(default_factory=dict)


class SAE(nn.Module):
    """A sparse autoencoder that reads and returns raw activations.

    ``z = (x - mean) * scale`` has E|z|^2 = d_model; encoder and decoder live in that space, callers never do.

    Example::

        codes = sae.encode(x)          # x: [..., d_model] -> SparseCodes
        x_hat = sae.decode(codes)      # [..., d_model]
    """

    mean: Tensor
    scale: Tensor
    encoder: Encoder
    sparsifier: Sparsifier
    decoder: Decoder
    folder: Path | None = None
    """Where it was read from; None if it was made here."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__()
        import_parts()
        if config.d_model < 1 or config.d_sae < 1:
            raise KanaryError(f"An SAE needs d_model and width of at least 1, got {config.d_model} and {config.d_sae}.")
        self.config = config
        for kind, registry in (("encoder", ENCODERS), ("sparsifier", SPARSIFIERS), ("decoder", DECODERS)):
            options = dict(getattr(config, kind))
            name = options.pop("name")
            self.add_module(kind, make_part(kind, registry, name, config.d_model, config.d_sae, options))
        self.encoder.meet(self.sparsifier)
        self.register_buffer("mean", torch.zeros(config.d_model))
        self.register_buffer("scale", torch.ones(()))
        self.eval()

    @property
    def d_model(self) -> int:
        return self.config.d_model

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    @property
    def W_dec(self) -> Tensor:
        """``[d_sae, d_model]``, one unit direction per latent."""
        return self.decoder.W_dec

    def standardise(self, x: Tensor) -> Tensor:
        """Raw ``x [..., d_model]`` -> the space of the weights."""
        return (x.to(self.mean.dtype) - self.mean).mul_(self.scale)

    def restore(self, z: Tensor) -> Tensor:
        """The inverse of :meth:`standardise`."""
        return z / self.scale + self.mean

    def encode(self, x: Tensor, special: Tensor | None = None) -> SparseCodes:
        """Raw activations to codes.

        Args:
            x: ``[..., d_model]``, as the model has them.
            special: ``[...]`` boolean, true at BOS, EOS and padding: those tokens get no codes.

        Raises:
            KanaryError: another d_model, or NaN or infinity in ``x``.
        """
        self._check(x)
        flat = x.reshape(-1, self.d_model)
        keep = None if special is None else ~special.reshape(-1)
        z = self.standardise(flat if keep is None else flat[keep])
        active = self.active(z)
        if active is None:  # in training, where many latents fire
            codes = SparseCodes.from_dense(self.sparsifier.activate(self.all_active(z)))
        else:
            assert active.pattern is not None
            codes = SparseCodes.of(self.sparsifier.activate(active), active.pattern, z.shape[:1])
        counts = (
            codes.l0() if keep is None else torch.zeros_like(keep, dtype=torch.int64).masked_scatter_(keep, codes.l0())
        )
        return SparseCodes(
            codes.indices, codes.values, F.pad(counts.cumsum(0), (1, 0)), self.d_sae, tuple(x.shape[:-1])
        )

    def decode(self, codes: SparseCodes) -> Tensor:
        """Codes to raw activations, ``[..., d_model]``."""
        if codes.d_sae != self.d_sae:
            raise KanaryError(f"These codes have {codes.d_sae} latents, this SAE has {self.d_sae}.")
        z = self.decoder(codes.values, codes.pattern)
        return self.restore(z).reshape(*codes.shape, self.d_model)

    def contribution(self, latents: Tensor, values: Tensor) -> Tensor:
        """What ``latents [m]`` add to raw activations at codes ``values [m]``: ``[m, d_model]``, 0 at a code of 0.

        A direction times the code where decoders are linear, a point on the latent's curve where they are not: what
        steering follows, from the contribution at one code to that at another.
        """
        return self.decoder.contribution(latents, values) / self.scale

    def forward(self, x: Tensor, special: Tensor | None = None) -> Tensor:
        """The reconstruction of ``x [..., d_model]``; where ``special [...]`` is true, ``x`` itself."""
        x_hat = self.decode(self.encode(x, special)).to(x.dtype)
        return x_hat if special is None else torch.where(special[..., None], x, x_hat)

    def active(self, z: Tensor, precision: str = "fp32") -> Active | None:
        """The pre-activations of standardised ``z [tokens, d_model]`` that matter to the sparsifier.

        None, in training only, where so many do that full matrices are cheaper (see :meth:`all_active`).
        """
        return self.encoder.active(z, self.sparsifier, self.decoder, precision)

    def all_active(self, z: Tensor) -> Active:
        """Every pre-activation of ``z``, with gradients, for tokens x d_sae x 4 bytes of memory."""
        return self.encoder.all_active(z, self.sparsifier, self.decoder)

    def splines(
        self, latents: int | Sequence[int] | Tensor | None = None, x: Tensor | None = None
    ) -> list[LatentFunction]:
        """The learned functions of one latent, of some or of all (None), the encoder's first, on their grids.

        Each has its points, knots and linear part, the angle by which it turns (``turning``), and its formula with R² and
        range (``fit``).

        Args:
            x: ``[..., d_model]``, raw activations, none of them special: angles and formulas are then those over the values
                that occur there, and ``weight`` counts them (beyond a grid they have no point). None: evenly over the
                grids, of which a part may be where no value ever lies.

        Raises:
            KanaryError: no part has functions of single latents (those that have are named), there is no such latent, or
                :meth:`encode` refuses ``x``.
        """
        return functions(self, latents, x)

    def remember(self, **facts: Any) -> None:
        """Adds to what the SAE knows of its training (``config.trained_on``), which is saved with it."""
        self.config = replace(self.config, trained_on={**self.config.trained_on, **facts})

    def digest(self) -> str:
        """Sixteen hex digits by which these weights are known again, wherever they are stored."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``config.json`` and ``sae.safetensors`` (atomically) into ``folder``."""
        from kanary.sae.store import save

        save(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu"
    ) -> "SAE":
        """Loads an SAE from a run folder, a folder written by :meth:`save_pretrained`, or the Hub.

        Raises:
            KanaryError: nothing there, several SAEs to choose from, or a damaged file (named).
        """
        from kanary.sae.store import load

        return load(name, revision=revision, device=device)

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Uploads weights, config and a model card to ``repository``; returns its address."""
        from kanary.sae.store import push

        return push(self, repository, private=private, token=token)

    def _check(self, x: Tensor) -> None:
        if x.shape[-1] != self.d_model:
            raise KanaryError(
                f"These activations have width {x.shape[-1]}, this SAE reads {self.d_model} "
                f"(site {self.config.trained_on.get('site', 'unknown')} of {self.config.trained_on.get('model', 'unknown')})."
            )
        if not bool(torch.isfinite(x).all()):
            bad = (~torch.isfinite(x.reshape(-1, self.d_model)).all(1)).nonzero()[0].item()
            raise KanaryError(f"Activation {bad} holds NaN or infinity; an SAE cannot encode it.")
