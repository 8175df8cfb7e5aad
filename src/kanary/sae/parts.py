"""What encoders, sparsifiers and decoders have in common, and the dictionaries in which they are found by name.

A new idea is one new file with one decorated class. It either lives in ``sae/encoders``, ``sae/sparsifiers`` or
``sae/decoders``, or is your own file, named with ``--plugin``.
"""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanary.config import from_mapping, to_mapping
from kanary.errors import KanaryError, nearest
from kanary.kernels import Pattern, project_at

# pre-activations held at a time: 28 MB in fp32, which the C library reuses instead of asking for fresh pages
TILE = 7 * 2**20
ROWS = 1024  # directions treated at a time: they are read again while they are still in the cache


@dataclass(frozen=True)
class NoOptions:
    """For parts that have nothing to choose."""


class Part(nn.Module):
    """One of the three parts of an SAE. ``name`` and ``Options`` are all that its file format needs."""

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    options: Any

    def __init__(self, d_model: int, d_sae: int, options: Any = None) -> None:
        super().__init__()
        self.d_model, self.d_sae = d_model, d_sae
        self.options = options or self.Options()

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **to_mapping(self.options)}

    def before_step(self, step: int, steps: int) -> None:
        """Called before every training step; schedules live here."""

    def paces(self, step: int, steps: int) -> dict[str, float]:
        """Times the learning rate at which some parameters learn, by name; those not named learn at all of it."""
        return {}

    @torch.no_grad()
    def observe(self, active: "Active", values: Tensor) -> None:
        """Called in every training step with a batch's entries and their codes ``values``; grids learn their range here."""


class Encoder(Part):
    """Activations to pre-activations."""

    def forward(self, x: Tensor, latents: Tensor | None = None) -> Tensor:
        """``x [tokens, d_model]`` -> ``[tokens, d_sae]``, or only the columns ``latents [m]`` -> ``[tokens, m]``."""
        raise NotImplementedError

    def everything(self, x: Tensor, shift: Tensor, sparsifier: "Sparsifier") -> Tensor:
        """All pre-activations of ``x [tokens, d_model]`` less ``shift [d_model]``, with gradients for both."""
        pre: Tensor = self(x - shift)
        return pre

    def select(
        self, x: Tensor, shift: Tensor, sparsifier: "Sparsifier", precision: str = "fp32", latents: Tensor | None = None
    ) -> "Active | None":
        """The pre-activations that matter to ``sparsifier``, or None where they are too many to be worth it.

        Args:
            x: ``[tokens, d_model]``, standardised.
            shift: ``[d_model]``, subtracted first (the decoder's bias).
            precision: how the full matrix of pre-activations may be computed; those selected are always exact.
            latents: ``[m]``, look only at these.
        """
        pre = self(x - shift, latents)

        def scan() -> tuple[Tensor, Pattern]:
            columns, counts = sparsifier.select(pre.detach())
            pattern = Pattern(columns, F.pad(counts.cumsum(0), (1, 0)), pre.shape[1])
            return pre.detach()[pattern.rows(), columns], pattern

        found = narrowed(sparsifier, scan)
        if found is None:
            return None
        pattern = found[1]
        values = pre[pattern.rows(), pattern.latents]
        return Active(values, pattern.renamed(latents, self.d_sae), x)

    def outside(self, x: Tensor, shift: Tensor) -> Tensor | None:
        """Where functions of what many latents share read beyond their grids; None for encoders without such functions.

        ``x [tokens, d_model]`` standardised, ``shift [d_model]`` as in :meth:`select` -> ``[tokens, functions]`` bool.
        """
        return None

    def meet(self, sparsifier: "Sparsifier") -> None:
        """Called once, when the SAE is made, before any weights are loaded."""

    def active(
        self, x: Tensor, sparsifier: "Sparsifier", decoder: "Decoder", precision: str = "fp32"
    ) -> "Active | None":
        """What becomes the codes of standardised ``x [tokens, d_model]``; None where full matrices are cheaper."""
        return self.select(x, decoder.b_dec, sparsifier, precision)

    def all_active(self, x: Tensor, sparsifier: "Sparsifier", decoder: "Decoder") -> "Active":
        """The same as full matrices, with gradients."""
        return Active(self.everything(x, decoder.b_dec, sparsifier), None, x)

    def scores(self, x: Tensor, sparsifier: "Sparsifier", decoder: "Decoder", latents: Tensor) -> Tensor:
        """What the codes of ``latents [m]``, no two alike, are made of where they fire, known where they do not fire too.

        ``x [tokens, d_model]`` standardised -> ``[tokens, m]``, with gradients.
        """
        found: Tensor = self(x - decoder.b_dec, latents)
        return found

    @torch.no_grad()
    def tie(self, directions: Tensor) -> None:
        """Starts from the decoder's ``directions [d_sae, d_model]``."""

    @torch.no_grad()
    def raise_by(self, amount: Tensor) -> None:
        """Adds ``amount [d_sae]`` to every pre-activation of each latent, as far as the encoder can."""

    @torch.no_grad()
    def reset(self, latents: Tensor, directions: Tensor) -> None:
        """Gives ``latents [m]`` a fresh start that looks for ``directions [m, d_model]`` (resampling)."""


