"""Which score of a prompt search finds the latent that stands for a concept.

    OMP_NUM_THREADS=1 python bench/prompt_search.py runs/first --prompts 64

For every concept of ``--concepts``, passages of the labelled corpus with it and without it are searched, and the rank is
told of the latent that stands for the concept (best F1 at single tokens, on other passages), by each score: 1 is best. The
last lines are the medians, and how often the latent is among the first 5.
"""

import argparse
from statistics import median

from kanary.interventions.concept_prompts import concept_prompts
from kanary.interventions.prompt_scores import SCORES
from kanary.interventions.prompt_search import search_prompts
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
    parser.add_argument("--prompts", type=int, default=64, help="of each kind")
    parser.add_argument("--concepts", default=CONCEPTS)
    parser.add_argument("--pool", default="max")
    args = parser.parse_args()
    panel = Steerable.open(args.run)
    sae = panel.saes[panel.name(args.sae)]
    ranks: dict[str, list[int]] = {name: [] for name in SCORES}
    print(f"{'concept':<30}{'latent':>7}{'F1':>7}" + "".join(f"{name:>17}" for name in SCORES))
    for concept in args.concepts.split(","):
        lists = concept_prompts(concept, args.prompts)
        truth = search_prompts(panel.lm, sae, *lists, pool=args.pool, concept=concept, top=1).truth
        assert truth is not None
        print(
            f"{concept:<30}{truth.latent:>7}{truth.f1:>7.2f}" + "".join(f"{truth.ranks[name]:>17,}" for name in SCORES)
        )
        for name, rank in truth.ranks.items():
            ranks[name].append(rank)
    print(f"{'median':<44}" + "".join(f"{median(ranks[name]):>17g}" for name in SCORES))
    first = (f"{sum(rank <= 5 for rank in ranks[name])} of {len(ranks[name])}" for name in SCORES)
    print(f"{'among the first 5':<44}" + "".join(f"{text:>17}" for text in first))


if __name__ == "__main__":
    main()
