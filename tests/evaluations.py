"""A synthetic evaluation of which everything is known, for tests of what is drawn and written from one."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from kanary.evaluation.result import Answer, Capability, Details, Evaluation, LatentTable, Metric, Prompt

SITE, D_SAE, TOKENS, WINDOW = "resid_post.2", 64, 20_000, 32
NAN = math.nan


def numbers(ev: float = 0.9, ce: float = 0.95, l0: float = 8.0, dead: float = 0.125) -> dict[str, dict[str, Metric]]:
    """Metrics that contradict each other nowhere a reader would look; the interval is ± 0.01."""

    def near(value: float) -> Metric:
        return Metric(value, value - 0.01, value + 0.01, TOKENS)

    return {
        "model_performance_preservation": {
            "ce_loss_score": near(ce),
            "ce_loss_score_mean": near(ce - 0.05),
            "ce_loss_without_sae": near(1.1),
            "ce_loss_with_sae": near(1.1 + 5 * (1 - ce)),
            "ce_loss_with_ablation": near(6.1),
            "ce_loss_with_mean_ablation": near(5.2),
            "ce_loss_increase": near(5 * (1 - ce)),
        },
        "model_behavior_preservation": {"top1_agreement": near(0.83)},
        "reconstruction_quality": {"explained_variance": near(ev), "fvu": near(1 - ev)},
        "sparsity": {
            "l0": near(l0),
            **{key: Metric(v, v, v, TOKENS) for key, v in (("l0_p5", 3.0), ("l0_p50", 8.0), ("l0_p95", 17.0))},
        },
        "misc_metrics": {"dead_share": Metric(dead, dead, dead, TOKENS)},
    }


def details(draw: torch.Generator, dead: int = 8) -> Details:
    def whole(high: int, size: int) -> Tensor:
        return torch.randint(1, high, (size,), generator=draw)

    firings = whole(TOKENS // 4, D_SAE)
    firings[:dead] = 0
    norms = torch.rand(1500, 2, generator=draw, dtype=torch.float64) + 0.1
    return Details(
        tokens=TOKENS,
        l0_values=torch.arange(40),
        l0_counts=whole(1000, 40),
        firings=firings,
        windows_fired=firings.clamp(max=600),
        strength=firings * 0.5,
        position_fvu=torch.cat([torch.tensor([NAN]), torch.rand(WINDOW - 1, generator=draw)]).double(),
        position_tokens=torch.cat([torch.tensor([0]), whole(700, WINDOW - 1)]),
        norms=norms,
    )


def latent_table(draw: torch.Generator) -> LatentTable:
    def column() -> Tensor:
        return torch.randn(D_SAE, generator=draw, dtype=torch.float64)

    tokens = torch.arange(D_SAE)
    cosines = column().abs().clamp(max=1)
    return LatentTable(
        cosines,
        cosines,
        cosines,
        cosines,
        cosines,
        column(),
        column().abs(),
        column(),
        3 + column().exp(),
        tokens,
        tokens,
    )


def answers(ranks: list[int], word: str) -> list[Answer]:
    return [Answer(rank, 1 / (1 + rank), f"{word} {i}") for i, rank in enumerate(ranks)]


def evaluation(*names: str, **fields: Any) -> Evaluation:
    """An evaluation of the SAEs ``names``; ``fields`` replace parts of it."""
    draw = torch.Generator().manual_seed(3)
    names = names or ("topk",)
    controls = {
        f"identity at {SITE}": numbers(1, 1, NAN, NAN),
        f"PCA with 8 components at {SITE}": numbers(0.81, 0.7, 8, NAN),
    }
    about = {}
    for name in names:
        twins = [f"untrained twin of {name}", f"random twin of {name}"]
        controls |= {twins[0]: numbers(0.5, 0.6), twins[1]: numbers(0.65, 0.62)}
        about[name] = {"site": SITE, "model": "tiny", "kind": "topk", "d_sae": D_SAE, "options": {"k": 8}, "seed": None}
        about[name] |= {"pca": f"PCA with 8 components at {SITE}", "twins": twins}
    prompts = [Prompt(f"Once upon {i}", f" word{i}", i, i, torch.arange(3)) for i in range(20)]
    rows = {name: answers([1] * 12 + [2] * 8, f"with-{i}") for i, name in enumerate(names)}
    rows[f"identity at {SITE}"] = answers([1] * 15 + [4] * 5, "same")
    made = Evaluation(
        saes={name: numbers() for name in names},
        controls=controls,
        about=about,
        held_out={"model": "tiny", "text": "stories", "part": "heldout", "tokens": TOKENS, "window": WINDOW},
        details={name: details(draw) for name in names},
        latents={name: latent_table(draw) for name in names},
        capability=Capability(prompts, answers([1] * 15 + [4] * 5, "alone"), rows),
    )
    return dataclasses.replace(made, **fields)
