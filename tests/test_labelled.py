"""The labelled corpus: the same at every reading, in any order, and every token has the labels of its characters."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kanary.text
from conftest import small_tokenizer
from kanary.errors import KanaryError
from kanary.lm import LanguageModel
from kanary.text import TokenBatch, Windows, open_text
from kanary.text.labelled import Concept, Record, Span, concepts, find_concept, known, labelled, pairs, reader
from kanary.text.labelled import labels as labels_module
from kanary.text.labelled.labels import Labels
from kanary.text.labelled.passage import WRITERS, Passage
from kanary.text.windows import HELD_OUT_EVERY
from runs import flags, small
from runs import kanary as command

CONCEPTS = known()
FAMILIES = sorted(WRITERS)
SWITCHED = [name for name, each in CONCEPTS.items() if each.switch]
FEW = ["clinical", "weather"]
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def of_seed(seed: int, n: int = 300, **options: Any) -> list[Record]:
    return list(islice(labelled(seed, **options), n))


# --- records ------------------------------------------------------------------------------------------------------


def test_records_are_the_same_in_every_process() -> None:
    """Sets of strings are ordered otherwise in each, by the seed of their hashes."""
    seed = "0" if os.environ.get("PYTHONHASHSEED") != "0" else "1"
    done = subprocess.run(
        [sys.executable, "-c", "import test_labelled; print(test_labelled.digest())"],
        **{"capture_output": True, "text": True, "timeout": 280},
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest()


def digest() -> str:
    """Of concepts, records and pairs."""
    found = hashlib.sha256(repr(list(CONCEPTS.values())).encode())
    for record in of_seed(3):
        found.update(repr(record).encode())
    for concept in SWITCHED[::7]:
        for pair in islice(pairs(concept, 3), 2):
            found.update(repr(pair).encode())
    return found.hexdigest()


def test_a_record_is_the_same_by_number_and_in_the_stream() -> None:
    stream = of_seed(5)
    assert [r.id for r in stream] == list(range(300))
    for number in (299, 0, 17, 150):
        assert next(kanary.text.labelled(5, start=number)) == stream[number]
    assert stream == of_seed(5)
    assert not {r.text for r in stream} & {r.text for r in of_seed(6) if len(r.text) > 200}


def test_families_choose_and_take_turns() -> None:
    assert {r.family for r in of_seed(0, 40 * len(FAMILIES))} == set(FAMILIES)
    for family in FAMILIES:
        some = of_seed(0, 30, families=[family])
        assert {r.family for r in some} == {family}
        assert any(f"domain.{family}" in {span.concept for span in r.spans} for r in some)
    two = of_seed(0, 100, families=FEW)
    assert two == of_seed(0, 100, families=FEW[::-1] + FEW)
    assert {r.family for r in two} == set(FEW)


def test_a_family_by_itself_repeats_no_passage_of_the_whole_corpus() -> None:
    longer = {r.text for r in of_seed(0, 2000) if len(r.text) > 200}
    assert not longer & {r.text for r in of_seed(0, 500, families=["clinical"])}


def test_spans_lie_in_the_text_and_concepts_are_registered() -> None:
    for record in of_seed(1, 500):
        for span in record.spans:
            assert 0 <= span.start < span.end <= len(record.text)
            assert span.concept in CONCEPTS
            if span.value is not None:
                assert CONCEPTS[span.concept].unit is not None, span
        for question in record.questions:
            assert record.text[question.end :].startswith(question.answer)
            assert question.answer not in question.wrong


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(KanaryError, match=r"'wether'.*Did you mean 'weather'\?"):
        next(labelled(families=["wether"]))
    with pytest.raises(KanaryError, match=r"'weather.rian'.*Did you mean 'weather.rain'\?"):
        find_concept("weather.rian")


# --- contrastive pairs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWITCHED)
def test_a_pair_is_one_passage_with_the_concept_and_without(name: str) -> None:
    found = list(islice(pairs(name), 6))
    assert [(on.id, off.id) for on, off in found] == [(i, i) for i in range(6)]
    assert len({on.text for on, _ in found}) > 1
    for on, off in found:
        assert on.family == off.family
        assert any(span.concept == name for span in on.spans)
        assert not any(span.concept == name for span in off.spans)
    alike = [[_alike(on.text, off.text) for _, off in found] for on, _ in found]
    assert sum(alike[i][i] for i in range(6)) / 6 > 0.5, f"{name}: the two sides of a pair are different passages"
    assert sum(row.index(max(row)) == i for i, row in enumerate(alike)) >= 5, "a passage is nearest to its other side"
    assert found == list(islice(pairs(name), 6))


def _alike(one: str, other: str) -> float:
    """Share of the words that the two have in common, in order."""
    return difflib.SequenceMatcher(None, one.split(), other.split(), autojunk=False).ratio()


def test_pairs_of_another_seed_are_others() -> None:
    assert next(pairs("weather.rain", 0)) != next(pairs("weather.rain", 1))


def test_a_pair_that_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KanaryError, match=r"Unknown concept 'weather.snwo'"):
        next(pairs("weather.snwo"))
    with pytest.raises(KanaryError, match=r"domain.weather cannot be switched by itself"):
        next(pairs("domain.weather"))
    monkeypatch.setattr(importlib.import_module("kanary.text.labelled.record"), "_LOOKED_AT_CLOSELY", 40)
    monkeypatch.setitem(concepts._KNOWN, "weather.frogs", Concept("weather.frogs", "it rains frogs"))
    with pytest.raises(KanaryError, match=r"weather.frogs cannot be switched: no family's writer decides it"):
        next(pairs("weather.frogs"))


# --- tokens -------------------------------------------------------------------------------------------------------


def gpt2_like() -> Any:
    """Byte-level BPE of GPT-2's kind that has seen no Arabic and little Hebrew: a letter is one or two tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"'s|'t|'re| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([r.text for r in of_seed(0, 60, families=FEW)] + ["שלום וברכה"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!")


@pytest.fixture(scope="module", params=["stories260K", "tiny", "like GPT-2"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param == "stories260K":
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(request.getfixturevalue("stories_path"))
    return small_tokenizer() if request.param == "tiny" else gpt2_like()


def characters(tokenizer: Any, text: str, ids: list[int]) -> list[set[int]]:
    """Of every token the characters that it writes a byte of, counted along the bytes; no offsets are asked for."""
    pieces = tokenizer.convert_ids_to_tokens(ids)
    by_pieces = any(
        piece.startswith("▁") for piece in pieces
    )  # SentencePiece, with its bytes as <0x0A>; else byte-level
    if by_pieces:
        widths = [1 if len(p) == 6 and p.startswith("<0x") else len(p.replace("▁", " ").encode()) for p in pieces]
    else:
        widths = [len(piece) for piece in pieces]
    of_byte = [i for i, character in enumerate(text) for _ in character.encode()]
    place = -1 if by_pieces else 0  # SentencePiece puts a space in front of the text
    found = []
    for width in widths:
        found.append({of_byte[i] for i in range(max(0, place), place + width)})
        place += width
    assert place == len(of_byte)
    return found


def by_character(record: Record, mine: set[int], holding: list[set[str]]) -> set[str]:
    """What holds at a token of these characters: at one that is no space; of spaces alone, before and behind."""
    letters = "".join(record.text[i] for i in sorted(mine))
    if letters.strip():
        return set().union(*(holding[i] for i in sorted(mine)[len(letters) - len(letters.lstrip()) :]))
    last = max(mine)
    return {span.concept for span in record.spans if span.start <= last and last + 1 < span.end}


def assert_aligned(record: Record, tokenizer: Any) -> None:
    tokens = record.tokens(tokenizer)
    assert tokens.ids == tokenizer(record.text, add_special_tokens=False).input_ids
    assert len(tokens.ids) == len(tokens.concepts) == len(tokens.values)
    holding: list[set[str]] = [set() for _ in record.text]
    for span in record.spans:
        for i in range(span.start, span.end):
            holding[i].add(span.concept)
    for place, mine in enumerate(characters(tokenizer, record.text, tokens.ids)):
        if mine:  # SentencePiece's own space has none
            expected = by_character(record, mine, holding)
            assert tokens.concepts[place] == expected, (place, record.text[min(mine) : max(mine) + 1])
            assert tokens.values[place].keys() <= tokens.concepts[place]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_have_the_concepts_of_their_characters(family: str, tokenizer: Any) -> None:
    for record in of_seed(2, 4, families=[family]):
        assert_aligned(record, tokenizer)


@quick
@given(
    text=st.text(st.sampled_from("ab c\n.مرحباשלום🙂é "), min_size=1, max_size=40).filter(lambda text: text.strip()),
    data=st.data(),
)
def test_any_spans_over_letters_of_several_tokens_are_aligned(text: str, data: st.DataObject, tokenizer: Any) -> None:
    ends = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted).filter(lambda e: e[0] < e[1])
    drawn = data.draw(st.lists(st.tuples(st.sampled_from("xyz"), ends, st.none() | st.floats(0, 9)), max_size=6))
    spans = sorted(
        (Span(name, a, b, value) for name, (a, b), value in drawn), key=lambda s: (s.start, s.end, s.concept)
    )
    record = Record(0, "made up", text, tuple(spans), ())
    assert_aligned(record, tokenizer)
    tokens = record.tokens(tokenizer)
    for mine, values in zip(characters(tokenizer, text, tokens.ids), tokens.values, strict=True):
        if "".join(text[i] for i in sorted(mine)).strip():
            start = next(i for i in sorted(mine) if not text[i].isspace())
            here = [s for s in spans if s.start <= max(mine) and s.end > start and s.value is not None]
            assert values == {span.concept: span.value for span in here}  # of several the last


def test_every_token_of_a_letter_has_its_labels() -> None:
    text = "He said مرحبا and שלום."
    words = (Span("script.arabic", 8, 13), Span("script.hebrew", 18, 22))
    tokenizer = gpt2_like()
    tokens = Record(0, "made up", text, words, ()).tokens(tokenizer)
    arabic = [i for i, held in enumerate(tokens.concepts) if held == {"script.arabic"}]
    assert len(arabic) > 5, "several tokens for a letter"
    assert tokenizer.decode([tokens.ids[i] for i in arabic]).strip() == "مرحبا"


def test_values_are_those_in_the_text(tokenizer: Any) -> None:
    seen = 0
    for record in of_seed(4, 60, families=["weather"]):
        tokens = record.tokens(tokenizer)
        for span in record.spans:
            if span.concept == "weather.temperature" and span.value is not None:
                held = [v["weather.temperature"] for v in tokens.values if "weather.temperature" in v]
                assert span.value in held
                seen += 1
    assert seen > 10


def test_a_tokenizer_without_offsets_is_refused(tiny_lm: LanguageModel) -> None:
    class Slow:
        is_fast = False
        name_or_path = "slow-one"

    with pytest.raises(KanaryError, match="'slow-one' does not say which characters"):
        next(labelled()).tokens(Slow())
    with pytest.raises(KanaryError, match="'slow-one' does not say which characters"):
        Labels("labelled", LanguageModel(tiny_lm.model, _with(tiny_lm.tokenizer, is_fast=False), "slow"))


def _with(tokenizer: Any, **fields: Any) -> Any:
    """A tokenizer that says something else of itself."""

    class Other:
        def __getattr__(self, name: str) -> Any:
            return fields.get(name, {"name_or_path": "slow-one"}.get(name, getattr(tokenizer, name)))

    return Other()


# --- the text -----------------------------------------------------------------------------------------------------


def test_the_text_is_the_records_from_any_start() -> None:
    text = open_text("labelled@5")
    records = of_seed(5, 60)
    documents = list(islice(text.documents(), 60))
    assert [(d.id, d.text, d.tokens) for d in documents] == [(r.id, r.text, None) for r in records]
    assert list(islice(text.documents(23), 37)) == documents[23:]
    assert not text.tokenised
    far = next(text.documents(10**12))
    assert (far.id, far.text) == (10**12, next(labelled(5, start=10**12)).text)


def test_documents_of_another_part_are_not_written(tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = vars(reader)["record"]

    def counted(number: int, *rest: Any) -> Record:
        written.append(number)
        found: Record = write(number, *rest)
        return found

    monkeypatch.setattr(reader, "record", counted)
    next(Windows(open_text("labelled:weather"), tiny_lm, window=64, batch=4, part="heldout"))
    assert written
    assert all(number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 for number in written)
    assert len(written) == len(set(written)), "each is written once"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("labelled", "labelled@0", True),
        ("labelled:weather,clinical", "labelled:clinical, weather,weather@0", True),
        ("labelled:" + ",".join(FAMILIES), "labelled", True),
        ("labelled", "labelled@1", False),
        ("labelled:weather", "labelled:clinical", False),
        ("labelled:weather@1", "labelled:weather@2", False),
        ("labelled:weather", "labelled", False),
    ],
)
def test_the_fingerprint_says_whether_two_texts_are_the_same(one: str, other: str, same: bool) -> None:
    a, b = open_text(one), open_text(other)
    assert (a.fingerprint == b.fingerprint) == same
    assert (next(a.documents(7)).text == next(b.documents(7)).text) == same
    assert a.fingerprint is not None
    assert len(a.fingerprint) == 12


def test_the_fingerprint_changes_with_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_text("labelled:weather").fingerprint
    whole = open_text("labelled").fingerprint
    writer = WRITERS["weather"]

    def otherwise(p: Passage) -> None:
        writer(p)
        p.say(" So it goes.")

    monkeypatch.setitem(WRITERS, "weather", otherwise)
    assert open_text("labelled:weather").fingerprint != before
    assert open_text("labelled").fingerprint != whole


def test_the_text_says_what_it_is() -> None:
    assert open_text("labelled:weather@7").describe() == (
        "the labelled corpus, without end: the family weather; seed 7"
    )
    described = open_text("labelled").describe()
    assert all(family in described for family in FAMILIES)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("labelled:wether", "Unknown family 'wether' of the labelled corpus. Did you mean 'weather'"),
        ("labelled:weather,,clinical", "names an empty family"),
        ("labelled:", "names an empty family"),
        ("labelled@x", "The seed 'x' of text 'labelled@x' is not a whole number"),
        ("labelled:weather@", "The seed '' of text 'labelled:weather@' is not a whole number"),
    ],
)
def test_a_wrong_name_is_refused(source: str, message: str) -> None:
    with pytest.raises(KanaryError) as error:
        open_text(source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_that_name_is_reached_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labelled").write_text("My own text.")
    monkeypatch.chdir(tmp_path)
    for path in ("./labelled", Path("labelled")):
        assert next(open_text(path).documents()).text == "My own text."
    assert next(open_text("labelled").documents()).text == next(labelled()).text


# --- labels of windows --------------------------------------------------------------------------------------------


def windows(lm: LanguageModel, text: Any, n: int = 6, **options: Any) -> Iterator[TokenBatch]:
    if isinstance(text, str):
        text = open_text(text)
    chosen: dict[str, Any] = {"window": 48, "batch": 5, "part": "all"} | options
    return islice(Windows(text, lm, **chosen), n)


@pytest.fixture(scope="module", params=["tiny", "stories260K"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    found: LanguageModel = request.getfixturevalue({"tiny": "tiny_lm", "stories260K": "stories"}[request.param])
    return found


@pytest.mark.parametrize("part", ["all", "train", "heldout"])
def test_labels_of_windows_are_those_of_the_records(lm: LanguageModel, part: Any) -> None:
    text = open_text("labelled@3")
    labels = Labels(text, lm)
    assert labels.concepts == tuple(CONCEPTS)
    assert labels.graded == tuple(name for name, each in CONCEPTS.items() if each.unit is not None)
    told = 0
    for batch in windows(lm, text, part=part):
        holds, values = labels.of(batch), labels.values(batch)
        assert holds.shape == (*batch.tokens.shape, len(labels.concepts))
        assert values.shape == (*batch.tokens.shape, len(labels.graded))
        assert (holds.dtype, values.dtype) == (torch.bool, torch.float32)
        assert not holds[batch.special].any()
        assert values[batch.special].isnan().all()
        for row, column in (~batch.special).nonzero().tolist():
            document, position = int(batch.documents[row, column]), int(batch.positions[row, column])
            tokens = _tokens(lm, document)
            assert {c for c, yes in zip(labels.concepts, holds[row, column].tolist(), strict=True) if yes} == (
                tokens.concepts[position]
            )
            given = dict(zip(labels.graded, values[row, column].tolist(), strict=True))
            given = {name: value for name, value in given.items() if value == value}
            assert given == pytest.approx(tokens.values[position], rel=1e-6)
            told += len(given)
    assert told or part != "all"


_ONCE: dict[tuple[str, int], Any] = {}


def _tokens(lm: LanguageModel, document: int) -> Any:
    key = (lm.name, document)
    if key not in _ONCE:
        _ONCE[key] = next(labelled(3, start=document)).tokens(lm.tokenizer)
    return _ONCE[key]


def test_labels_do_not_depend_on_the_order_of_reading(tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = list(windows(tiny_lm, "labelled", 12))
    labels = Labels("labelled", tiny_lm)
    expected = [labels.of(batch) for batch in batches]
    monkeypatch.setattr(labels_module, "_KEPT", 2)
    again = Labels("labelled", tiny_lm)
    order = list(range(len(batches)))
    random.Random(0).shuffle(order)
    for i in order:
        assert torch.equal(again.of(batches[i]), expected[i])
        assert len(again._known) <= 2, "what is remembered is bounded"


def test_some_concepts_can_be_asked_for_in_any_order(tiny_lm: LanguageModel) -> None:
    names = ["weather.temperature", "domain.clinical", "weather.rain"]
    every, some = Labels("labelled", tiny_lm), Labels("labelled", tiny_lm, names)
    assert some.concepts == tuple(names)
    assert some.graded == ("weather.temperature",)
    for batch in windows(tiny_lm, "labelled"):
        assert torch.equal(some.of(batch), every.of(batch)[..., [every.concepts.index(name) for name in names]])
        column = every.values(batch)[..., [every.graded.index("weather.temperature")]]
        assert torch.equal(some.values(batch).nan_to_num(-99), column.nan_to_num(-99))
    with pytest.raises(KanaryError, match=r"Did you mean 'weather.rain'"):
        Labels("labelled", tiny_lm, ["weather.rian"])


def test_where_a_kind_holds_what_it_is_a_kind_of_holds(tiny_lm: LanguageModel) -> None:
    labels = Labels("labelled", tiny_lm)
    seen = set()
    for batch in windows(tiny_lm, "labelled", 60, batch=32):
        holds = labels.of(batch)
        for child, name in enumerate(labels.concepts):
            parent = CONCEPTS[name].parent
            if parent is not None and holds[..., child].any():
                assert not (holds[..., child] & ~holds[..., labels.concepts.index(parent)]).any(), (name, parent)
                seen.add(name)
    assert len(seen) > 1


def test_windows_of_another_text_or_tokenizer_are_refused(tiny_lm: LanguageModel, tmp_path: Path) -> None:
    labels = Labels("labelled", tiny_lm)
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": r.text[::-1]}) for r in of_seed(0, 50)))
    strange = [
        next(windows(tiny_lm, text)) for text in ("labelled@1", "labelled:weather", open_text(tmp_path / "a.jsonl"))
    ]
    mine = next(windows(tiny_lm, "labelled"))
    assert labels.of(mine).any()
    strange.append(dataclasses.replace(mine, positions=mine.positions + (mine.positions >= 0) * 10_000))
    for batch in strange:
        with pytest.raises(KanaryError, match="another text or another tokenizer"):
            labels.of(batch)
    theirs = Labels("labelled", LanguageModel(tiny_lm.model, gpt2_like(), "other"))
    with pytest.raises(KanaryError, match="another text or another tokenizer"):
        theirs.values(mine)
    with pytest.raises(KanaryError, match="Labels are known for the labelled corpus only"):
        Labels(open_text(tmp_path / "a.jsonl"), tiny_lm)
    with pytest.raises(KanaryError, match="Labels are known for the labelled corpus only"):
        Labels("stories.parquet", tiny_lm)


# --- every command ------------------------------------------------------------------------------------------------


def test_a_run_trains_on_it_and_is_judged_on_what_was_held_out(tiny_llama: Path, tmp_path: Path) -> None:
    text = "labelled:weather,clinical"
    run = tmp_path / "run"
    done = command("train", *flags(small(tiny_llama, text)), "--out", run)
    assert done.code == 0, done.err
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["held_out"]["part"] == "heldout"
    assert metrics["held_out"]["tokens"] > 0
    assert metrics["held_out"]["text_fingerprint"] == open_text(text).fingerprint
    same = ["--text", "labelled:clinical,weather", "--tokens", "2000", "--loss-tokens", "500", "--prompts", "5"]
    few, none = ["--concept-tokens", "4K"], ["--text", "labelled:weather", "--concept-tokens", "0"]
    for words, part in ((few, "heldout"), (none, "all")):
        done = command("evaluate", run, *same, *words, "--out", tmp_path / part)
        assert done.code == 0, done.err
        assert json.loads((tmp_path / part / "metrics.json").read_text())["held_out"]["part"] == part
        assert (tmp_path / part / "report.html").is_file()
    done = command("check", run)
    assert done.code in (0, 1), done.err  # an SAE of 40 steps may well fail a check
    assert "Traceback" not in done.err


def test_held_out_documents_are_none_that_is_trained_on(tiny_lm: LanguageModel) -> None:
    read: dict[str, set[str]] = {}
    for part, n in (("train", 120), ("heldout", 20)):
        documents = {
            d for b in windows(tiny_lm, "labelled", n, part=part, batch=32) for d in b.documents.unique().tolist()
        }
        assert {d % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 for d in documents} == {part == "heldout"}
        read[part] = {next(labelled(start=d)).text for d in documents}
    assert len(read["train"] & read["heldout"]) <= 0.02 * len(read["heldout"]), "passages that are written twice"


def test_a_store_is_harvested_from_it_and_grows(tiny_llama: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    words = ["harvest", "--model", tiny_llama, "--text", "labelled@2", "--site", "resid_post.1", "--out", store]
    for tokens in (1000, 3000):
        done = command(*words, "--tokens", tokens, "--window", 32, "--lm-batch", 4, "--device", "cpu")
        assert done.code == 0, done.err
    from kanary.activations.store import ActivationStore

    assert ActivationStore.open(store).n_tokens == 3000
    assert command("harvest", *words[1:4], "labelled:wether", *words[5:], "--tokens", 10).code == 2


def test_a_stopped_stream_goes_on_with_the_next_window(tiny_lm: LanguageModel) -> None:
    whole = list(windows(tiny_lm, "labelled@4", 9, part="train"))
    first = Windows(open_text("labelled@4"), tiny_lm, window=48, batch=5, part="train")
    list(islice(first, 4))
    rest = list(windows(tiny_lm, "labelled@4", 5, part="train", state=first.state()))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(whole[4:], rest, strict=True))
