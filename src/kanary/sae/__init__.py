"""Sparse autoencoders: encoder, sparsifier and decoder, chosen separately, and the sparse codes between them."""

from kanary.sae.codes import SparseCodes
from kanary.sae.model import SAE, SAEConfig
from kanary.sae.parts import Active, Decoder, Encoder, Sparsifier, load_plugin, part

__all__ = ["SAE", "Active", "Decoder", "Encoder", "SAEConfig", "SparseCodes", "Sparsifier", "load_plugin", "part"]
