"""Prompt search: planted features are found, scores equal brute force, chance is told, and what cannot be judged is refused."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import kanary as package
from kanary import KanaryError
from kanary.interventions.concept_prompts import concept_prompts, true_latent
from kanary.interventions.prompt_codes import PromptCodes, read_prompts, sentence_starts
from kanary.interventions.prompt_scores import SCORES, Values, plain_scores, resampled_scores
from kanary.interventions.prompt_search import PromptSearch, most_positive, search_prompts
from kanary.lm import LanguageModel
from kanary.sae import SAE, SAEConfig, SparseCodes
from runs import kanary

D_SAE, HAPPY, ALWAYS = 40, 7, 11
WORDS = ["the park", "a girl", "big dog", "red ball", "to play", "time there", "his mom", "small cake", "run and jump"]


@pytest.fixture(scope="module")
def sae(tiny_lm: LanguageModel) -> SAE:
    """Reads the embedding: latent 7 fires at the token " happy" alone, latent 11 everywhere, the others at random tokens."""
    trained_on = {"site": "resid_pre.0", "fingerprint": tiny_lm.fingerprint, "model": tiny_lm.name}
    sae = SAE(SAEConfig(tiny_lm.d_model, D_SAE, sparsifier={"name": "topk", "k": 6}, trained_on=trained_on))
    embedding = tiny_lm.model.get_input_embeddings().weight.float()
    happy = embedding[tiny_lm.tokenizer.encode(" happy")[0]]
    W_enc, b_enc = sae.encoder.get_parameter("W_enc"), sae.encoder.get_parameter("b_enc")
    with torch.no_grad():
        W_enc.normal_(generator=torch.Generator().manual_seed(0))
        others = (embedding @ happy).topk(2).values[1]
        W_enc[HAPPY], b_enc[HAPPY] = 1000 * happy, -1000 * float(others)
        W_enc[ALWAYS], b_enc[ALWAYS] = 0, 50
    return sae


def prompts(n: int, word: str, seed: int) -> list[str]:
    """``n`` different ones with ``word`` somewhere in them."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        some = [WORDS[i] for i in torch.randint(len(WORDS), (4,), generator=draw).tolist()]
        some.insert(int(torch.randint(1, 4, (), generator=draw)), word)
        found[" ".join(some)] = None
    return list(found)


@pytest.fixture(scope="module")
def found(tiny_lm: LanguageModel, sae: SAE) -> PromptSearch:
    return search_prompts(tiny_lm, sae, prompts(20, "happy", 1), prompts(20, "there", 2))


def test_a_planted_feature_is_first_by_every_score_and_holds_on_prompts_it_was_not_chosen_on(
    found: PromptSearch,
) -> None:
    best = found.found[0]
    assert (best.latent, best.side) == (HAPPY, "positive")
    assert set(best.ranks.values()) == {1}
    assert best.held_out["auroc"][:3] == (1, 1, 1)
    assert best.fires == (1, 0)
    assert best.strongest.tokens[best.strongest.at] == " happy"
    assert found.prompts == {"positive": (10, 10), "negative": (10, 10)}


def test_what_is_always_on_is_left_out_by_name_and_never_found(tiny_lm: LanguageModel, sae: SAE) -> None:
    found = search_prompts(tiny_lm, sae, prompts(20, "happy", 1), prompts(20, "there", 2), top=D_SAE)
    assert ALWAYS in {each.latent: each.why for each in found.left_out}
    assert not {each.latent for each in found.left_out} & {each.latent for each in found.found}


def test_lists_drawn_from_one_pot_are_told_apart_no_better_than_chance(tiny_lm: LanguageModel, sae: SAE) -> None:
    pot = prompts(60, "there", 3)
    found = search_prompts(tiny_lm, sae, pot[::2], pot[1::2], top=10)
    chance = [each.held_out["auroc"] for each in found.found]
    assert sum(one.low <= 0.5 <= one.high for one in chance) >= 0.7 * len(chance)
    assert found.control.low <= 0.5 <= found.control.high
    assert abs(found.control.value - 0.5) < 0.15


@pytest.mark.parametrize("seed", range(6))
def test_of_a_short_and_a_long_list_chance_is_told_as_well(tiny_lm: LanguageModel, sae: SAE, seed: int) -> None:
    """However the prompts are shuffled, either half keeps as many of either kind: 4 and 80."""
    pot = prompts(168, "there", 3)
    found = search_prompts(tiny_lm, sae, pot[:8], pot[8:], top=1, seed=seed)
    assert found.control.low <= 0.5 <= found.control.high
    assert found.control.n == 20


