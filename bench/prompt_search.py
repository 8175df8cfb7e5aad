"""Which score of a prompt search finds the latent that stands for a concept.

    OMP_NUM_THREADS=1 python bench/prompt_search.py runs/first --sae topk

For every concept of ``--concepts``, ``--prompts 32`` passages of the labelled corpus with it and the same ones without it are
searched, once with each of ``--seeds 0 1 2`` (other passages, other halves), and the rank is told of the latent that stands for
the concept (best F1 at single tokens, on other passages), by each score: 1 is best. Rows have medians over the seeds.

The last lines say, over all concepts and seeds, with 95 % intervals (bootstrap over concepts, seeds of one together):

- ``first 5``: how often the latent is among the first 5;
- ``1 / rank``: the mean of the ranks' reciprocals, which is 1 where the latent is always the first;
- ``less auroc``: that of the score minus that of ``auroc``, pair by pair.
"""

import argparse
from statistics import median

import torch
from torch import Tensor

from kanary.evaluation.sums import RESAMPLES, estimate
from kanary.interventions.concept_prompts import concept_prompts, true_latent
from kanary.interventions.prompt_scores import SCORES
from kanary.interventions.prompt_search import rank_truth
from kanary.interventions.steerable import Steerable

CONCEPTS = (
    "gender.female,gender.male,honesty.deceptive_speaker,honesty.honest_speaker,honesty.lie,honesty.true_claim,"
    "language.arabic,language.hebrew,language.spanish,occupation.stereotype_female,occupation.stereotype_male,"
    "sentiment.positive,sentiment.negative,tense.past,tense.future"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--sae", default=None, help="name of the SAE, where the run has several")
    parser.add_argument("--prompts", type=int, default=32, help="of each kind")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--concepts", default=CONCEPTS)
    parser.add_argument("--pool", default="max")
    args = parser.parse_args()
    panel = Steerable.open(args.run, asks="--sae {}")
    sae = panel.saes[panel.name(args.sae)]
    print(f"{'concept':<30}{'latent':>7}{'F1':>7}" + "".join(f"{name:>22}" for name in SCORES))
    ranks: dict[str, list[list[int]]] = {name: [] for name in SCORES}
    for concept in args.concepts.split(","):
        true = true_latent(panel.lm, sae, concept)
        for each in ranks.values():
            each.append([])
        for seed in args.seeds:
            lists = concept_prompts(concept, args.prompts, seed)
            found = rank_truth(panel.lm, sae, *lists, concept, true, pool=args.pool, seed=seed)
            for name, rank in found.ranks.items():
                ranks[name][-1].append(rank)
        cells = "".join(f"{median(ranks[name][-1]):>22g}" for name in SCORES)
        print(f"{concept:<30}{true.latent:>7}{true.f1:>7.2f}{cells}", flush=True)
    of = {name: torch.tensor(found, dtype=torch.float64) for name, found in ranks.items()}  # [concepts, seeds]
    print(f"{'first 5':<44}" + "".join(interval(of[name] <= 5) for name in SCORES))
    print(f"{'1 / rank':<44}" + "".join(interval(1 / of[name]) for name in SCORES))
    print(f"{'less auroc':<44}" + "".join(interval(1 / of[name] - 1 / of["auroc"]) for name in SCORES))


def interval(values: Tensor) -> str:
    """The mean of ``values [concepts, seeds]``."""
    each = values.double().mean(1)
    drawn = torch.randint(len(each), (RESAMPLES, len(each)), generator=torch.Generator().manual_seed(0))
    found = estimate(torch.cat([each.mean()[None], each[drawn].mean(1)]), len(each))
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})".rjust(22)


if __name__ == "__main__":
    main()
