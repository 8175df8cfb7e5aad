"""The training loop: pools to batches, every batch to every SAE, checkpoints on the way."""

import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple, TypeVar

from kanary.activations.source import ActivationSource
from kanary.errors import KanaryError
from kanary.sae.model import SAE
from kanary.training import checkpoint
from kanary.training.checkpoint import Place
from kanary.training.config import TrainConfig
from kanary.training.learner import Learner, StepStats, begin
from kanary.training.logs import Logger

T = TypeVar("T")
Ending = Literal["finished", "budget", "interrupted"]
Show = Callable[[int, Mapping[str, StepStats]], None]
SAMPLE = 32_768  # tokens from which the standardisation and b_dec are learned


class Fitted(NamedTuple):
    """How a sitting ended."""

    ending: Ending
    step: int  # steps done in all
    learners: dict[str, Learner]


def fit(
    configs: Mapping[str, TrainConfig],
    source: ActivationSource,
    run: Path,
    loggers: Sequence[Logger] = (),
    *,
    trained_on: Mapping[str, Any] | None = None,
    budget: float | None = None,
    show: Show | None = None,
) -> Fitted:
    """Trains every SAE in ``configs`` on one stream, from the last checkpoint in ``run`` if there is one.

    Args:
        configs: name -> what to train; they agree in everything but the SAE (see ``config.grid``).
        source: of activations; the same source and start give the same pools.
        trained_on: kept with the SAEs.
        budget: seconds after which to stop.
        show: called after every step.

    Raises:
        KanaryError: NaN or infinity (with step, batch and last good checkpoint), a damaged checkpoint, a full disk.
    """
    config = next(iter(configs.values()))
    learners = make_learners(configs, source, trained_on or {})
    place = _place(run, learners)
    deadline = None if budget is None else time.monotonic() + budget
    every = max(1, (config.checkpoint or config.tokens // 10) // config.batch)
    started, before = time.monotonic(), place.seconds
    with _stoppable() as stopped, closing(_batches(source, config, place, learners)) as batches:
        while place.step < config.steps:
            x, pool, number = _next(batches, place.step, run)
            stats = _step_all(learners, x, place.step, pool, number, run)
            place = Place(place.step + 1, pool, number + 1, before + time.monotonic() - started)
            for logger in loggers:
                _log(logger, place, config, stats)
            if show:
                show(place.step, stats)
            ending: Ending | None = "interrupted" if stopped() else None
            if deadline is not None and time.monotonic() >= deadline and place.step < config.steps:
                ending = ending or "budget"
            if ending or place.step % every == 0 or place.step == config.steps:
                _save(run, learners, place)
            if ending:
                return Fitted(ending, place.step, learners)
    return Fitted("finished", place.step, learners)


def make_learners(
    configs: Mapping[str, TrainConfig], source: ActivationSource, trained_on: Mapping[str, Any]
) -> dict[str, Learner]:
    """A learner for every config; its SAE has the width of its site."""
    learners = {}
    for name, config in configs.items():
        site = config.site or source.sites[0]
        known = {**trained_on, "site": site, "seed": config.seed, "recipe": config.recipe}
        sae = SAE(config.sae_config(source.widths[site], known))
        learners[name] = Learner(sae.to(source.device), config)
    return learners


def _place(run: Path, learners: Mapping[str, Learner]) -> Place:
    newest = checkpoint.last(run)
    return checkpoint.load(newest, learners) if newest else Place(0, None, 0, 0.0)


def _batches(
    source: ActivationSource, config: TrainConfig, place: Place, learners: Mapping[str, Learner]
) -> Generator[tuple[Mapping[str, Any], dict[str, Any], int], None, None]:
    """(activations by site, state of their pool, number of the batch in the pool), from ``place`` on."""
    skip = place.batch
    for pool in source.pools(place.pool):
        if place.step == 0 and pool.index == 0:
            for learner in learners.values():
                begin(learner.sae, pool.x[learner.site][:SAMPLE], learner.config.bias_start, learner.config.seed)
        for number, batch in enumerate(pool.batches(config.batch, config.data_seed, start=skip), start=skip):
            yield batch.x, pool.state, number
        skip = 0
    raise KanaryError("The activations ended before training did; harvest more, or ask for fewer tokens.")


def _step_all(
    learners: Mapping[str, Learner], x: Mapping[str, Any], step: int, pool: Mapping[str, Any], number: int, run: Path
) -> dict[str, StepStats]:
    stats = {}
    for name, learner in learners.items():
        try:
            stats[name] = learner.step(x[learner.site], step)
        except FloatingPointError as error:
            raise KanaryError(
                f"Training of {name} broke down at step {step + 1}, batch {number} of pool {pool.get('pool', '?')}: "
                f"{error}. {_last_good(run)} Try a lower --lr or --clip."
            ) from error
    return stats


def _next(batches: Generator[T, None, None], step: int, run: Path) -> T:
    """The next batch; what is wrong with it (NaN activations, a damaged shard) is said with step and checkpoint."""
    try:
        return next(batches)
    except KanaryError as error:
        raise KanaryError(f"Training stopped before step {step + 1}: {error} {_last_good(run)}") from error


def _save(run: Path, learners: Mapping[str, Learner], place: Place) -> None:
    try:
        checkpoint.save(run, learners, place)
    except FloatingPointError as error:
        raise KanaryError(
            f"Training broke down at step {place.step}, batch {place.batch - 1} of pool "
            f"{(place.pool or {}).get('pool', '?')}: {error}. {_last_good(run)} Try a lower --lr or --clip."
        ) from error


def _last_good(run: Path) -> str:
    newest = checkpoint.last(run)
    return f"The last good checkpoint is {newest}." if newest else "There is no checkpoint yet."


def _log(logger: Logger, place: Place, config: TrainConfig, stats: Mapping[str, StepStats]) -> None:
    for name, values in stats.items():
        logger.log(
            place.step,
            name,
            {"tokens": place.step * config.batch, "seconds": round(place.seconds, 3), **values._asdict()},
        )


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Lets Ctrl-C and a polite kill end the loop after the step; the second Ctrl-C ends it at once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print(
            "\nStopping after this step. Press again to stop at once, without saving.",
            file=sys.stderr,
        )

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals go elsewhere
        old = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
