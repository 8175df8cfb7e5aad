"""Where a study's activations come from: planted features, or a site of a language model."""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from filelock import FileLock
from torch import Tensor

from kanary.activations.harvest import HarvestConfig, harvest
from kanary.activations.source import ActivationSource
from kanary.activations.store import ActivationStore
from kanary.activations.stored import StoredActivations
from kanary.config import from_mapping
from kanary.errors import KanaryError
from kanary.evaluation.dictionary import scipy_parts
from kanary.evaluation.measure import Measurement, measure
from kanary.evaluation.result import flat
from kanary.evaluation.standin import Spliced
from kanary.lab.recovery import FeatureMeans, Recovery, recovery
from kanary.lab.study.concepts import Judge
from kanary.lab.study.design import SettingDesign
from kanary.lab.synthetic import SyntheticActivations, SyntheticConfig
from kanary.lm import load_model
from kanary.sae import SAE
from kanary.text import TokenBatch, Windows, open_text
from kanary.training.config import TrainConfig

POOL = 65_536  # rows that are mixed before batches are drawn
WINDOWS = 16  # per forward
FOUND = 0.5  # F1 from which a latent stands for a feature
LOSSES = ("ce_loss_score", "ce_loss_score_mean", "kl_div_score", "ce_loss_increase", "top1_agreement")


class Setting(Protocol):
    """One set of activations, the same for every SAE of the study."""

    design: SettingDesign
    d_model: int

    @property
    def made_of(self) -> dict[str, str | None]:
        """What activations come from, by names and fingerprints that are the same on every machine."""
        ...

    @property
    def tuning(self) -> Tensor:
        """``[tokens, d_model]``, on which learning rates are chosen."""
        ...

    @property
    def report(self) -> Tensor:
        """``[tokens, d_model]``, other tokens, on which everything is reported."""
        ...

    def source(self, config: TrainConfig) -> ActivationSource:
        """To train on: the same batches in the same order for every SAE with the same ``data_seed``."""
        ...

    def numbers(self, sae: SAE, turning: Tensor | None) -> dict[str, float]:
        """What this setting alone can say of ``sae``; ``turning [d_sae]``: degrees by which its latents turn, if they can."""
        ...


def open_setting(design: SettingDesign, folder: Path, name: str, device: str) -> Setting:
    """The setting called ``name``, which keeps what it harvests in ``folder``."""
    return Real(design, folder / name, device) if design.real else Planted(design, device)


class Planted:
    """Synthetic features: what was planted is known."""

    def __init__(self, design: SettingDesign, device: str) -> None:
        scipy_parts()  # or its lack would be found when the first SAE is measured
        self.design, self.device = design, device
        self.config = from_mapping(SyntheticConfig, design.synthetic)
        self.d_model = self.config.d_model

    def source(self, config: TrainConfig) -> SyntheticActivations:
        pool = min(POOL, config.tokens)
        return SyntheticActivations(self.config, pool=pool, batch=config.batch, device=self.device)

    @property
    def made_of(self) -> dict[str, str | None]:
        return {}

    @cached_property
    def _features(self) -> SyntheticActivations:
        return SyntheticActivations(self.config, device=self.device)

    @cached_property
    def tuning(self) -> Tensor:
        return next(self._features.batches(self.design.tuning_tokens, stream="tuning"))[0]

    @cached_property
    def report(self) -> Tensor:
        return next(self._features.batches(self.design.report_tokens, stream="report"))[0]

    def numbers(self, sae: SAE, turning: Tensor | None) -> dict[str, float]:
        found = recovery(sae, self._features, self.design.report_tokens)
        match = found.directions
        kinds: Mapping[str, FeatureMeans] = {"straight": found.linear, "curved": found.curved}
        numbers = {
            "mcc": match.mcc.value,
            "mcc_chance": match.mcc.chance.value,
            "mmcs": match.a_in_b.value,
            "mmcs_chance": match.a_in_b.chance.value,
            "feature_f1": found.all.f1,
            "feature_auroc": found.all.auroc,
            "latents_per_feature": found.all.latents,
            "uniqueness": found.uniqueness,
            **{f"feature_f1_{kind}": means.f1 for kind, means in kinds.items()},
            **{f"latents_per_{kind}_feature": means.latents for kind, means in kinds.items()},
        }
        return numbers if turning is None else numbers | self._turning(found, turning)

    def _turning(self, found: Recovery, turning: Tensor) -> dict[str, float]:
        """By how many degrees latents turn that stand for features (F1 of at least half), curved ones and straight ones."""
        known = (found.scores.f1 >= FOUND) & (found.scores.latent >= 0)
        angles = turning[found.scores.latent.clamp_min(0)]
        return {
            # latents turn between the 10 % and 90 % quantiles of their codes; intensities are as likely everywhere
            "turning_planted": 0.8 * math.degrees(self.config.turn),
            "turning_of_curved_features": float(angles[known & found.is_curved].nanmean()),
            "turning_of_straight_features": float(angles[known & ~found.is_curved].nanmean()),
        }


