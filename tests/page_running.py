"""Made-up answers of a model that runs, for tests of the page: shapes as in docs/app.md."""

from __future__ import annotations

from typing import Any

WORDS = ["the", " keeper", " said", " that", " it", " would", " rain", "\n", " <b>no</b>", "\u202eabc"]


def rate(value: float, n: int = 40) -> dict[str, Any]:
    return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1), "n": n}


def watch(name: str) -> dict[str, Any]:
    measured = {
        "positives": 20,
        "negatives": 20,
        "auroc": rate(0.93),
        "detection": rate(0.8, 20),
        "false_alarms": rate(0.05, 20),
        "token_false_alarms": 0.002,
    }
    return {
        "format": 1,
        "name": name,
        "sae": "topk",
        "weights": [[12, 1.0], [30, -0.5]],
        "threshold": 2.0,
        "false_alarms": 0.05,
        "at_most": 0.139,
        "on_alarm": "log",
        "steer": [],
        "webhook": None,
        "chosen": measured,
        "measured": measured,
        "latency_ms": 9.5,
    }


def events(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """A steered text says other words; a watched one raises an alarm at its sixth word."""
    prompt = [{"text": "", "token": "<s>", "id": 0, "written": False}]
    words = [word.upper() for word in WORDS] if asked.get("edits") else WORDS
    count = min(int(asked["tokens"]), 400)
    said = [{"text": words[i % 10], "token": words[i % 10], "id": i, "written": True} for i in range(count)]
    for i, piece in enumerate(prompt + said):
        piece["values"] = dict.fromkeys(asked.get("watch", []), 3.0 if i == 6 else i % 4 / 2)
    for name in asked.get("watch", []):
        said[5]["alarms"] = [alarm(name)]
    end = {
        "end": "length",
        "rest": "",
        "problem": "",
        "record": "20261128-190000-0a1b" if asked.get("record") else None,
    }
    return [*prompt, *said, end]


def alarm(name: str) -> dict[str, Any]:
    return {"watch": name, "at": 5, "token": " would", "value": 3.0, "threshold": 2.0, "action": "log"}


def trace_row() -> dict[str, Any]:
    about = {"prompt": "It is said", "seed": 0, "temperature": 0.8, "model": "bundled"}
    watches = {"lying": {"threshold": 2.0, "weights": [[12, 1.0]], "on_alarm": "log"}}
    name, created = "20261128-190000-0a1b", "2026-11-28T19:00:00+0000"
    return {"name": name, "created": created, **about, "watches": watches, "tokens": 12, "alarms": 1, "ended": "length"}


def trace() -> dict[str, Any]:
    tokens = [
        {"token": word, "id": i, "written": i > 0, "values": {"lying": 3.0 if i == 6 else 0.5}}
        for i, word in enumerate(["<s>", *WORDS])
    ]
    return trace_row() | {"tokens": tokens, "alarms": [alarm("lying")]}


def sweep() -> dict[str, Any]:
    points = [
        {"strength": s, "presence": rate(min(0.9, s / 8)), "fluency": rate(1 - s / 10), "score": rate(s * (8 - s) / 20)}
        | {"loss": rate(0.5), "repetition": rate(0.02)}
        for s in (0.0, 1.0, 2.0, 4.0, 8.0)
    ]
    says = "feature 12: use +4 maxima (95 % of resamples: 2 to 4)."
    return {"target": "feature 12", "unit": "maximum", "measure": "share of tokens", "best": 4.0} | {
        "between": [2.0, 4.0],
        "says": says,
        "points": points,
    }


def swept() -> list[dict[str, Any]]:
    """Events of a sweep: how far it has come, then what it found."""
    return [*({"done": done, "of": 40} for done in (0, 5, 10, 20, 40)), {"found": sweep()}]


def attribution(prompt: str) -> dict[str, Any]:
    tokens = ["<s>", *[word if i == 0 else f" {word}" for i, word in enumerate(prompt.split(" "))]]
    credit = {"gradient": 0.4, "integrated": 0.35, "ablated": 0.3}
    rows = [{"latent": 12 + i, "position": 1 + i % (len(tokens) - 1), "value": 2.0, **credit} for i in range(20)]
    features = [
        {"latent": 12 + i, "tokens": 2, "position": 1, **credit, "integrated": (-1) ** i * (7 * i % 20) / 10}
        for i in range(20)
    ]
    top = [{"token": word, "id": i, "probability": 0.4 / (i + 1), "logit": 1.0} for i, word in enumerate(WORDS)]
    return {
        "tokens": tokens,
        "ids": list(range(len(tokens))),
        "special": [0],
        "position": len(tokens) - 1,
        "site": "resid_post.3",
        "where": "after block 4 of 6",
        "target": {"kind": "token", "token": " he", "id": 1, "against": None, "probability": 0.4, "rank": 1},
        "value": 5.0,
        "baseline": 1.0,
        "completeness": {"sum": 3.999, "total": 4.0, "error": -0.001, "steps": 32},
        "rows": rows,
        "features": features,
        "error": {**credit, "by_position": [[0.0, 0.1]] * len(tokens)},
        "positions": [[0.1, (-1) ** i * i / 5] for i in range(len(tokens))],
        "rest": {"gradient": 0.0, "integrated": 0.0, "pairs": 3},
        "predictions": top,
        "lens": [
            {
                "site": f"resid_post.{i}",
                "where": f"after block {i + 1} of 6",
                "probability": i / 6,
                "rank": 7 - i,
                "top": top[:3],
            }
            for i in range(6)
        ],
    }


def prompt_search() -> dict[str, Any]:
    scores = {"auroc": rate(0.9), "cohens_d": rate(0.8), "mean_difference": rate(0.7), "rank_share": rate(0.6)}
    strongest = {"prompt": 0, "tokens": ["<s>", *WORDS], "at": 4, "value": 3.0}
    found = [
        {"latent": 12 + i, "side": "positive" if i % 2 else "negative", "ranks": dict.fromkeys(scores, i + 1)}
        | {"chosen_on": dict.fromkeys(scores, 0.9), "held_out": scores}
        | {"fires": {"positive": 0.9, "negative": 0.1}, "strongest": strongest}
        for i in range(10)
    ]
    prompts = {side: {"chosen_on": 5, "held_out": 5} for side in ("positive", "negative")}
    left_out = [{"latent": 3, "why": "always on", "says": "fires at 93 % of all tokens", "would_rank": {}}]
    return {"pool": "max", "prompts": prompts, "scores": [*scores], "found": found, "left_out": left_out} | {
        "control": rate(0.55),
        "truth": None,
    }
