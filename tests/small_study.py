"""The design of a study that takes a few seconds."""

from typing import Any

SMALL: dict[str, Any] = {
    "seeds": [0, 1],
    "confirm": [2, 3],
    "tuning": {"rates": [1.0, 2.0], "share": 0.5},
    "decides": ["parameters", "flops"],
    "settings": {
        "a": {
            "title": "planted",
            "synthetic": {"features": 24, "d_model": 16, "active": 3, "curved": 0.5, "noise": 0.05},
            "width": 32,
            "l0": [4],
            "tokens": 512,
            "batch": 64,
            "report_tokens": 512,
            "tuning_tokens": 256,
        }
    },
    "controls": {
        "width": {"of": "linear"},
        "parameters": {"of": "linear", "solve": "width"},
        "flops": {"of": "linear", "solve": "width", "equal": "flops"},
        "bits": {"of": "linear", "solve": "width", "bits": True},
        "mlp": {"of": "mlp", "solve": "hidden"},
        "blocks": {"of": "blocks", "solve": "width"},
    },
    "families": {
        "linear": {},
        "mlp": {"encoder": "mlp"},
        "blocks": {"sparsifier": "blocks"},
        "kan-bend": {
            "encoder": "linear",
            "decoder": "kan-bend",
            "kan": True,
            "against": ["width", "parameters", "flops", "bits", "mlp", "blocks"],
        },
    },
    "matched": {"settings": ["a"], "sparsifiers": ["batchtopk"], "targets": [4]},
    "questions": [{"ask": "Do curves help?", "families": ["kan-bend"], "against": ["width", "blocks"]}],
}
