"""Language models: load one, name a place in it, read and write activations there."""

from kanary.lm.load import load_model
from kanary.lm.model import LanguageModel
from kanary.lm.replay import Trace, trace
from kanary.lm.sites import Site

__all__ = ["LanguageModel", "Site", "Trace", "load_model", "trace"]
