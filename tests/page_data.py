"""What a server would send to the page: features, lists and numbers, drawn at random from a seed, in the API's own shape."""

import random
from typing import Any

SUBJECTS = [
    "The old lighthouse keeper",
    "A small grey cat",
    "Maria",
    "The weather report",
    "Our neighbour",
    "The engineer",
]
VERBS = ["said", "believed", "wrote", "promised", "repeated", "noticed"]
ENDS = [
    "that it would rain on Tuesday, and nobody doubted it.",
    "that the bridge was safe, which was not true.",
    "nothing for a while; then the phone rang again.",
    "in a low voice: the keys are under the third stone.",
    "every number twice, because the first list was lost.",
]
LABELS = [
    "rain and storms",
    "statements that are not true",
    "numbers in lists",
    None,
    "names of people",
    "ends of sentences",
]
CONCEPTS = ["weather.rain", "honesty.lie", "numbers.list", "people.name", "code.loop"]
NEXT = [
    " rain",
    " storm",
    " wet",
    " cloud",
    " true",
    " false",
    " never",
    " Tuesday",
    " bridge",
    " again",
    " first",
    " keys",
    " it",
]
WIDTH, TOKENS, WINDOW = 2048, 1_000_000, 128
L0 = {
    "tokens": TOKENS, "mean": 15.8, "p5": 11, "median": 16, "p95": 21, "edges": list(range(4, 26, 2)),
    "counts": [900, 4100, 20_000, 95_000, 210_000, 290_000, 230_000, 120_000, 0, 30_000],
}  # fmt: skip
HOSTILE = [
    "<script>window.hacked=1</script>", "<img src=x onerror=window.hacked=1>", "</script>", "&lt;b&gt;", "\u202edrawkcab",
    "\u200b", "\u0000", "\u001b[31m", "\n", "\t", "⟨e2⟩", "שלום", "مرحبا", "\u2028", "\ufeff", "{@html}", "${x}", '"\'`',
]  # fmt: skip
SAE = {
    "run": "runs/demo", "name": "topk", "digest": "5f1c" * 16, "model": "bundled", "site": "resid_post.3",
    "where": "after block 4 of 6",
}  # fmt: skip


def words(rng: random.Random, n: int) -> list[str]:
    """``n`` tokens of made-up prose, some words in two pieces."""
    tokens: list[str] = []
    while len(tokens) < n:
        sentence = f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(ENDS)}"
        for i, word in enumerate(sentence.split(" ")):
            piece = word if i == 0 and not tokens else " " + word
            tokens += [piece[:5], piece[5:]] if len(piece) > 9 else [piece]
        tokens.append("\n") if rng.random() < 0.15 else None
    return tokens[:n]


