"""Kanary: see, test, steer and watch what a language model represents, with sparse autoencoders."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanary.activations.harvest import HarvestConfig, harvest
    from kanary.activations.store import ActivationStore
    from kanary.app.serve import serve
    from kanary.errors import KanaryError
    from kanary.evaluation.checks.check import check
    from kanary.evaluation.comparison.compare import compare
    from kanary.evaluation.evaluate import EvaluateConfig, evaluate
    from kanary.explain.explained import Explained
    from kanary.explain.job import explain_features
    from kanary.explain.options import ExplainConfig
    from kanary.features.build import index
    from kanary.features.index import FeatureIndex
    from kanary.features.options import IndexConfig
    from kanary.interventions.attribution import attribute
    from kanary.interventions.hunt import hunt
    from kanary.interventions.prompt_search import search_prompts
    from kanary.interventions.steer import steer
    from kanary.jobs import Run, train
    from kanary.lm import LanguageModel, load_model
    from kanary.sae import SAE, SAEConfig, SparseCodes, Sparsifier, load_plugin, part
    from kanary.text import open_text
    from kanary.training.config import TrainConfig, grid

__version__ = "0.1.0"

_HOMES = {
    "kanary.activations.harvest": ["HarvestConfig", "harvest"],
    "kanary.activations.store": ["ActivationStore"],
    "kanary.app.serve": ["serve"],
    "kanary.errors": ["KanaryError"],
    "kanary.evaluation.checks.check": ["check"],
    "kanary.evaluation.comparison.compare": ["compare"],
    "kanary.evaluation.evaluate": ["EvaluateConfig", "evaluate"],
    "kanary.explain.explained": ["Explained"],
    "kanary.explain.job": ["explain_features"],
    "kanary.explain.options": ["ExplainConfig"],
    "kanary.features.build": ["index"],
    "kanary.features.index": ["FeatureIndex"],
    "kanary.features.options": ["IndexConfig"],
    "kanary.interventions.attribution": ["attribute"],
    "kanary.interventions.hunt": ["hunt"],
    "kanary.interventions.prompt_search": ["search_prompts"],
    "kanary.interventions.steer": ["steer"],
    "kanary.jobs": ["Run", "train"],
    "kanary.lm": ["LanguageModel", "load_model"],
    "kanary.sae": ["SAE", "SAEConfig", "SparseCodes", "Sparsifier", "load_plugin", "part"],
    "kanary.text": ["open_text"],
    "kanary.training.config": ["TrainConfig", "grid"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [
    "SAE",
    "ActivationStore",
    "EvaluateConfig",
    "ExplainConfig",
    "Explained",
    "FeatureIndex",
    "HarvestConfig",
    "IndexConfig",
    "KanaryError",
    "LanguageModel",
    "Run",
    "SAEConfig",
    "SparseCodes",
    "Sparsifier",
    "TrainConfig",
    "attribute",
    "check",
    "compare",
    "evaluate",
    "explain_features",
    "grid",
    "harvest",
    "hunt",
    "index",
    "load_model",
    "load_plugin",
    "open_text",
    "part",
    "search_prompts",
    "serve",
    "steer",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used, so that ``import kanary`` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'kanary' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