def test_the_same_seed_finds_the_same(tiny_lm: LanguageModel, sae: SAE, found: PromptSearch) -> None:
    again = search_prompts(tiny_lm, sae, prompts(20, "happy", 1), prompts(20, "there", 2))
    assert again.to_json() == found.to_json()
    json.dumps(found.to_json(), allow_nan=False)


def test_swapping_the_lists_swaps_the_sides(tiny_lm: LanguageModel, sae: SAE) -> None:
    found = search_prompts(tiny_lm, sae, prompts(20, "there", 2), prompts(20, "happy", 1))
    (best,) = [each for each in found.found if each.latent == HAPPY]
    assert best.side == "negative"
    assert best.held_out["auroc"].value == 0
    assert best.holds


def test_a_feature_holds_where_the_interval_lies_on_the_side_it_was_chosen_for(found: PromptSearch) -> None:
    def judged(side: str, low: float, high: float) -> bool:
        auroc = found.control._replace(value=(low + high) / 2, low=low, high=high)
        return found.found[0]._replace(side=side, held_out={"auroc": auroc}).holds

    assert judged("positive", 0.6, 0.9)
    assert judged("negative", 0.1, 0.4)
    assert not any(judged(side, 0.4, 0.6) for side in ("positive", "negative"))
    assert not judged("positive", 0.1, 0.4)
    assert not judged("negative", 0.6, 0.9)


def test_the_most_positive_latent_is_chosen_by_every_prompt_that_is_given(tiny_lm: LanguageModel, sae: SAE) -> None:
    happy, others = prompts(4, "happy", 1), prompts(16, "there", 2)
    assert most_positive(tiny_lm, sae, happy, others[:4]) == HAPPY
    mixed = [*happy[:2], *others[4:10]]  # a fourth of them has it, and nothing that is left out
    read = read_prompts(tiny_lm, sae, mixed, others[:4])
    aurocs = plain_scores(Values(read.pooled("max"), read.strong()), read.positive)["auroc"]
    aurocs[list(read.nuisances())] = 0
    best = most_positive(tiny_lm, sae, mixed, others[:4])
    assert best is not None
    assert aurocs[best] == aurocs.max()
    with pytest.raises(KanaryError, match="stands there twice"):
        most_positive(tiny_lm, sae, [*happy, happy[0]], others[:4])


# --- the scores ---------------------------------------------------------------------------------------------------


def values(positives: int = 9, negatives: int = 7, latents: int = 5) -> tuple[Values, torch.Tensor]:
    draw = torch.Generator().manual_seed(4)
    shape = (positives + negatives, latents)
    pooled = torch.randint(0, 4, shape, generator=draw).float()  # with ties
    return Values(pooled, torch.rand(shape, generator=draw)), torch.arange(shape[0]) < positives


def test_scores_are_what_their_definitions_say() -> None:
    both, positive = values()
    scores = plain_scores(both, positive)
    for latent in range(5):
        a, b = (both.pooled[side, latent].double() for side in (positive, ~positive))
        wins = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in itertools.product(a.tolist(), b.tolist())]
        assert scores["auroc"][latent] == pytest.approx(sum(wins) / len(wins), abs=1e-6)
        assert scores["mean_difference"][latent] == pytest.approx(float(a.mean() - b.mean()), abs=1e-6)
        pooled = ((len(a) - 1) * a.var() + (len(b) - 1) * b.var()) / (len(a) + len(b) - 2)
        assert scores["cohens_d"][latent] == pytest.approx(float((a.mean() - b.mean()) / pooled.sqrt()), abs=1e-5)
        strong = both.strong[:, latent].double()
        difference = float(strong[positive].mean() - strong[~positive].mean())
        assert scores["rank_share"][latent] == pytest.approx(difference, abs=1e-6)


def test_a_latent_that_never_varies_wins_by_no_division() -> None:
    pooled = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    scores = plain_scores(Values(pooled, pooled), torch.tensor([True, True, False, False]))
    assert scores["cohens_d"][0] == pytest.approx(1 / 0.05)


def test_the_intervals_hold_the_number_and_shrink_with_the_prompts() -> None:
    few, many = (
        resampled_scores(Values(both.pooled, both.strong), positive, 0) for both, positive in (values(), values(90, 70))
    )
    for row in (*few, *many):
        for name in SCORES:
            assert row[name].low <= row[name].value <= row[name].high
    width = [sum(row["auroc"].high - row["auroc"].low for row in rows) for rows in (few, many)]
    assert width[1] < width[0] / 2


# --- the codes ----------------------------------------------------------------------------------------------------


