"""One description of a job is Python, YAML and the command line at once."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kanary.activations.harvest import HarvestConfig
from kanary.config import coerce, dump_yaml, from_mapping, parse_count, parse_seconds, read_yaml, to_mapping
from kanary.errors import KanaryError
from kanary.sae.parts import DECODERS, ENCODERS, import_parts
from kanary.training.config import TrainConfig, grid, names, replaced, shared_values

ANYTHING = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers()))


@given(st.integers(0, 10**15))
def test_a_plain_count_is_itself(n: int) -> None:
    assert parse_count(n) == parse_count(str(n)) == parse_count(f" {n:_} ") == n


@given(st.integers(0, 10**6), st.sampled_from([("K", 10**3), ("M", 10**6), ("B", 10**9), ("G", 10**9), ("T", 10**12)]))
def test_units_multiply_exactly(n: int, unit: tuple[str, int]) -> None:
    letter, factor = unit
    assert parse_count(f"{n}{letter}") == parse_count(f"{n} {letter.lower()}") == n * factor


@pytest.mark.parametrize(("text", "n"), [("2.5M", 2_500_000), ("0.1K", 100), ("1e6", 10**6), (2.5e6, 2_500_000)])
def test_fractions_and_powers_are_counts_too(text: str | float, n: int) -> None:
    assert parse_count(text) == n


@pytest.mark.parametrize(
    "text", ["", "_", "many", "2 M M", "1.2.3", "-5", "1e400", "inf", "nan", "0x10", "5KB", "2,000"]
)
def test_what_is_no_count_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(KanaryError, match=r"is not a count\. Write for example"):
        parse_count(text)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_durations_add_up(hours: int, minutes: int, seconds: int) -> None:
    total = 3600 * hours + 60 * minutes + seconds
    assert parse_seconds(f"{hours}h{minutes}m{seconds}s") == total
    assert parse_seconds(f"{hours} h {minutes} m {seconds} s") == total
    assert parse_seconds(str(total)) == parse_seconds(total) == total


@pytest.mark.parametrize("text", ["", "soon", "1h30", "..h", "1.2.3", "-2h", "h", "2 hours", -1.0, math.inf, math.nan])
def test_what_is_no_duration_is_refused_with_an_example(text: str | float) -> None:
    with pytest.raises(KanaryError, match=r"is not a duration\. Write for example"):
        parse_seconds(text)


@given(st.sampled_from([f.name for f in dataclasses.fields(TrainConfig)]), ANYTHING)
def test_no_value_of_a_field_causes_anything_but_a_config_or_an_error_of_ours(name: str, value: object) -> None:
    with contextlib.suppress(KanaryError):
        config = from_mapping(TrainConfig, {name: value})
        assert from_mapping(TrainConfig, yaml.safe_load(dump_yaml(to_mapping(config)))) == config


@given(st.text())
def test_no_text_after_a_count_or_a_duration_causes_anything_but_an_error_of_ours(text: str) -> None:
    for parse in (parse_count, parse_seconds):
        with contextlib.suppress(KanaryError):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, "8", 8),
        (int | None, "none", None),
        (int | None, None, None),
        (float, "1e-3", 1e-3),
        (float | None, 3, 3.0),
        (bool, "yes", True),
        (bool | None, "off", False),
        (str, "none", "none"),
        (str, 16, "16"),
        (Path | None, "a/b", Path("a/b")),
        (tuple[int, ...], "4,2", (4, 2)),
        (tuple[int, ...], [4, 2], (4, 2)),
        (tuple[int, ...], 4, (4,)),
        (tuple[str, ...], "wandb", ("wandb",)),
        (Mapping[str, object], {"a": 1}, {"a": 1}),
    ],
)
def test_a_text_becomes_what_the_field_wants(annotation: object, value: object, expected: object) -> None:
    assert coerce("field", annotation, value) == expected


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "1.5", "field='1.5' is not an int."),
        (int, math.inf, "field=inf is not an int."),
        (int, True, "field=True is not an int."),
        (float | None, "fast", "field='fast' is not a float."),
        (bool, "maybe", "field='maybe' is not a bool."),
        (int, None, "field needs a value."),
        (tuple[int, ...], "4,x", "field='4,x' is not a tuple"),
        (Mapping[str, object], "k=4", "field='k=4' must be 'name: value' pairs."),
    ],
)
def test_an_error_names_the_field_and_the_value(annotation: object, value: object, message: str) -> None:
    with pytest.raises(KanaryError) as error:
        coerce("field", annotation, value)
    assert str(error.value).startswith(message)


def test_a_count_that_cannot_be_read_names_its_field() -> None:
    with pytest.raises(KanaryError, match=r"^width: 'wide' is not a count"):
        from_mapping(TrainConfig, {"width": "wide"})


@pytest.mark.parametrize("cls", [TrainConfig, HarvestConfig])
def test_every_field_explains_itself(cls: type) -> None:
    for field in dataclasses.fields(cls):
        assert field.metadata["help"].strip().endswith((".", ")")), field.name
        assert field.metadata["group"]


@pytest.mark.parametrize(
    ("given_name", "suggestion"),
    [("with", "width"), ("checkpoints", "checkpoint"), ("tokns", "tokens"), ("sed", "seed")],
)
def test_an_unknown_name_gets_the_nearest_one(given_name: str, suggestion: str) -> None:
    with pytest.raises(KanaryError, match=f"Unknown option '{given_name}'. Did you mean '{suggestion}'?"):
        grid({given_name: 1})


def test_lists_multiply() -> None:
    configs = grid({"k": [8, 16], "seeds": [0, 1, 2], "width": "1K"})
    assert [(c.k, c.seed) for c in configs] == [(k, seed) for k in (8, 16) for seed in (0, 1, 2)]
    assert all(c.width == 1000 for c in configs)
    assert names(configs)[:2] == ["topk-k8-seed0", "topk-k8-seed1"]
    assert grid(shared_values(configs)) == configs
    assert grid(yaml.safe_load(dump_yaml(shared_values(configs)))) == configs


def test_saes_that_form_no_grid_are_listed_one_by_one() -> None:
    configs = grid({"lr": 1e-3, "each": [{"sae": "topk", "k": [8, 16]}, {"sae": "relu", "l1": 0.1}]})
    assert names(configs) == ["topk-k8", "topk-k16", "relu-l10.1"]
    assert grid(yaml.safe_load(dump_yaml(shared_values(configs)))) == configs
    assert [c.k for c in grid(replaced(shared_values(configs), {"k": 4, "lr": 0.5}))] == [4, 4, None]  # relu has no k
    with pytest.raises(KanaryError, match="Unknown option 'kk'"):
        grid({"each": [{"kk": 1}]})
    with pytest.raises(KanaryError, match="must be a list of SAEs"):
        grid({"each": {"k": 1}})


def test_what_saes_must_share_is_no_list() -> None:
    with pytest.raises(KanaryError, match="tokens takes one value, not 2: all SAEs of a run share it"):
        grid({"tokens": [1_000_000, 2_000_000]})
    with pytest.raises(KanaryError, match="k needs at least one value"):
        grid({"k": []})
    with pytest.raises(KanaryError, match="cannot share one stream: tokens is"):
        shared_values([TrainConfig(tokens=10_000), TrainConfig(tokens=20_000)])
    with pytest.raises(KanaryError, match="Two of the SAEs are the same"):
        names(grid({"seed": [1, 1]}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0), ("k", 0), ("k", -1), ("batch", 0), ("tokens", 0), ("pool", 0), ("window", -1), ("lm_batch", -2),
        ("lr", 0.0), ("lr", math.nan), ("lr", math.inf), ("clip", 0.0), ("clip", math.nan), ("target_l0", 0.0),
        ("l1", -1.0), ("l0_penalty", math.nan), ("lr_warmup", 1.5), ("lr_decay", -0.1), ("sparsity_warmup", 2.0),
        ("k_share", math.nan), ("k_start", 0), ("checkpoint", -1), ("eval_tokens", -1), ("dead_after", -1),
        ("precision", "fp8"), ("bias_start", "middle"), ("revive", "wish"), ("budget", "soon"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused_at_once_and_by_name(field: str, value: object) -> None:
    with pytest.raises(KanaryError, match=str(value).replace(".", r"\.")) as error:
        TrainConfig(**{field: value})
    assert field in str(error.value) or field == "budget"


def test_fewer_tokens_than_a_batch_are_refused() -> None:
    with pytest.raises(KanaryError, match="tokens=100 is less than one batch of 2,048"):
        TrainConfig(tokens=100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k: [4, 8", "is not YAML"),
        ("- k\n- width\n", "must hold 'name: value' lines, found list"),
        ("just words", "must hold 'name: value' lines, found str"),
        ("1: 2\n", "1 is not a name"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not YAML"),
    ],
)
def test_a_config_file_that_is_none_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(KanaryError) as error:
        read_yaml(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_config_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("")
    assert read_yaml(tmp_path / "run.yaml") == {}
    with pytest.raises(KanaryError, match="cannot be read"):
        read_yaml(tmp_path / "other.yaml")


def test_in_a_grid_of_several_kinds_each_takes_the_sparsity_that_it_knows() -> None:
    configs = grid({"sae": ["topk", "relu"], "k": [8, 16], "target_l0": 16, "seeds": [0, 1]})
    found = [(c.sae, c.k, c.target_l0, c.seed) for c in configs]
    assert sorted(found[:4]) == [
        ("topk", 8, None, 0),
        ("topk", 8, None, 1),
        ("topk", 16, None, 0),
        ("topk", 16, None, 1),
    ]
    assert found[4:] == [("relu", None, 16.0, 0), ("relu", None, 16.0, 1)]  # two values of k make one relu SAE
    for config in configs:
        config.sae_config(8)
    assert grid(yaml.safe_load(dump_yaml(shared_values(configs)))) == configs


def test_the_help_of_encoder_and_decoder_names_all_that_come_with_kanary() -> None:
    import_parts()
    help = {field.name: field.metadata["help"] for field in dataclasses.fields(TrainConfig)}
    for option, registry in (("encoder", ENCODERS), ("decoder", DECODERS)):
        ours = [name for name, cls in registry.items() if cls.__module__.startswith("kanary.sae.")]
        assert len(ours) >= 4
        assert all(name in help[option] for name in ours)


def test_whatever_shapes_the_weights_is_kept_with_the_sae() -> None:
    """Else two SAEs would be compared as seeds of one."""
    elsewhere = {"sae", "width", "encoder", "decoder", "tokens"}  # of what trained_on and the parts say
    chance = {"seed", "data_seed"}  # in which seeds may differ
    parts = {"k", "target_l0", "l1", "l0_penalty", "sparsity_warmup", "k_schedule", "k_start", "k_share", "options"}
    no_matter = {"plugin", "overlap"}
    shaping = {f.name for f in dataclasses.fields(TrainConfig) if f.metadata["group"] in ("SAE", "Training")}
    assert shaping == elsewhere | chance | parts | no_matter | {*TrainConfig().recipe}
    recipe = TrainConfig(matryoshka=(4,), lr=1e-3, batch=128).recipe
    assert (recipe["matryoshka"], recipe["lr"], recipe["batch"]) == ([4], 1e-3, 128)
