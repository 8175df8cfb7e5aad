"""Which estimate predicts what taking a feature out does, and what an attribution costs.

    OMP_NUM_THREADS=1 python bench/attribution.py runs/first --prompts 20

Every prompt is the first ``--tokens`` tokens of a held-out passage of the labelled corpus; the target is the model's
likeliest next token. All pairs of feature and token are taken out, one by one, and both estimates are held against that:
Spearman's correlation over the pairs, and the share of the 20 pairs with the largest true effect that are among the 20 of the
estimate. Completeness is the error of the integrated credits' sum, relative to the change that they add up to.

Cost: ``attribute`` with its defaults (32 steps, 20 pairs and 20 features taken out), in processor seconds, by the model's
bare forward pass over the same prompt. Median over the prompts, and the middle half of them.
"""

import argparse
import json
import time
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from kanary.interventions.attribution import attribute
from kanary.interventions.prompts import prompt_ids
from kanary.interventions.steerable import Steerable
from kanary.text.labelled import labelled

BEST = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--sae", default=None, help="name of the SAE, where the run has several")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24)
    args = parser.parse_args()
    panel = Steerable.open(args.run)
    sae = panel.saes[panel.name(args.sae)]
    rows: dict[str, list[float]] = {}
    for record in islice(labelled(start=19), 0, args.prompts * 20, 20):
        ids = panel.lm.tokenizer(record.text, add_special_tokens=False)["input_ids"][: args.tokens]
        prompt = panel.lm.tokenizer.decode(ids)
        every = attribute(panel.lm, sae, prompt, exact=10**6, top=10**6)
        gradient, integrated, ablated = np.array([each.credit for each in every.rows], dtype=np.float64).T
        found = {
            "spearman_gradient": spearman(gradient, ablated),
            "spearman_integrated": spearman(integrated, ablated),
            "best_20_gradient": overlap(gradient, ablated),
            "best_20_integrated": overlap(integrated, ablated),
            "completeness_error": abs(every.completeness.error / every.completeness.total),
            "x_forward": cost(lambda prompt=prompt: attribute(panel.lm, sae, prompt))
            / cost(lambda prompt=prompt: panel.lm.logits(prompt_ids(panel.lm, prompt)[None]), times=20),
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(float(value))
    quartiles = {name: [float(np.quantile(values, q)) for q in (0.25, 0.5, 0.75)] for name, values in rows.items()}
    print(
        json.dumps({"prompts": args.prompts, "site": sae.config.trained_on["site"], "quartiles": quartiles}, indent=1)
    )


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    ranks = [np.argsort(np.argsort(each)).astype(np.float64) for each in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    best = [set(np.argsort(-np.abs(each))[:BEST].tolist()) for each in (a, b)]
    return len(best[0] & best[1]) / min(BEST, len(a))


def cost(call: object, times: int = 1) -> float:
    """Processor seconds of a call."""
    assert callable(call)
    call()
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
