"""Everything that one training run needs to know, and grids of runs that share a stream."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kanary.activations.source import SourceConfig
from kanary.config import from_mapping, option, parse_seconds, to_mapping
from kanary.errors import KanaryError, nearest
from kanary.sae.model import SAEConfig
from kanary.sae.parts import DECODERS, ENCODERS, SPARSIFIERS, import_parts, load_plugin, option_names
from kanary.training.revival import REVIVALS

EACH = "each"  # key of a config file: a list of SAEs, each with the values in which it differs from the others
ALIASES = {"seeds": "seed", "sites": "site", "saes": "sae", "widths": "width"}


_RECIPE = (
    *("batch", "lr", "lr_warmup", "lr_decay", "matryoshka", "revive", "dead_after", "bias_start", "clip"),
    "precision",
)
_LEAST = {
    **dict.fromkeys(("width", "k", "k_start", "tokens", "batch", "pool"), 1),
    **dict.fromkeys(("l1", "l0_penalty", "window", "lm_batch", "dead_after", "checkpoint", "eval_tokens"), 0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(SourceConfig):
    """One SAE and how to train it. Options left at None take the default of the part that uses them."""

    sae: str = option(
        "topk", "How codes are made sparse: topk, batchtopk, relu, gated or jumprelu.", group="SAE", sweep=True
    )
    width: int = option(2048, "Number of latents.", group="SAE", count=True, sweep=True)
    k: int | None = option(
        None, "Active latents per token (topk, batchtopk; 32 unless given).", group="SAE", sweep=True
    )
    target_l0: float | None = option(
        None,
        "Steer the penalty to this many active latents per token (relu, gated, jumprelu).",
        group="SAE",
        sweep=True,
    )
    l1: float | None = option(None, "Strength of the L1 penalty (relu, gated).", group="SAE", sweep=True)
    l0_penalty: float | None = option(None, "Strength of the L0 penalty (jumprelu).", group="SAE", sweep=True)
    encoder: str = option(
        "linear",
        "Encoder: linear, refine (looks again at what was missed), mlp, kan-node, kan-hidden or kan-edge.",
        group="SAE",
        sweep=True,
    )
    decoder: str = option("linear", "Decoder: linear, kan-gain, kan-bend or kan-curve.", group="SAE", sweep=True)
    matryoshka: tuple[int, ...] = option(
        (),
        "Nested dictionaries: 16,4 also trains the first width/16 and width/4 latents to reconstruct alone.",
        group="SAE",
    )
    options: Mapping[str, Any] = option(
        {}, "Further options of the chosen parts; on the command line --set name=value.", group="SAE"
    )
    plugin: tuple[str, ...] = option((), "Python files of your own that register parts.", group="SAE")

    tokens: int = option(
        2_000_000, "Tokens to train on; the text is read again if it is shorter.", group="Training", count=True
    )
    batch: int = option(2048, "Tokens per step.", group="Training", count=True)
    lr: float | None = option(
        None, "Peak learning rate of Adam; by default from the width.", group="Training", sweep=True
    )
    lr_warmup: float = option(0.02, "Share of training in which the learning rate rises.", group="Training")
    lr_decay: float = option(
        0.2, "Share of training, at its end, in which the learning rate falls to zero.", group="Training"
    )
    sparsity_warmup: float | None = option(
        None, "Share of training in which the penalty rises (0.05).", group="Training"
    )
    k_schedule: bool | None = option(
        None, "Start with many active latents (k_start) and come down to k.", group="Training"
    )
    k_start: int | None = option(None, "First k of the k-schedule (512, at most the width).", group="Training")
    k_share: float | None = option(None, "Share of training that the k-schedule takes (0.25).", group="Training")
    revive: str = option(
        "auxk",
        "What is done for dead latents: auxk, ghost (ghost grads), resample or none.",
        group="Training",
        sweep=True,
    )
    dead_after: int = option(
        0,
        "Tokens without firing after which a latent counts as dead; 0 = a twentieth of training.",
        group="Training",
        count=True,
    )
    bias_start: str = option("median", "Start of b_dec: geometric median, mean or zero.", group="Training")
    clip: float = option(1.0, "Largest norm of the gradient.", group="Training")
    precision: str = option(
        "fp32", "fp32, or bf16 to screen pre-activations faster (values stay exact).", group="Training"
    )
    seed: int = option(0, "Seed of the SAE's first weights.", group="Training", sweep=True)
    data_seed: int = option(0, "Seed of the order of the activations; all SAEs of a run share it.", group="Training")
    overlap: bool = option(True, "Harvest the next pool while training on this one.", group="Training")

    out: str | None = option(None, "Run folder; by default runs/DATE-KIND.", group="Run")
    budget: str | None = option(None, "Stop cleanly after this long (2h, 45m); --resume goes on.", group="Run")
    checkpoint: int = option(0, "Tokens between checkpoints; 0 = a tenth of training.", group="Run", count=True)
    log: tuple[str, ...] = option(
        (), "Also log to tensorboard, wandb or trackio (metrics.jsonl is always written).", group="Run"
    )
    eval_tokens: int = option(100_000, "Held-out tokens for the numbers at the end; 0 = none.", group="Run", count=True)

    def __post_init__(self) -> None:
        if self.bias_start not in ("median", "mean", "zero"):
            raise KanaryError(
                f"bias_start={self.bias_start!r} is unknown. {nearest(self.bias_start, ['median', 'mean', 'zero'])}"
            )
        if self.revive not in REVIVALS:
            raise KanaryError(f"revive={self.revive!r} is unknown. {nearest(self.revive, REVIVALS)}")
        if self.precision not in ("fp32", "bf16"):
            raise KanaryError(f"precision={self.precision!r} is unknown: choose fp32 or bf16.")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise KanaryError(f"{name}={value} must be {least} or more.")
        for name in ("lr", "clip", "target_l0"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise KanaryError(f"{name}={value} must be a number above 0.")
        if self.budget is not None:
            parse_seconds(self.budget)
        if self.tokens < self.batch:
            raise KanaryError(f"tokens={self.tokens:,} is less than one batch of {self.batch:,}: ask for more tokens.")
        for name in ("lr_warmup", "lr_decay", "sparsity_warmup", "k_share"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise KanaryError(f"{name}={getattr(self, name)} must lie between 0 and 1: it is a share of training.")

    @property
    def steps(self) -> int:
        return self.tokens // self.batch

    @property
    def dead_window(self) -> int:
        """Tokens without firing after which a latent counts as dead."""
        return self.dead_after or max(10 * self.batch, self.tokens // 20)

    @property
    def peak_lr(self) -> float:
        """Gao et al. 2024: the best rate falls with the square root of the width; the constant did well at width 2,048."""
        return self.lr if self.lr is not None else 3e-3 * math.sqrt(2**11 / self.width)

    @property
    def recipe(self) -> dict[str, Any]:
        """What shapes the weights and is written nowhere else in an SAE's config."""
        return {name: value for name, value in to_mapping(self).items() if name in _RECIPE}

    def sae_config(self, d_model: int, trained_on: Mapping[str, Any] | None = None) -> SAEConfig:
        """What the SAE is made of: every option goes to the part that knows it.

        Raises:
            KanaryError: an unknown part, an option that none of the chosen parts has, sizes that do not fit.
        """
        import_parts()
        for path in self.plugin:
            load_plugin(path)
        given = dict(self.options)
        for name in ("k", "target_l0", "l1", "l0_penalty", "sparsity_warmup", "k_schedule", "k_start", "k_share"):
            if getattr(self, name) is not None:
                given[name] = getattr(self, name)
        parts: dict[str, dict[str, Any]] = {}
        used: set[str] = set()
        for kind, registry, name in (
            ("encoder", ENCODERS, self.encoder),
            ("sparsifier", SPARSIFIERS, self.sae),
            ("decoder", DECODERS, self.decoder),
        ):
            known = option_names(registry[name]) if name in registry else []
            parts[kind] = {"name": name} | {key: value for key, value in given.items() if key in known}
            used.update(parts[kind])
        known_parts = self.encoder in ENCODERS and self.sae in SPARSIFIERS and self.decoder in DECODERS
        for key in sorted(given.keys() - used if known_parts else ()):  # else the unknown part is the mistake to name
            raise KanaryError(
                f"{key}={given[key]} is not an option of {self.encoder}, {self.sae} or {self.decoder}. Leave it out."
            )
        for share in self.matryoshka:
            if share < 1 or self.width % share:
                raise KanaryError(
                    f"width={self.width} is not divisible by {share}, which matryoshka={self.matryoshka} asks for."
                )
        return SAEConfig(d_model, self.width, **parts, trained_on=dict(trained_on or {}))