def test_pools_and_strong_shares_are_those_of_each_prompt_alone(tiny_lm: LanguageModel, sae: SAE) -> None:
    texts = prompts(5, "happy", 5), prompts(4, "there", 6)
    read = read_prompts(tiny_lm, sae, *texts)
    tables = {pool: read.pooled(pool) for pool in ("max", "mean", "last")}
    strong = read.strong()
    for i, text in enumerate((*texts[0], *texts[1])):
        ids = torch.tensor([[0, *tiny_lm.tokenizer.encode(text)]])
        codes = sae.encode(tiny_lm.capture(ids, ["resid_pre.0"])["resid_pre.0"][0, 1:]).to_dense()
        assert torch.allclose(tables["max"][i], codes.amax(0))
        assert torch.allclose(tables["mean"][i], codes.mean(0), atol=1e-5)
        assert torch.equal(tables["last"][i], codes[-1])
        many = (codes > 0).sum(1)
        quarter = (codes > 0) & ((codes[:, None, :] > codes[:, :, None]).sum(2) < (many[:, None] + 3) // 4)
        assert torch.allclose(strong[i], quarter.float().mean(0))
        assert read.texts[i] == tuple(tiny_lm.tokenizer.decode([id]) for id in ids[0, 1:])


def made(fires: dict[int, Any], lengths: int = 6, each: int = 10) -> PromptCodes:
    """Prompts of six tokens, "A b c. D e f": latent -> (positive, prompt, position) -> whether it fires, with a value of 1."""
    dense = torch.zeros(2 * each, lengths, max(fires) + 1)
    for latent, when in fires.items():
        for prompt, position in itertools.product(range(2 * each), range(lengths)):
            dense[prompt, position, latent] = float(when(prompt < each, prompt, position))
    words = ("A", " b", " c.", " D", " e", " f")
    starts = torch.tensor([*sentence_starts(words)] * (2 * each))
    tokens = torch.arange(2 * each * lengths)
    codes = SparseCodes.from_dense(dense.view(-1, dense.shape[-1]))
    side = torch.arange(2 * each) < each
    return PromptCodes(codes, tokens // lengths, tokens % lengths, starts, side, (words,) * (2 * each))


def test_a_reason_that_both_lists_have_is_named_and_what_one_list_has_is_kept() -> None:
    found = made(
        {
            0: lambda positive, prompt, position: True,
            1: lambda positive, prompt, position: position in (0, 3),
            2: lambda positive, prompt, position: position == 4 and prompt % 3 > 0,
            3: lambda positive, prompt, position: position == 4 and positive,
            4: lambda positive, prompt, position: positive,
            5: lambda positive, prompt, position: position in (0, 3) and positive,
            6: lambda positive, prompt, position: (prompt * 7 + position * 5) % 4 == 0,
        }
    ).nuisances()
    assert {latent: why for latent, (why, _) in found.items()} == {0: "always on", 1: "sentence start", 2: "position"}
    assert "at token 5 of the prompts" in found[2][1]


@pytest.mark.parametrize(
    ("words", "starts"),
    [
        (["The", " cat", ".", " It", " ran"], [1, 0, 0, 1, 0]),
        ([' "', "Hi", '!"', " she", " said"], [0, 1, 0, 1, 0]),
        (["a", "\n", "b", " e", ".", "g", "."], [1, 0, 1, 0, 0, 1, 0]),
    ],
)
def test_sentences_start_at_the_first_word_and_after_what_ends_one(words: list[str], starts: list[int]) -> None:
    assert [int(start) for start in sentence_starts(words)] == starts


# --- concepts -----------------------------------------------------------------------------------------------------


def test_the_true_latent_is_the_one_with_the_best_f1(tiny_lm: LanguageModel, sae: SAE) -> None:
    from kanary.text.labelled import pairs

    found = true_latent(tiny_lm, sae, "gender.female", n=12)
    codes, holds = [], []
    for record in (each for pair in itertools.islice(pairs("gender.female", 1_000_003), 12) for each in pair):
        ids, concepts, _ = record.tokens(tiny_lm.tokenizer)
        tokens = torch.tensor([[0, *ids[:63]]])
        codes.append(sae.encode(tiny_lm.capture(tokens, ["resid_pre.0"])["resid_pre.0"][0, 1:]).to_dense())
        holds += ["gender.female" in here for here in concepts[:63]]
    dense, truth = torch.cat(codes), torch.tensor(holds)

    def f1(latent: int) -> float:
        said = dense[:, latent] >= torch.cat([dense[:, latent].unique()])[:, None]
        return float((2 * (said & truth).sum(1) / (said.sum(1) + truth.sum())).max())

    assert found.latent == max(range(D_SAE), key=f1)
    assert found.f1 == pytest.approx(f1(found.latent), abs=0.02)  # its thresholds are 64 bins


def test_concept_prompts_are_pairs_of_different_passages_of_which_one_has_the_concept() -> None:
    on, off = concept_prompts("gender.female", 20)
    assert len({*on, *off}) == 40
    assert all(len(text) <= 480 for text in (*on, *off))
    assert sum(" she " in text or " her " in text for text in on) > sum(
        " she " in text or " her " in text for text in off
    )


def test_with_a_concept_the_rank_of_its_latent_is_told(tiny_lm: LanguageModel, sae: SAE) -> None:
    lists = prompts(10, "happy", 1), prompts(10, "there", 2)
    truth = search_prompts(tiny_lm, sae, *lists, concept="gender.female").truth
    assert truth is not None
    assert truth.latent == true_latent(tiny_lm, sae, "gender.female").latent
    assert set(truth.ranks) == set(SCORES)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a, b: (a[:7], b), "7 positive prompts are too few"),
        (lambda a, b: (a, []), "0 negative prompts are too few"),
        (lambda a, b: ([*a, "  "], b), "positive prompt number 11 is empty"),
        (lambda a, b: (a, [*b, b[0]]), "stands there twice"),
        (lambda a, b: (a, [*b, a[3]]), "in both lists"),
        (lambda a, b: ([*a, "dog " * 99], b), "reads 64"),
    ],
)
def test_lists_that_cannot_be_judged_are_refused_in_one_line(
    tiny_lm: LanguageModel, sae: SAE, change: Any, says: str
) -> None:
    with pytest.raises(KanaryError, match=says) as refusal:
        search_prompts(tiny_lm, sae, *change(prompts(10, "happy", 1), prompts(10, "there", 2)))
    assert "\n" not in str(refusal.value)


