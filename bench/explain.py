"""How long it takes to explain features by rules and to give them every score that needs no language model.

    python bench/explain.py runs/first --features 1000 --json

The run needs an index. One pass reads ``--tokens`` of the index's text; then, feature by feature, evidence is drawn, a rule is
learned and scored: detection, fuzzing, intruder, simulation, examples, rubric. No controls. Target: under 60 s for 1,000
features of the demo's SAE on two quiet cores. Surprisal, for which the model reads every excerpt behind the explanation, is
measured apart, on ``--surprisal`` of the features: ``surprisal_ms`` for each.

``read_s`` is the pass, ``ms_per_feature`` the rest, in wall-clock time and, for a machine that is busy with other work, in
processor time of all threads (``_cpu``); ``total_s`` and ``total_cpu_s`` are those of the whole job but the model's loading.
``added_mb`` is what the job adds to the process' most memory after loading.
"""

import argparse
import asyncio
import json
import time

import numpy as np
from train_step import peak_mb

from kanary.evaluation.inputs import open_saes
from kanary.explain.controls import Judging
from kanary.explain.embedding import Embedding
from kanary.explain.evidence import gather
from kanary.explain.judges import EmbeddingJudge, RuleJudge
from kanary.explain.pool import Pool, Subject, read_pools
from kanary.explain.rule import RuleExplainer
from kanary.explain.scorers import Detection, Examples, Fuzzing, Intruder, RubricGrade, Simulation
from kanary.explain.surprisal import Surprisal
from kanary.explain.types import Failed
from kanary.explain.vocabulary import Vocabulary
from kanary.features.index import FeatureIndex
from kanary.features.lists import listed
from kanary.lm import load_model
from kanary.text.labelled.reader import labelled_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--model")
    parser.add_argument("--sae")
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--surprisal", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    index = FeatureIndex.open(given.run, given.sae)
    sae = open_saes(given.run)[str(index.meta["sae"]["name"])]
    lm = load_model(given.model or str(sae.config.trained_on["model"]))
    latents, alive = listed(index, f"alive:{given.features}"), index.columns()["fired"] > 0
    vocabulary = Vocabulary.of(tuple(index.text.tokens(np.arange(lm.vocab_size))), lm.special_ids)
    before = peak_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    labels = str(index.meta["text"]) if labelled_text(str(index.meta["text"])) else None
    subjects = [Subject(sae, latents, alive)]
    (pool,) = read_pools(index.text, index.meta["special_ids"], lm, subjects, labels=labels, tokens=given.tokens)
    read_wall, read_cpu = time.perf_counter() - wall, time.process_time() - cpu
    embedding = Embedding(["".join(row) for row in pool.text.tokens(np.maximum(pool.pieces.ids[::10], 0))])
    rule, words = RuleJudge(), EmbeddingJudge(embedding)
    judging = Judging(
        [
            (Detection(), rule),
            (Fuzzing(), rule),
            (Intruder(), words),
            (Simulation(), rule),
            (Examples(embedding), rule),
            (RubricGrade(), rule),
        ]
    )
    explained = asyncio.run(_all(latents, pool, RuleExplainer(vocabulary, pool.concepts), judging))
    total_wall, total_cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = {
        "features": len(latents),
        "explained": explained,
        "tokens": pool.tokens,
        "read_s": read_wall,
        "read_cpu_s": read_cpu,
        "ms_per_feature": 1000 * (total_wall - read_wall) / len(latents),
        "ms_per_feature_cpu": 1000 * (total_cpu - read_cpu) / len(latents),
        "total_s": total_wall,
        "total_cpu_s": total_cpu,
        "added_mb": peak_mb() - before,
    }
    if some := latents[:: max(1, len(latents) // given.surprisal)] if given.surprisal else []:
        wall, cpu = time.perf_counter(), time.process_time()
        only = Judging([(Surprisal(lm), rule)])
        asyncio.run(_all(some, pool, RuleExplainer(vocabulary, pool.concepts), only))
        found["surprisal_ms"] = 1000 * (time.perf_counter() - wall) / len(some)
        found["surprisal_ms_cpu"] = 1000 * (time.process_time() - cpu) / len(some)
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name:20} {value:,.1f}" for name, value in found.items()))


async def _all(latents: list[int], pool: Pool, explainer: RuleExplainer, judging: Judging) -> int:
    done = 0
    for latent in latents:
        evidence = gather(pool, latent)
        try:
            await judging.scores(await explainer.explain(evidence), evidence)
        except Failed:
            continue
        done += 1
    return done


if __name__ == "__main__":
    main()