def grid(values: Mapping[str, Any]) -> list[TrainConfig]:
    """One config for every combination of the listed values: ``{"k": [8, 16], "seeds": [0, 1]}`` gives four.

    Lists are allowed for the fields that make SAEs differ; everything else is shared by the run. SAEs that form no grid
    are listed under ``each``: ``{"each": [{"sae": "topk", "k": 16}, {"sae": "jumprelu", "target_l0": 16}]}``.

    Raises:
        KanaryError: an unknown field, or a list where only one value makes sense.
    """
    rest = dict(values)
    each = rest.pop(EACH, [{}])
    if not isinstance(each, list) or not each or not all(isinstance(entry, Mapping) for entry in each):
        raise KanaryError(f"{EACH}={each!r} must be a list of SAEs, each with its own 'name: value' lines.")
    found = [config for entry in each for config in _combinations({**_known(rest), **_known(entry)})]
    kinds = {config.sae for config in found}
    configs: list[TrainConfig] = []
    for config in found:
        own = _own_sparsity(config, kinds)
        if own is config or own not in configs:  # two values of k make one relu SAE, not two
            configs.append(own)
    return configs


def _own_sparsity(config: TrainConfig, kinds: set[str]) -> TrainConfig:
    """In a grid of several kinds, ``--k`` and ``--target-l0`` speak to those that have them."""
    import_parts()
    known = {kind: set(option_names(SPARSIFIERS[kind])) for kind in kinds if kind in SPARSIFIERS}
    foreign: dict[str, Any] = {
        name: None
        for name in ("k", "target_l0", "l1", "l0_penalty", "k_schedule", "k_start", "k_share", "sparsity_warmup")
        if name not in known.get(config.sae, {name}) and any(name in names for names in known.values())
    }
    foreign = {name: None for name in foreign if getattr(config, name) is not None}
    return dataclasses.replace(config, **foreign) if foreign else config


