"""Evidence is what it says: halves share no document, negatives are silent, activations are those of the SAE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from explain_world import CAKE, DOT, OF, PIECE, SEVEN, VOCABULARY, after, indexed, on, pool
from kanary.explain.evidence import TEST, gather
from kanary.explain.patterns import Condition, Pattern, PatternRule
from kanary.explain.pool import LENGTH, ConceptMarks, Subject, read_pools
from kanary.explain.rule import RuleExplainer, learn
from kanary.explain.types import Excerpt, Half
from kanary.explain.vocabulary import Vocabulary, kind_of
from kanary.explain.words import sentence, title
from kanary.features.index import FeatureIndex
from kanary.lm import LanguageModel
from kanary.sae import SAE
from kanary.text.windows import encode
from runs import kanary

WORLD = pool([after(PIECE, OF), on(CAKE), on(SEVEN), on(DOT, CAKE)])


def excerpts(half: Half) -> tuple[Excerpt, ...]:
    return half.firing + half.negatives


def places(some: Sequence[Excerpt]) -> set[tuple[int, int]]:
    return {(e.window, e.start) for e in some}


# --- halves --------------------------------------------------------------------------------------------------------------


def test_the_halves_share_no_document_and_no_excerpt_is_in_two_lists() -> None:
    for latent in range(4):
        found = gather(WORLD, latent)
        documents = [{e.document for e in excerpts(half)} for half in (found.train, found.test)]
        assert not documents[0] & documents[1]
        for half in (found.train, found.test):
            assert len(places(excerpts(half))) == len(excerpts(half)) > 50


def test_it_fires_in_the_positives_and_nowhere_in_the_negatives() -> None:
    for latent in range(4):
        for half in (gather(WORLD, latent).train, gather(WORLD, latent).test):
            assert all(e.maximum > 0 for e in half.firing)
            assert all(e.maximum == 0 for e in half.negatives)
            assert [e.maximum for e in half.top] == sorted((e.maximum for e in half.top), reverse=True)
            assert min(e.maximum for e in half.top) >= max(e.maximum for e in half.spread)


def test_hard_negatives_hold_the_token_or_what_the_neighbour_fires_on() -> None:
    found = gather(WORLD, 0).test
    assert found.same_token
    assert all(OF in e.ids for e in found.same_token)
    assert len(found.neighbour) == TEST.neighbour
    assert all(CAKE in e.ids for e in found.neighbour)  # latent 1 is the neighbour of latent 0


def test_evidence_depends_on_its_seed_and_on_nothing_else_that_is_asked() -> None:
    def drawn(seed: int) -> list[set[tuple[int, int]]]:
        found = gather(WORLD, 2, seed=seed)
        return [places(half.spread) for half in (found.train, found.test)]

    first = drawn(0)
    gather(WORLD, 1)
    assert drawn(0) == first
    assert drawn(1) != first


# --- one pass -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and indexed run. Not to be changed."""
    return indexed(tiny_llama, tmp_path_factory.mktemp("explain"))


def test_a_pool_holds_what_the_sae_does_at_every_token(run: Path, tiny_lm: LanguageModel) -> None:
    index, sae = FeatureIndex.open(run), SAE.from_pretrained(run)
    alive = index.columns()["fired"] > 0
    latents = np.flatnonzero(alive)[:6].tolist()
    (read,) = read_pools(index.text, index.meta["special_ids"], tiny_lm, [Subject(sae, latents, alive)], tokens=2000)
    dense = {}
    for window in np.unique(read.pieces.window).tolist():
        ids = torch.from_numpy(index.text.ids[window].astype(np.int64))[None]
        x = tiny_lm.capture(ids, ["resid_post.1"])["resid_post.1"]
        dense[window] = sae.encode(x).to_dense()[0].detach().numpy()
    assert set(np.unique(read.pieces.length)) == {read.pieces.length[0]}
    for latent in latents:
        found = gather(read, latent)
        for e in excerpts(found.train) + excerpts(found.test):
            span = slice(e.start, e.start + len(e.ids))
            assert np.allclose(e.activations, dense[e.window][span, latent], atol=1e-5)
            assert "".join(e.tokens) == "".join(index.tokens(e.window)[span])
            assert np.array_equal(e.ids, index.text.ids[e.window][span])
            assert not np.isin(e.ids, index.meta["special_ids"]).any()
            documents, positions = index.text.places(e.window)
            assert (documents[e.start], positions[e.start]) == (e.document, e.position)