class Decoder(Part):
    """Codes to reconstructions. Owns ``b_dec [d_model]`` and unit directions ``W_dec [d_sae, d_model]``."""

    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def forward(self, values: Tensor, pattern: Pattern | None) -> Tensor:
        """``values`` (``[nnz]`` at ``pattern``, or dense ``[tokens, d_sae]`` without one) -> ``[tokens, d_model]``."""
        raise NotImplementedError

    def norms(self) -> Tensor:
        """``[d_sae]``, the length of every direction: 1 after each training step."""
        norms: Tensor = self.W_dec.norm(dim=1)
        return norms

    def lengths(self, active: "Active", values: Tensor) -> Tensor:
        """How long a vector each entry adds: shaped like ``values``, differentiable; what L1 penalties weigh."""
        norms = self.norms()
        return values.abs() * (norms if active.pattern is None else norms.index_select(0, active.pattern.latents))

    def along(self, missed: Tensor, values: Tensor, pattern: Pattern | None) -> Tensor:
        """How far ``missed [tokens, d_model]`` points to where each entry goes as its code grows from ``values``: shaped like
        these; differentiable, but for where on its curve a latent is."""
        return missed @ self.W_dec.T if pattern is None else project_at(missed, self.W_dec, pattern)

    def contribution(self, latents: Tensor, values: Tensor) -> Tensor:
        """What ``latents [m]`` add at codes ``values [m]``: ``[m, d_model]``, standardised; 0 at a code of 0."""
        pattern = Pattern(latents, torch.arange(len(latents) + 1, device=latents.device), self.d_sae)
        added: Tensor = self(values, pattern) - self.b_dec
        return added

    @torch.no_grad()
    def begin(self, directions: Tensor) -> None:
        """Starts from unit ``directions [d_sae, d_model]``."""
        self.W_dec.copy_(directions)

    @torch.no_grad()
    def reset(self, latents: Tensor, directions: Tensor) -> None:
        """Gives ``latents [m]`` a fresh start that adds unit ``directions [m, d_model]`` (resampling)."""
        self.W_dec[latents] = directions

    @torch.no_grad()
    def normalise(self) -> None:
        """Gives every direction unit norm."""
        for rows in self.W_dec.split(ROWS):
            rows.div_(rows.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny))

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Removes from the gradient of ``W_dec`` what would only change the directions' lengths."""
        if self.W_dec.grad is not None:
            for grad, rows in zip(self.W_dec.grad.split(ROWS), self.W_dec.split(ROWS), strict=True):
                grad.addcmul_((grad * rows).sum(1, keepdim=True), rows, value=-1)


