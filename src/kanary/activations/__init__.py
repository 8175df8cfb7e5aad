"""Activations of a language model: harvested on the fly or kept on disk, handed out as shuffled pools."""