def test_the_command_reads_lists_and_prints_what_the_function_finds(
    tiny_lm: LanguageModel, sae: SAE, tmp_path: Path
) -> None:
    sae.save_pretrained(tmp_path / "run" / "sae")
    for name, word, seed in (("with.txt", "happy", 1), ("without.txt", "there", 2)):
        (tmp_path / name).write_text("\n".join(prompts(20, word, seed)) + "\n")
    words = ("search-prompts", tmp_path / "run", "--positive", tmp_path / "with.txt")
    said = kanary(*words, "--negative", tmp_path / "without.txt", "--out", tmp_path / "found.json")
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "found.json").read_text())["found"][0]["latent"] == HAPPY
    assert "[ happy]" in said.out
    assert "By chance" in said.out
    of_positive, of_negative = re.findall(r"out (\d+) of (\d+) still are", said.out)
    rows = json.loads((tmp_path / "found.json").read_text())["found"]
    sides = {
        side: [row["held_out"]["auroc"] for row in rows if row["side"] == side] for side in ("positive", "negative")
    }
    assert (int(of_positive[0]), int(of_positive[1])) == (
        sum(each["low"] > 0.5 for each in sides["positive"]),
        len(sides["positive"]),
    )
    assert (int(of_negative[0]), int(of_negative[1])) == (
        sum(each["high"] < 0.5 for each in sides["negative"]),
        len(sides["negative"]),
    )
    assert int(of_negative[0]) > 0
    assert "near 1: more of it in positive prompts" in said.out
    assert "near 0: more of it in negative prompts" in said.out
    assert re.search(r"−\d\.\d\d \(−\d\.\d\d to −?\d\.\d\d\)", said.out)
    assert "left out.\n" not in said.err
    assert not re.search(r"−0\.0+\b", said.out)
    assert "are few" not in said.out
    for name in ("with.txt", "without.txt"):
        (tmp_path / name).write_text("\n".join((tmp_path / name).read_text().splitlines()[:9]))
    assert "4 held out are few" in kanary(*words, "--negative", tmp_path / "without.txt").out
    assert "both --positive" in kanary(*words).message
    assert "cannot be read" in kanary(*words, "--negative", tmp_path / "nowhere.txt").message
    (tmp_path / "gap.txt").write_text("one\n\ntwo\n")
    lines = (tmp_path / "with.txt").read_text().splitlines()
    (tmp_path / "again.txt").write_text("\n".join([*lines, lines[0], lines[3]]))
    again = kanary(*words[:3], tmp_path / "again.txt", "--negative", tmp_path / "without.txt")
    assert "again.txt: 2 lines that stand there again are left out." in again.err
    assert again.out == kanary(*words, "--negative", tmp_path / "without.txt").out
    (tmp_path / "both.txt").write_text("\n".join([*prompts(9, "there", 2), lines[0]]))
    assert "in both lists" in kanary(*words, "--negative", tmp_path / "both.txt").message
    assert "number 2 is empty" in kanary(*words, "--negative", tmp_path / "gap.txt").message
    assert package.search_prompts is search_prompts