class Sparsifier(Part):
    """Pre-activations to sparse codes.

    A subclass says which entries matter (``mask``, or ``select`` where a faster way exists) and what their values are
    (``activate``); both treat every token alike. Gradients flow through ``activate`` and ``penalty`` only.

    Attributes:
        elementwise: a value depends on its own pre-activation alone, so that ``activate`` may be given all of them.
    """

    elementwise: ClassVar[bool] = False

    def mask(self, pre: Tensor) -> Tensor:
        """``pre [tokens, d_sae]`` -> boolean, true wherever the value or a gradient may differ from zero."""
        return pre > 0

    def select(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """``pre [tokens, d_sae]`` -> (``[nnz]`` latents in row order, ``[tokens]`` counts)."""
        mask = self.mask(pre)
        rows, latents = mask.nonzero(as_tuple=True)
        return latents, torch.bincount(rows, minlength=len(pre))

    def fires(self, pre: Tensor, others: "Others") -> Tensor | None:
        """Which of some latents' ``pre [tokens, m]`` are selected at inference: ``[tokens, m]`` bool.

        Sooner known than by :meth:`select`, which is given all latents; None where only that can tell.
        """
        return None

    def narrow(self, pre: Tensor, pattern: Pattern) -> Tensor | None:
        """Chooses among the selected ``pre [nnz]`` once the whole batch is known: a boolean ``[nnz]``, or None for all.

        May raise :class:`SelectAgain` when ``select`` turns out to have been too strict.
        """
        return None

    def keep(self, pre: Tensor, pattern: Pattern) -> Tensor | None:
        """Chooses among candidates ``pre [nnz]`` whose scores have changed since they were selected: as ``narrow``."""
        return None

    def like(self, factor: int) -> "Sparsifier | None":
        """Another one that lets ``factor`` times as many through and learns by itself; None where ``activate`` decides."""
        return None

    def activate(self, active: "Active") -> Tensor:
        """The codes at the entries of ``active``, same shape as ``active.pre``, differentiable."""
        return F.relu(active.pre)

    def penalty(self, active: "Active", values: Tensor, decoder: Decoder) -> Tensor | None:
        """A loss per token (mean over the tokens of ``active``) added to the squared error, or None."""
        return None

    def start(self) -> tuple[float, float] | None:
        """(L0, cutoff): how many latents should pass ``cutoff`` per token before the first step; None: as they come."""
        return None

    def after_step(self, l0: float, smallest: float) -> None:
        """Called after every training step with the batch's mean L0 and its smallest code that is not zero."""

    @torch.no_grad()
    def reset(self, latents: Tensor) -> None:
        """Puts the parameters of ``latents [m]`` back to their start (resampling)."""


Others = Callable[[slice, slice | Tensor], Tensor]
"""(latents, tokens) -> their pre-activations; -inf at the latents in question."""


class SelectAgain(Exception):
    """Raised by ``Sparsifier.narrow`` after it has loosened ``select``."""


def narrowed(
    sparsifier: Sparsifier, scan: Callable[[], tuple[Tensor, Pattern] | None]
) -> tuple[Tensor, Pattern] | None:
    """What ``scan`` selects from a batch, after the sparsifier has seen all of it."""
    while (found := scan()) is not None:
        try:
            keep = sparsifier.narrow(*found)
        except SelectAgain:
            continue
        return found if keep is None else (found[0][keep], found[1].keep(keep))
    return None


@dataclass
class Active:
    """What is known of a batch between encoder and decoder: only the entries that matter, or all of them.

    Attributes:
        pre: pre-activations, ``[nnz]`` at ``pattern``, or ``[tokens, d_sae]`` where ``pattern`` is None.
        pattern: which entries, or None for all.
        x: ``[tokens, d_model]``, the standardised activations, which are also the target of the reconstruction.
    """

    pre: Tensor
    pattern: Pattern | None
    x: Tensor

    @property
    def tokens(self) -> int:
        return len(self.x)

    def per_latent(self, parameter: Tensor) -> Tensor:
        """``parameter [d_sae]`` laid out like ``pre``."""
        return parameter if self.pattern is None else parameter.index_select(0, self.pattern.latents)

    def mean_over_tokens(self, terms: Tensor) -> Tensor:
        """Sum over latents, mean over tokens, of something shaped like ``pre``."""
        return terms.sum() / self.tokens

    def decode_frozen(self, values: Tensor, decoder: Decoder) -> Tensor:
        """``values`` through the decoder as it is: gradients reach the values, never the decoder."""
        frozen = {name: parameter.detach() for name, parameter in decoder.named_parameters()}
        decoded: Tensor = torch.func.functional_call(decoder, frozen, (values, self.pattern))
        return decoded


P = TypeVar("P", bound=type[Part])
ENCODERS: dict[str, type[Encoder]] = {}
SPARSIFIERS: dict[str, type[Sparsifier]] = {}
DECODERS: dict[str, type[Decoder]] = {}


def part(name: str) -> Callable[[P], P]:
    """Class decorator: makes an encoder, sparsifier or decoder known by ``name`` in Python, YAML and on the command line."""

    def enter(cls: P) -> P:
        if not issubclass(cls, (Encoder, Sparsifier, Decoder)):
            raise KanaryError(f"Part {name!r} must be a subclass of Encoder, Sparsifier or Decoder.")
        cls.name = name
        registry: dict[str, Any] = (
            ENCODERS if issubclass(cls, Encoder) else SPARSIFIERS if issubclass(cls, Sparsifier) else DECODERS
        )
        registry[name] = cls
        return cls

    return enter


def make_part(
    kind: str, registry: Mapping[str, type[Part]], name: str, d_model: int, d_sae: int, values: Mapping[str, Any]
) -> Any:
    """The part ``name`` with its options read from ``values``; unknown names and options are refused with the nearest."""
    if name not in registry:
        hint = "If it is your own, name its file with --plugin (in Python: kanary.load_plugin)."
        raise KanaryError(f"Unknown {kind} {name!r}. {nearest(name, registry)} {hint}")
    cls = registry[name]
    return cls(d_model, d_sae, from_mapping(cls.Options, values))


def option_names(cls: type[Part]) -> list[str]:
    return [f.name for f in fields(cls.Options)]


def load_plugin(path: str | Path) -> ModuleType:
    """Runs a Python file of the user's own that registers parts; only ever a file that the user names."""
    path = Path(path).resolve()
    if not path.is_file():
        raise KanaryError(f"--plugin {path}: there is no such file.")
    spec = importlib.util.spec_from_file_location(f"kanary_plugin_{path.stem}_{crc32(bytes(path)):08x}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for what their annotations mean
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise KanaryError(f"--plugin {path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _import_all(package: str) -> None:
    folder = importlib.import_module(package)
    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{package}.{module.name}")


def import_parts() -> None:
    """Imports every file in the three folders of parts, so that a new file there is enough."""
    for kind in ("encoders", "sparsifiers", "decoders"):
        _import_all(f"kanary.sae.{kind}")