def example(rng: random.Random, at: int, value: float, hostile: bool) -> dict[str, Any]:
    tokens = ["<s>", *words(rng, WINDOW - 1)]
    focus = rng.choice([0 + 1, WINDOW - 1]) if rng.random() < 0.06 else rng.randrange(8, WINDOW - 8)
    if hostile:
        for i in range(3, WINDOW, 3):
            tokens[i] = HOSTILE[(i // 3) % len(HOSTILE)]
        tokens[focus] = HOSTILE[at % len(HOSTILE)]
    spread = rng.sample(range(1, WINDOW), 9)
    activations = {i: round(value * rng.random() ** 2, 4) for i in spread} | {focus: value}
    effects = {i: round(rng.gauss(0, 0.12), 3) for i in rng.sample(range(1, WINDOW), 6)}
    effects |= {min(WINDOW - 1, focus + 1): round(rng.gauss(0.05, 0.2), 3)}
    return {
        "window": rng.randrange(7000), "document": rng.randrange(9000), "position": rng.randrange(300), "focus": focus,
        "value": value, "tokens": tokens, "special": [0], "starts": [60] if rng.random() < 0.2 and focus != 60 else [],
        "activations": sorted([i, v] for i, v in activations.items() if v > 0),
        "effects": sorted([i, e] for i, e in effects.items() if abs(e) >= 0.01),
        "repeats": [], "in": [],
    }  # fmt: skip


def histogram(rng: random.Random, low: float, high: float, total: int, bins: int = 50) -> dict[str, list[float]]:
    weights = [rng.uniform(0.6, 1) * 2.718 ** (-7 * i / bins) for i in range(bins)]
    counts = [int(total * w / sum(weights)) for w in weights]
    return {"edges": [low + (high - low) * i / bins for i in range(bins + 1)], "counts": counts}


def feature(latent: int, *, run: str = "runs/demo", name: str = "topk", hostile: bool = False) -> dict[str, Any]:
    """Feature ``latent``: 70 examples; one in ten is dead, 7 is dense."""
    rng = random.Random(f"{name}/{latent}")
    dead = latent % 10 == 9
    fired = 0 if dead else 182_000 if latent == 7 else rng.randrange(900, 40_000)
    maximum = (not dead) * round(rng.uniform(5, 14), 3)
    values = sorted([maximum * (1 - rng.random() ** 2 / 6) for _ in range(19)] + [maximum], reverse=True)
    values += [maximum * (i + rng.uniform(0.05, 0.98)) / 10 for i in range(10) for _ in range(5)]
    examples = [] if dead else [example(rng, i, round(v, 4), hostile) for i, v in enumerate(values)]
    lists: list[list[int]] = [list(range(20 + 5 * i, 25 + 5 * i)) for i in range(10)]
    for i, shown in enumerate(examples):
        shown["in"] = ["top"] if i < 20 else [(i - 20) // 5]
    if examples:  # the third is also drawn for the tenth interval; the first, fifth and twelfth repeat each other
        lists[9][0] = 2
        examples[2]["in"].append(9)
        examples[65]["in"].remove(9)  # in its place
        for i in (0, 4, 11):
            examples[i]["repeats"] = [j for j in (0, 4, 11) if j != i]
    hist = histogram(rng, 0.0, maximum, fired)
    counts = [sum(hist["counts"][5 * i : 5 * i + 5]) for i in range(10)]
    label = LABELS[latent % len(LABELS)]
    scores = [
        {"name": "detection", "value": 0.86, "low": 0.79, "high": 0.91, "n": 100, "chance": 0.5},
        {"name": "intruder", "value": 0.74, "low": 0.66, "high": 0.81, "n": 100, "chance": 0.2},
        {"name": "simulation", "value": 0.31, "low": -0.04, "high": 0.6, "n": 30, "chance": 0.0},
        {"name": "rubric", "value": 4.0, "low": None, "high": None, "n": 1, "chance": None},
    ]
    return {
        "latent": latent, "d_sae": WIDTH, "label": label, "sae": SAE | {"run": run, "name": name},
        "tokens": TOKENS, "fired": fired, "density": fired / TOKENS, "maximum": maximum,
        "mean_active": None if dead else round(maximum / 6, 3), "histogram": hist, "examples": examples,
        "top": list(range(20)) if examples else [],
        "intervals": [
            {"low": maximum * i / 10, "high": maximum * (i + 1) / 10, "count": int(counts[i]),
             "share": counts[i] / max(1, fired), "examples": lists[i] if examples else []} for i in range(10)
        ],
        "logits": logits(rng, hostile) | {"near": {t: weight(t) for e in examples for t in around(e)}},
        "neurons": {
            "kind": "MLP neurons of block 3",
            "aligned": [{"neuron": rng.randrange(512), "cosine": c} for c in (0.41, -0.33, 0.29)],
            "correlated": [{"neuron": rng.randrange(512), "correlation": c} for c in (0.62, 0.44, 0.31)],
        },
        "features": {
            "correlated": [{"latent": rng.randrange(WIDTH), "correlation": c, "exact": c > 0.4} for c in (0.58, 0.44, 0.2)],
            "similar": [{"latent": rng.randrange(WIDTH), "cosine": c} for c in (0.71, 0.52, 0.48)],
        },
        "twins": [] if dead else [
            {"run": "runs/demo", "sae": "topk-s1", "latent": rng.randrange(WIDTH), "cosine": 0.91, "correlation": 0.88},
            {"run": "runs/elsewhere", "sae": "wide", "latent": rng.randrange(WIDTH), "cosine": 0.66, "correlation": None},
        ],
        "functions": [curve(rng, maximum)] if latent % 2 == 0 else [],
        "concepts": [{"concept": c, "f1": 0.9 - 0.2 * i, "auroc": 0.97 - 0.1 * i, "n": 240 - 30 * i}
                     for i, c in enumerate(rng.sample(CONCEPTS, 3))],
        "explanation": None if label is None else {
            "text": f"Fires on {label}, most strongly where the sentence says so in plain words.", "title": label,
            "by": "rule", "scores": scores},
        "human": {"text": "rain that is announced", "edited": "2026-11-28T12:00:00Z"} if latent == 3 else None,
    }  # fmt: skip


def logits(rng: random.Random, hostile: bool) -> dict[str, Any]:
    texts = HOSTILE if hostile else NEXT

    def listed(sign: int) -> list[dict[str, Any]]:
        values = sorted((round(rng.uniform(0.3, 1.4), 3) for _ in range(10)), reverse=True)
        return [
            {"token": t, "id": texts.index(t), "value": sign * v}
            for t, v in zip(rng.sample(texts, 10), values, strict=True)
        ]

    positive, negative = listed(1), listed(-1)
    bins = 40
    edges = [-1 + 2.5 * i / bins for i in range(bins + 1)]
    counts = [int(900 * 2.718 ** (-(((edges[i] + edges[i + 1]) / 2 / 0.25) ** 2) / 2)) for i in range(bins)]
    return {"positive": positive, "negative": negative, "mean": 0.0, "std": 0.25, "skewness": 0.31, "kurtosis": 4.2,
            "histogram": {"edges": edges, "counts": counts}}  # fmt: skip


def around(example: dict[str, Any]) -> list[str]:
    """The token of an example and the four on either side of it."""
    found: list[str] = example["tokens"][max(0, example["focus"] - 4) : example["focus"] + 5]
    return found


def weight(token: str) -> float:
    """A made-up logit weight between -1 and 1, always the same for a token."""
    return round(sum(map(ord, token)) % 211 / 105.5 - 1, 3)


def curve(rng: random.Random, maximum: float) -> dict[str, Any]:
    x = [maximum * i / 60 for i in range(61)]
    y = [v + 0.6 * maximum * (v / maximum) ** 3 - 0.2 * maximum * (v / maximum) for v in x]
    return {
        "part": "decoder", "name": "kan-bend", "says": "how far the feature moves along its direction as it fires",
        "x": x, "y": y, "straight": [0.0] * len(x), "range": [0.0, maximum], "density": histogram(rng, 0.0, maximum, 4000, 30),
        "formula": {"text": "0.8 a + 0.004 a³", "r2": 0.998, "low": 0.0, "high": maximum * 0.8}, "turns": 23.5,
        "tokens_along": [{"at": 1.0, "tokens": [" rain", " wet"]}, {"at": maximum * 0.8, "tokens": [" storm", " flood"]}],
    }  # fmt: skip


def sae(
    run: str, name: str, kind: str, l0: float, ev: float, *, indexed: bool = True, decoder: str = "linear"
) -> dict[str, Any]:
    def around(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.004, "high": value + 0.004, "n": 52_869}

    return {
        "id": f"{run}/{name}", "name": name, "kind": kind, "encoder": "linear", "decoder": decoder, "width": WIDTH,
        "site": "resid_post.3", "where": "after block 4 of 6", "model": "bundled", "l0": l0, "ev": around(ev),
        "ce_score": around(ev + 0.017), "dead": 0.095, "indexed": indexed, "digest": "5f1c" * 16, "seed": 0,
    }  # fmt: skip


def runs() -> list[dict[str, Any]]:
    demo = [sae("demo", "topk", "topk", 16, 0.942), sae("demo", "topk-s1", "topk", 16, 0.941),
            sae("demo", "jumprelu", "jumprelu", 18.2, 0.951), sae("demo", "topk-k32", "topk", 32, 0.968)]  # fmt: skip
    kan = [sae("kan", "bend-k16", "topk", 16, 0.947, decoder="kan-bend"), sae("kan", "relu", "relu", 24.5, 0.946),
           sae("kan", "gated-k32", "gated", 31.7, 0.961, indexed=False)]  # fmt: skip
    return [{"id": "demo", "folder": "runs/demo", "saes": demo}, {"id": "kan", "folder": "runs/kan", "saes": kan}]


def meta(name: str = "topk") -> dict[str, Any]:
    return {
        "format": 1, "sae": SAE | {"name": name}, "text": "labelled", "part": "heldout", "tokens": TOKENS, "documents": 9000,
        "windows": 7813, "window": WINDOW, "seed": 0, "created": "2026-11-28T12:00:00Z", "dead": WIDTH // 10, "kanary": "0.1.0",
        "files": {}, "l0": L0,
    }  # fmt: skip


def moments() -> dict[str, Any]:
    rng = random.Random(1)
    kurtosis = [None if i % 10 == 9 else round(3 + rng.expovariate(0.5) ** 2, 3) for i in range(WIDTH)]
    return {
        "std": [round(rng.uniform(0.1, 0.4), 3) for _ in range(WIDTH)],
        "skewness": [round(rng.gauss(0.5, 1), 3) for _ in range(WIDTH)],
        "kurtosis": kurtosis,
    }


def columns() -> dict[str, Any]:
    rng = random.Random(0)
    centres = [(rng.gauss(0, 3), rng.gauss(0, 3)) for _ in range(12)]
    middle = [centres[i % 12] for i in range(WIDTH)]
    return {
        "density": [0.0 if i % 10 == 9 else round(10 ** rng.uniform(-4, -1), 6) for i in range(WIDTH)],
        "maximum": [0.0 if i % 10 == 9 else round(rng.uniform(5, 14), 3) for i in range(WIDTH)],
        "label": [LABELS[i % len(LABELS)] for i in range(WIDTH)],
        "best_concept": [rng.choice(CONCEPTS) for _ in range(WIDTH)],
        "score": [round(rng.uniform(0.5, 0.95), 3) if i % 3 else None for i in range(WIDTH)],
        "x": [round(m[0] + rng.gauss(0, 0.6), 3) for m in middle], "y": [round(m[1] + rng.gauss(0, 0.6), 3) for m in middle],
    }  # fmt: skip


def row(latent: int, known: dict[str, Any]) -> dict[str, Any]:
    return {
        "latent": latent, "label": known["label"][latent], "density": known["density"][latent],
        "maximum": known["maximum"][latent], "score": known["score"][latent], "concept": known["best_concept"][latent],
        "f1": None if known["best_concept"][latent] is None else 0.364,
        "cosine": None, "fires_on": [" rain", "it"] if latent % 2 == 0 else [],
    }  # fmt: skip