def replaced(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`grid` reads, with ``fields`` in the place of whatever ``values`` says of them."""
    given, found = _known(fields), _known(values) | _known(fields)
    if EACH in values and EACH not in fields:
        found[EACH] = [{k: v for k, v in _known(entry).items() if k not in given} for entry in values[EACH]]
    return found


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    fields = [f.name for f in dataclasses.fields(TrainConfig)]
    for name in values:
        if ALIASES.get(name, name) not in (*fields, EACH):
            raise KanaryError(f"Unknown option {name!r}. {nearest(str(name), [*fields, *ALIASES, EACH])}")
    return {ALIASES.get(name, name): value for name, value in values.items()}


def _combinations(values: Mapping[str, Any]) -> list[TrainConfig]:
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    choices: dict[str, list[Any]] = {}
    for name, value in values.items():
        many = isinstance(value, (list, tuple)) and "tuple" not in str(fields[name].type)
        if many and not fields[name].metadata.get("sweep"):
            raise KanaryError(f"{name} takes one value, not {len(value)}: all SAEs of a run share it.")
        if many and not value:
            raise KanaryError(f"{name} needs at least one value.")
        choices[name] = list(value) if many else [value]
    return [
        from_mapping(TrainConfig, dict(zip(choices, combo, strict=True)))
        for combo in itertools.product(*choices.values())
    ]


def shared_values(configs: Sequence[TrainConfig]) -> dict[str, Any]:
    """The inverse of :func:`grid`: plain values, with a list wherever the configs differ.

    Raises:
        KanaryError: the configs cannot share a stream.
    """
    fields = dataclasses.fields(TrainConfig)
    plain = [to_mapping(config) for config in configs]
    values = dict(plain[0])
    for f in fields:
        seen = list(dict.fromkeys(_frozen(p[f.name]) for p in plain))
        if len(seen) > 1 and not f.metadata.get("sweep"):
            raise KanaryError(
                f"These SAEs cannot share one stream: {f.name} is {seen[0]!r} for one and {seen[1]!r} for another."
            )
        if len(seen) > 1:
            values[f.name] = seen
    differing = [name for name, value in values.items() if value != plain[0][name]]
    if math.prod(len(values[name]) for name in differing) > len(plain):  # no full grid
        return {name: value for name, value in plain[0].items() if name not in differing} | {
            EACH: [{name: p[name] for name in differing} for p in plain]
        }
    return values


def _frozen(value: Any) -> Any:
    return (
        tuple(value) if isinstance(value, list) else tuple(sorted(value.items())) if isinstance(value, dict) else value
    )


def names(configs: Sequence[TrainConfig]) -> list[str]:
    """A folder name for every SAE, its kind alone if that suffices, else with the values in which they differ:
    ``topk-k16-seed1``.

    Raises:
        KanaryError: two of them are the same SAE.
    """
    kinds = [config.sae for config in configs]
    if len(set(kinds)) == len(kinds):
        return kinds
    swept = [f.name for f in dataclasses.fields(TrainConfig) if f.metadata.get("sweep")]
    differing = [name for name in swept if len({getattr(c, name) for c in configs}) > 1]
    found = []
    for config in configs:
        given = {name: getattr(config, name) for name in differing if name != "sae"}
        parts = [config.sae] + [f"{name}{value}" for name, value in given.items() if value is not None]
        found.append("-".join(parts).replace("/", "_"))
    if twice := next((name for name in found if found.count(name) > 1), None):
        raise KanaryError(f"Two of the SAEs are the same ({twice}); vary the seed, k or another option.")
    return found
