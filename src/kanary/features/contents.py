"""From what was read to what an index holds."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kanary.evaluation.inputs import Inputs
from kanary.features.arrays import Array, Arrays, write_arrays
from kanary.features.concepts import concept_columns
from kanary.features.correlation import Text, correlated
from kanary.features.effects import Effects, strongest
from kanary.features.examples import Pairs, Ragged, pairs_of, traces, write_examples
from kanary.features.index import COLUMNS, EXAMPLES, FUNCTIONS, TEXT
from kanary.features.learned import Read, function_arrays
from kanary.features.neurons import Neurons
from kanary.features.options import IndexConfig
from kanary.features.reading import Pass
from kanary.features.selection import BINS, Chosen, Selection, Totals
from kanary.features.sparsity import Sparsity
from kanary.features.text import Text as SavedText
from kanary.features.text import write_text
from kanary.features.twins import Twin, twin_columns
from kanary.features.vocabulary import token_bytes
from kanary.features.weights import logit_columns
from kanary.features.weights import nearest as nearest_directions
from kanary.progress import bar
from kanary.text.labelled.reader import LabelledText

NEAR = 3
"""Latents that are shown as most correlated, and as most similar."""


class Contents:
    """Everything that is in the index of one SAE, worked out from the codes on disk."""

    def __init__(
        self,
        inputs: Inputs,
        read: Pass,
        twins: Sequence[Twin],
        neurons: Neurons,
        learned: Read,
        config: IndexConfig,
        quiet: bool,
    ) -> None:
        self.inputs, self.read, self.twins, self.neurons, self.learned = inputs, read, twins, neurons, learned
        self.config, self.quiet = config, quiet
        self.lm, self.sae, self.window = inputs.lm, read.sae, read.reading.window
        self.about: dict[str, Any] = {}
        """What the index says of itself beyond its inputs."""

    def write(self, folder: Path) -> None:
        """Writes every file but the last, which says what the index is of."""
        traced = self.traces.rows(self.pairs.of)
        effects = self.effects.rows(self.pairs.of)
        write_examples(folder / EXAMPLES, self.chosen, self.window, self.sae.d_sae, traced, effects)
        vocabulary = token_bytes(self.lm)
        done = self.read.progress
        documents = write_text(folder / TEXT, self.read.chunks, done.windows, self.window, vocabulary)
        self.about |= {"documents": documents, "dead": int((self.totals.fired == 0).sum())}
        write_arrays(folder / COLUMNS, self._columns(self._near(SavedText(folder / TEXT, sorted(self.lm.special_ids)))))
        with bar("naming the functions", self.sae.d_sae, "functions", self.quiet) as show:
            parts, arrays = function_arrays(self.sae, self.lm, self.learned.result(), show)
        self.about["functions"] = parts
        if parts:
            write_arrays(folder / FUNCTIONS, arrays)

    # --- what is shown ----------------------------------------------------------------------------------------------

    @cached_property
    def totals(self) -> Totals:
        totals, sparsity = Totals(self.sae.d_sae), Sparsity(self.sae.d_sae, self.lm.special_ids)
        for chunk in self.read.chunks():
            totals.add(chunk)
            sparsity.add(chunk)
        self.about["l0"] = dataclasses.asdict(sparsity.result())
        return totals

    @cached_property
    def selection(self) -> Selection:
        selection = Selection(self.totals.maximum, self.config.per_interval, self.config.seed)
        for chunk in self.read.chunks():
            selection.add(chunk)
        return selection

    @cached_property
    def chosen(self) -> Chosen:
        return self.selection.result()

    @cached_property
    def pairs(self) -> Pairs:
        return pairs_of(self.chosen, self.window)

    @cached_property
    def traces(self) -> Ragged:
        return traces(self.pairs, self.read.chunks())

    # --- what the model does without a latent -----------------------------------------------------------------------

    @cached_property
    def effects(self) -> Ragged:
        """Of every pair; nothing for those that were not asked for. Every chunk's are kept until the index is written."""
        alive = int((self.totals.fired > 0).sum())
        most = self.config.shown_effects(self.read.progress.tokens, alive, self.window)
        wanted = np.arange(len(self.pairs.of)) if most is None else strongest(self.chosen, self.pairs, most)
        wanted = np.unique(self.pairs.of) if most is None else wanted
        self.about["effects"] = "all" if most is None else most
        work = Effects(self.lm, self.sae, self.pairs, self.traces)
        found: list[tuple[NDArray[np.int64], Ragged]] = []
        with bar("removing latents", len(wanted), "windows", self.quiet) as show:
            for number, chunk in enumerate(self.read.chunks()):
                windows = self.pairs.windows[wanted] - chunk.first
                here = wanted[(windows >= 0) & (windows < len(chunk.tokens))]
                path = self.read.folder / f"effects-{number:05}.safetensors"
                if path.exists():
                    show(len(here))
                else:
                    effects = work.of(chunk, here, show)
                    write_arrays(path, effects._asdict())
                stored = Arrays(path)
                found.append((here, Ragged(*(stored[name] for name in Ragged._fields))))
        return Ragged.placed(len(self.pairs.latents), found)

    # --- a number or a few for every latent --------------------------------------------------------------------------

    def _near(self, text: SavedText) -> list[Array]:
        """Of every latent, the tokens near the examples that are shown of it."""
        ends = np.searchsorted(self.chosen.latents, np.arange(self.sae.d_sae + 1))
        windows, focus = np.divmod(self.chosen.places, self.window)
        return [text.near(windows[a:b], focus[a:b]) for a, b in pairwise(ends.tolist())]

    def _columns(self, near: list[Array]) -> dict[str, Array]:
        totals = self.totals
        sums = torch.from_numpy(totals.total), torch.from_numpy(totals.squares)
        self.about |= {"neurons": self.neurons.kind, "neurons_correlated": self.neurons.counts}
        columns: dict[str, Array] = {
            "fired": totals.fired,
            "maximum": totals.maximum,
            "total": totals.total,
            "histogram": self.selection.histogram.reshape(-1, BINS).astype(np.int32),
            **self.neurons.columns(*sums),
            **self._neighbours(),
            **self._concepts(),
        }
        with bar("reading the weights", self.sae.d_sae, "latents", self.quiet) as show:
            return columns | logit_columns(self.sae, self.lm, near, show=show)

    def _neighbours(self) -> dict[str, Array]:
        special = sorted(self.lm.special_ids)
        similar, cosines = nearest_directions(self.sae.W_dec, self.sae.W_dec, NEAR, itself=True)
        size = self.sae.d_sae
        r = correlated(Text(self.read.chunks, 0, 0, special), (size, size), NEAR, itself=True)
        self.about["correlated"] = {"exact": r.exact, "tokens": r.tokens}
        self.about["twins"] = [{"run": twin.run, "sae": twin.name, "digest": twin.sae.digest()} for twin in self.twins]
        return {
            "similar": similar,
            "similar_cosines": cosines,
            "correlated": r.latents,
            "correlated_correlations": r.values,
            **twin_columns(self.sae, self.twins, self.read.chunks, special),
        }

    def _concepts(self) -> dict[str, Array]:
        self.about["concepts"] = []
        if not self.config.concept_tokens or not isinstance(self.inputs.text.readers[0], LabelledText):
            return {}
        reading, tokens = self.read.reading, self.config.concept_tokens
        with bar("reading concepts", tokens, "tok", self.quiet) as show:
            names, columns = concept_columns(
                self.sae,
                self.lm,
                self.inputs.text,
                tokens=tokens,
                show=show,
                window=reading.window,
                lm_batch=reading.lm_batch,
                part=reading.part,
                seed=self.config.seed,
            )
        self.about["concepts"] = names
        return columns