class Real:
    """A site of a language model. The text held out is cut in two: what is reported comes first."""

    def __init__(self, design: SettingDesign, folder: Path, device: str) -> None:
        self.design, self.folder = design, folder
        self.lm = load_model(design.model, device=device)
        self.text = open_text(design.text)
        self.d_model = self.lm.width(design.site)

    def source(self, config: TrainConfig) -> StoredActivations:
        pool = min(POOL, self._store.n_tokens)
        return StoredActivations(
            self._store, pool=pool, batch=config.batch, seed=config.data_seed, overlap=False, device=self.lm.device
        )

    @cached_property
    def made_of(self) -> dict[str, str | None]:
        return {
            "model": Path(self.design.model).name,
            "text": Path(self.design.text).name,
            "model_fingerprint": self.lm.fingerprint,
            "text_fingerprint": self.text.fingerprint,
        }

    @cached_property
    def _store(self) -> ActivationStore:
        """Activations to train on, harvested once; another process that wants them waits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = HarvestConfig(
            model=self.design.model,
            text=self.design.text,
            site=self.design.site,
            window=self.design.window,
            lm_batch=WINDOWS,
            tokens=self.design.tokens,
            out=self.folder / "train",
        )
        with FileLock(self.folder / ".lock"):
            return harvest(config, self.lm, self.text, quiet=True)

    @cached_property
    def _held_out(self) -> tuple[list[TokenBatch], list[TokenBatch]]:
        """Windows to report on, and to tune on."""
        wanted = max(self.design.report_tokens, self.design.concept_tokens), self.design.tuning_tokens
        parts: tuple[list[TokenBatch], list[TokenBatch]] = ([], [])
        at = left = 0
        for batch in Windows(self.text, self.lm, window=self.design.window, batch=WINDOWS, part="heldout"):
            left = left or wanted[at]
            parts[at].append(batch)
            left = max(0, left - batch.n_tokens)
            at += left == 0
            if at == len(parts):
                return parts
        raise KanaryError(
            f"{self.text.name} holds out fewer than {sum(wanted):,} tokens to report on and to tune on: ask for fewer."
        )

    @cached_property
    def tuning(self) -> Tensor:
        return self._activations(self._held_out[1], self.design.tuning_tokens)

    @cached_property
    def report(self) -> Tensor:
        return self._activations(self._held_out[0], self.design.report_tokens)

    def _activations(self, batches: list[TokenBatch], tokens: int) -> Tensor:
        site, found = self.design.site, []
        for batch in batches:
            kept = ~batch.special.to(self.lm.device)
            found.append(self.lm.capture(batch.tokens.to(self.lm.device), [site])[site][kept].float())
            tokens -= len(found[-1])
            if tokens <= 0:
                break
        return torch.cat(found)

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self.lm, self.text, self.design.site, self.design.concept_tokens, self.design.window)

    def numbers(self, sae: SAE, turning: Tensor | None) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.design.loss_tokens:
            found |= self._losses(sae)
        if self.design.concept_tokens:
            found |= self._judge.numbers(sae)
        return found

    def _losses(self, sae: SAE) -> dict[str, float]:
        site = self.design.site
        measurement = Measurement(
            self.lm,
            {"sae": Spliced(site, sae)},
            {},
            {site: self.tuning.double().mean(0)},
            window=self.design.window,
        )
        tokens = self.design.loss_tokens
        found = measure(measurement, self._held_out[0], tokens=tokens, control_tokens=tokens)
        metrics = flat(found.rows["sae"])
        return {name: metrics[name].value for name in LOSSES if math.isfinite(metrics[name].value)}