def test_text_that_was_not_read_is_not_taken_for_text_in_which_nothing_fires(
    run: Path, tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, sae = FeatureIndex.open(run), SAE.from_pretrained(run)
    alive = index.columns()["fired"] > 0
    fired = index.columns()["fired"]
    latent = int(np.argsort(fired)[-(fired > 0).sum() // 2])  # one of middling density
    given = index.text, index.meta["special_ids"], tiny_lm, [Subject(sae, [latent], alive)]
    (whole,) = read_pools(*given, tokens=4000, batch=4)
    monkeypatch.setattr("kanary.explain.pool.MOST_FIRINGS", 5)
    (begun,) = read_pools(*given, tokens=4000, batch=16)
    n = len(begun.pieces)
    assert 0 < n < len(whole.pieces) / 2
    assert begun.tokens == int(begun.pieces.length.sum())
    assert np.array_equal(begun.pieces.ids, whole.pieces.ids[:n])
    fires = whole.firings(latent)
    assert np.array_equal(begun.firings(latent).piece, fires.piece[fires.piece < n])
    firing = {(whole.pieces.window[piece], whole.pieces.start[piece]) for piece in fires.piece}
    for half in (gather(begun, latent).train, gather(begun, latent).test):
        assert not firing & places(half.negatives)
    assert gather(begun, latent).train.negatives


# --- rules ----------------------------------------------------------------------------------------------------------------


def test_a_rule_finds_the_trigger_and_its_context_and_no_more() -> None:
    rule = learn(gather(WORLD, 0).train, VOCABULARY)
    assert len(rule.patterns) == 1
    assert {(c.what, c.where, VOCABULARY.names[c.value]) for c in rule.patterns[0].conditions} == {
        ("word", 1, "piece"),
        ("word", 0, "of"),
    }
    assert sentence(rule, (" cake",)) == "Fires on “of” after “piece” (100% of its firing). Makes “cake” likelier."
    assert title(rule) == "piece of"


def test_a_rule_runs_on_new_text() -> None:
    rule = learn(gather(WORLD, 0).train, VOCABULARY)
    ids = np.array([3, OF, PIECE, OF, CAKE, 5])
    new = Excerpt(0, 0, 0, 7, ids, tuple("abcdef"), np.zeros(6, np.float32))
    (values,) = rule.values([new])
    assert values.argmax() == 3
    assert values[3] > 5 > 0.1 > np.delete(values, 3).max()
    assert rule.holds([new])[0] > 0.5
    other = Excerpt(0, 0, 0, 7, np.array([3, OF, 5, OF, CAKE, 5]), tuple("abcdef"), np.zeros(6, np.float32))
    assert rule.holds([other])[0] < 0.5
    assert rule.values([]) == []


def test_a_rule_reads_any_text(tiny_lm: LanguageModel) -> None:
    vocabulary = Vocabulary.of(tuple(tiny_lm.tokenizer.decode([id]) for id in range(tiny_lm.vocab_size)))
    ids = encode(tiny_lm, [text := "the cat sat on the mat"])[0]
    marks = ConceptMarks(("weather",), 8, {0: 0}, np.full((1, 8, 1), 255, np.uint8))
    patterns = (
        Pattern((Condition("concept", 0, 0),), 1.0, 9.0, 0.5),  # nobody knows whether it holds here
        Pattern((Condition("token", 0, ids[1]), Condition("token", 1, ids[0])), 0.5, 8.0, 0.5),
        Pattern((Condition("first", 0, 1),), 0.5, 4.0, 0.5),
    )
    rule = PatternRule(patterns, 0.25, 0.5, vocabulary, marks)
    read = rule.read(tiny_lm, text)
    assert [token for token, _ in read] == [vocabulary.texts[id] for id in ids]
    assert [value for _, value in read] == [2.0, 4.0, *[0.25] * (len(ids) - 2)]
    assert rule.read(tiny_lm, "") == rule.values([]) == []


PIECES = Vocabulary.of((" the", " piece", "ower", "s", " s", ".", " ", "\n", " 7"))


@pytest.mark.parametrize(
    ("conditions", "said", "called"),
    [
        ([("word", 0, " piece")], "on “piece”", "piece"),
        ([("word", 0, "ower")], "on “…ower”", "…ower"),  # a piece that always continues a word
        ([("word", 0, "s")], "on “s”", "s"),  # one that does not always
        ([("word", 1, " the"), ("word", 0, " piece")], "on “piece” after “the”", "the piece"),
        ([("word", 2, " the"), ("word", 0, ".")], "on “.” two tokens after “the”", "the … ."),
        ([("word", 3, " the"), ("word", 0, ".")], "on “.” three tokens after “the”", "the … ."),
        ([("word", 2, " the"), ("word", 1, "ower")], "after “theower”", "after …ower"),
        ([("word", 2, " the"), ("word", 1, " piece"), ("word", 0, ".")], "on “.” after “the piece”", "piece ."),
        ([("word", -1, " piece"), ("word", 0, " the")], "on “the” before “piece”", "the piece"),
        ([("word", 99, " the"), ("word", 0, " piece")], "on “piece” with an earlier “the”", "the … piece"),
        ([("word", 1, "\n")], "after “↵”", "after line break"),
        ([("word", 1, " ")], "after “␣”", "after spaces"),
        ([("word", -1, "\n"), ("word", 0, ".")], "on “.” before “↵”", ". ↵"),
        ([("word", 1, " "), ("word", 0, " the")], "on “the” after “␣”", "␣ the"),
        ([("kind", 1, " 7"), ("word", 0, " piece")], "on “piece” after numbers", "piece after numbers"),
        ([("kind", 1, " 7"), ("kind", 0, " the")], "on words after numbers", "after numbers"),
        ([("first", 0, " the")], "at the start of a document", "start of document"),
    ],
)
def test_a_pattern_is_told_as_a_reader_would_say_it(
    conditions: list[tuple[Any, int, str]], said: str, called: str
) -> None:
    def value(what: str, token: str) -> int:
        number = PIECES.texts.index(token)
        return 1 if what == "first" else int((PIECES.kind if what == "kind" else PIECES.word)[number])

    pattern = Pattern(
        tuple(Condition(what, where, value(what, token)) for what, where, token in conditions), 0.9, 5, 0.5
    )
    rule = PatternRule((pattern,), 0.01, 0.5, PIECES)
    assert (
        sentence(rule, (" piece", "ower")) == f"Fires {said} (50% of its firing). Makes “piece” and “…ower” likelier."
    )
    assert title(rule) == called


def test_patterns_that_differ_in_their_context_alone_are_told_together() -> None:
    the, piece, ower, s = (int(PIECES.word[PIECES.texts.index(token)]) for token in (" the", " piece", "ower", "s"))
    here = Condition("word", 0, the)
    contexts = [(Condition("word", 1, piece),), (Condition("word", 1, ower),), (Condition("word", -1, s),), ()]
    covers = (0.4, 0.3, 0.1, 0.05)
    patterns = tuple(Pattern((*c, here), 0.9, 5, share) for c, share in zip(contexts, covers, strict=True))
    said = sentence(PatternRule(patterns, 0.01, 0.5, PIECES), ())
    assert said == "Fires on “the” after “piece” or “…ower”; on “the” before “s”; on “the” (85% of its firing)."


def test_words_say_what_the_examples_are() -> None:
    import asyncio

    found = asyncio.run(RuleExplainer(VOCABULARY).explain(gather(WORLD, 3)))
    assert found.text.startswith("Fires on “")
    assert "“cake”" in found.text
    assert "“.”" in found.text
    assert found.title is not None
    assert len(found.title.split()) <= 3
    assert found.by == "rule"


def test_kinds_of_tokens_and_words_that_differ_in_case_alone() -> None:
    kinds = {
        " Dog": "capitalised words",
        " dog": "words",
        "dog": "pieces of words",
        "12": "numbers",
        ".": "punctuation",
    }
    kinds |= {
        "\n": "line breaks",
        " ": "spaces",
        " שלום": "Hebrew",
        "مر": "Arabic",
        "⟨d7⟩": "Hebrew",
        "⟨a8⟩": "parts of characters",
    }
    assert {text: kind_of(text) for text in kinds} == kinds
    words = Vocabulary.of((" Dog", "dog", " dog", "cat", "<s>"), frozenset({4}))
    assert words.word[0] == words.word[1] == words.word[2] != words.word[3]
    assert len({*words.kind.tolist()}) == 4


# --- the command ----------------------------------------------------------------------------------------------------------


def test_the_command_explains_scores_and_stores(run: Path) -> None:
    answer = kanary("explain", run, "--features", "alive:6", "--tokens", "4K", "--controls", "3", "--explainer", "rule")
    assert answer.code == 0, answer.err
    lines = answer.out.strip().splitlines()
    assert lines[0].split()[:3] == ["score", "judge", "of"]
    assert "explained by rule" in lines[-1]
    for scorer in ("detection", "fuzzing", "simulation"):
        assert f"{scorer} " in lines[-1]
        rows = [line for line in lines if line.startswith(scorer)]
        for control in ("oracle", "shuffled explanation", "random explanation", "random latent", "random SAE"):
            assert any(control in row for row in rows), (scorer, control)
    index = FeatureIndex.open(run)
    stored = [feature for feature in index if feature.explanation]
    assert 1 <= len(stored) <= 6
    explanation = stored[0].explanation
    assert explanation is not None
    assert explanation["by"] == "rule"
    assert [score["name"] for score in explanation["scores"]] == [
        "detection, rule",
        "fuzzing, rule",
        "simulation, rule",
    ]
    assert [score["chance"] for score in explanation["scores"]] == [0.5, 0.5, 0.0]
    assert (run / "explain" / "topk" / "table.csv").read_text().startswith("what,scorer,judge,value,low,high")
    assert (run / "explain" / "topk" / "explanations.csv").is_file()


def test_the_same_seed_gives_the_same_scores(run: Path, tmp_path: Path) -> None:
    from kanary import explain_features

    found = [
        explain_features(run, features="alive:4", tokens=3000, controls=0, out=str(tmp_path), quiet=True)
        for _ in range(2)
    ]
    assert [row.to_json() for row in found[0].table] == [row.to_json() for row in found[1].table]
    assert found[0].summary == found[1].summary


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--scorers", "detecton"], "Unknown scorer 'detecton'. Did you mean 'detection'?"),
        (["--explainer", "gpt"], "Unknown explainer 'gpt'."),
        (["--explainer", "llm"], "Say which model to ask: --llm NAME"),
        (["--judge", "local"], "judge='local': write local:FOLDER."),
        (["--budget-usd", "2"], "A budget needs a price"),
        (["--features", "9999"], "There is no latent 9999"),
    ],
)
def test_mistakes_are_said_in_a_line(run: Path, flags: list[str], said: str) -> None:
    assert said in kanary("explain", run, *flags).message


def test_a_run_without_an_index_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "Make one: kanary index" in kanary("explain", tmp_path / "empty").message


def test_a_text_of_one_document_is_refused(run: Path, tiny_lm: LanguageModel) -> None:
    from kanary.errors import KanaryError

    index, sae = FeatureIndex.open(run), SAE.from_pretrained(run)
    text = index.text
    real = text.places
    text.places = lambda window: (np.zeros(text.window, np.int64), real(window)[1])  # type: ignore[method-assign]
    alive = index.columns()["fired"] > 0
    with pytest.raises(KanaryError, match="one document only"):
        read_pools(text, index.meta["special_ids"], tiny_lm, [Subject(sae, [0], alive)], tokens=500)
    assert LENGTH == 32
