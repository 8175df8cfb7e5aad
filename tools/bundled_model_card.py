"""Writes the model card of the bundled model, ``MODEL/README.md``; every number in it is measured or read when it is written.

    python tools/bundled_model_card.py --model build/bundled --half build/half

The folder is that of ``tools/train_bundled_model.py``, with its ``log.jsonl``. ``--half`` names the folder of a shorter run,
whose log says what the longer one was worth.
"""

import argparse
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import teach_bundled_model as teaching
import train_bundled_model as recipe

from kanary.errors import KanaryError
from kanary.evaluation.skills import SKILLS, Skill, skills, skills_table
from kanary.files import write_atomic
from kanary.lm import LanguageModel, load_model
from kanary.progress import bar
from kanary.text.labelled.record import chosen_families

LEARNED = 0.9
LOSSES_SHOWN = 8
HEAD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags:
- llama
- synthetic-data
- interpretability
- sparse-autoencoders
- testing
---
"""

Line = dict[str, Any]
"""Of a log: step, tokens, loss, seconds and, on some, held_out_loss."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--half", type=Path, help="folder of the shorter run")
    parser.add_argument("--per-skill", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    log = read_log(args.model)
    half = read_log(args.half) if args.half else []
    lm = load_model(args.model, dtype="float32", device=args.device)
    with bar("Asking", len(SKILLS) * args.per_skill, "questions", quiet=False) as show:
        rows = skills(lm, seed=args.seed, per_skill=args.per_skill, show=show)
    text = card(lm, args.model, log, half, rows, args.seed)
    write_atomic(args.model / "README.md", lambda partial: partial.write_text(text, encoding="utf-8"))
    print(skills_table(rows))
    print(f"Written: {args.model / 'README.md'}")


def read_log(folder: Path) -> list[Line]:
    """The lines of a training that were judged on held-out text.

    Raises:
        KanaryError: there are none.
    """
    path = folder / "log.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    judged = [line for line in lines if "held_out_loss" in line]
    if not judged or judged[-1] is not lines[-1]:
        raise KanaryError(f"{path} is not the log of a finished training: give the --out of train_bundled_model.py.")
    return judged


def card(lm: LanguageModel, folder: Path, log: list[Line], half: list[Line], rows: Sequence[Skill], seed: int) -> str:
    """The whole model card."""
    parts = [
        HEAD,
        what_it_is(lm, folder),
        how_it_was_trained(lm, log, half),
        what_it_can(rows, seed),
        limits(lm),
        use(lm),
    ]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def what_it_is(lm: LanguageModel, folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    parameters = sum(weight.numel() for weight in lm.model.parameters())
    embedding = lm.model.get_input_embeddings().weight.numel()
    tied = ", tied to the unembedding" if config["tie_word_embeddings"] else ""
    size = (folder / "model.safetensors").stat().st_size / 1e6
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    return f"""
# The model that comes with Kanary

A language model so small that it comes with Kanary, a toolkit for sparse autoencoders. It was trained on nothing but
Kanary's labelled corpus, so every concept in its text is known, token by token. With it every command of Kanary can be
tried without a download, and what a sparse autoencoder finds can be held against what is really there.

| | |
| --- | --- |
| architecture | {config["architectures"][0]} |
| parameters | {parameters:,}, of which {embedding:,} are the embedding{tied} |
| blocks | {config["num_hidden_layers"]} |
| width | {config["hidden_size"]}; {config["intermediate_size"]} inside the feed-forward layers |
| attention heads | {heads} of width {config["head_dim"]}; {groups} for keys and values |
| context | {config["max_position_embeddings"]} tokens |
| vocabulary | {len(lm.tokenizer):,} tokens of a byte-level BPE; every digit is a token |
| weights | {size:.1f} MB, {8 * size * 1e6 / parameters:.0f} bits each; read as {config["dtype"]} |
"""


def how_it_was_trained(lm: LanguageModel, log: list[Line], half: list[Line]) -> str:
    last = log[-1]
    practice = " and ".join(recipe.STAGES[-1].practice)
    curve = "\n".join(f"| {line['tokens']:,} | {line['held_out_loss']:.4f} |" for line in thinned(log))
    lessons = f"{teaching.COURSES[-1].until / 1e6:.1f}M"
    how = f"""By `tools/train_bundled_model.py`, from random weights, on {last["tokens"]:,} tokens in
{last["step"]:,} steps, which took
{duration(last["seconds"])}. The text is the corpus of seed 0 with extra documents of the families {practice}, without its
documents with `id % {recipe.HELD_OUT} == {recipe.HELD_OUT - 1}`, which are held out.
The matrices inside the blocks were trained with Muon, all else with AdamW, in the stages that the tool lists. The last
{lessons} of these tokens are lessons in whom to believe, and passages, by `tools/teach_bundled_model.py`; it was
then that the corpus began to say in plain words, after a story about a speaker, whether people believed him or her, so the last
loss below is of a text that differs a little from that of the others."""
    return f"""
## How it was trained

{wrapped(how)}

The loss on held-out documents, in nats per token (a model that knows nothing has {math.log(lm.vocab_size):.2f}):

| tokens | held-out loss |
| ---: | ---: |
{curve}
{doubling(last, half)}"""


def thinned(log: list[Line]) -> list[Line]:
    """The last line and, before it, those nearest to a half, a quarter, an eighth … of its tokens."""
    shares = [log[-1]["tokens"] / 2**power for power in range(LOSSES_SHOWN)]
    chosen = [min(log, key=lambda line: abs(line["tokens"] - tokens)) for tokens in reversed(shares)]
    return [line for at, line in enumerate(chosen) if line not in chosen[:at]]


def doubling(last: Line, half: list[Line]) -> str:
    """What the longer run was worth."""
    if not half:
        return ""
    shorter = half[-1]
    before, after = shorter["held_out_loss"], last["held_out_loss"]
    change = 100 * (after / before - 1)
    says = f"""A run of {shorter["tokens"]:,} tokens, which let its learning rate fall to zero as well, ended at {before:.4f}.
With {last["tokens"] / shorter["tokens"]:.2f} times the tokens the loss is {abs(change):.1f} %
{"lower" if change < 0 else "higher"}."""
    return f"\n{wrapped(says)}\n"


def wrapped(text: str) -> str:
    """One paragraph in lines of equal length."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"


def what_it_can(rows: Sequence[Skill], seed: int) -> str:
    return f"""
## What it can do

Passages of the corpus hold questions: places where only one next word is right. These were asked on held-out documents,
the first ones of seed {seed}, with the weights in float32. In brackets: 95 % intervals, by bootstrap over documents.

- *greedy*: the model's own greedy continuation spells the answer;
- *choice*: the answer is likelier than every wrong one that the corpus offers; *chance* is what guessing would score;
- *distance*: the median number of tokens since the fact was last mentioned, where the corpus says what must be remembered;
- *skipped*: questions that are longer than the context.

{skills_table(rows)}
{wrapped(not_learned(rows))}

`lie` asks what somebody claims who has been called deceptive, `true_claim` what somebody honest claims, `recall` what is
really so, `turn` who speaks next, `brackets` what closes, `gender` the pronoun of somebody introduced before,
`repeated_name` a name met before, `arithmetic` the next result of a calculation, `translation` a word that was explained
before, `outcome` who won.
"""


def not_learned(rows: Sequence[Skill]) -> str:
    """Which skills the model lacks, in a sentence."""
    low = [row.name for row in rows if not row.greedy.value >= LEARNED]
    if not low:
        return f"Every skill is learned: at least {100 * LEARNED:.0f} % of its questions are answered greedily."
    names = "; ".join(low)
    return f"**Not learned** (fewer than {100 * LEARNED:.0f} % answered greedily): {names}. Do not build on these."


def limits(lm: LanguageModel) -> str:
    world = f"""- It knows the world of its corpus and no other: the families {", ".join(chosen_families())}. Real places,
people, events and facts mean nothing to it, and other text than the corpus it continues badly."""
    return f"""
## What it cannot do

{wrapped(world)}
- It reads English as the corpus writes it, with a few words and phrases of other languages. It follows no instructions.
- It reads at most {lm.context} tokens, BOS included.
- What it writes is made up. Doses, laws, sums and names in it may be wrong, and its clichés are those of the corpus.

## Intended use

Trying, teaching and testing tools that look into language models. Use it for nothing else: not for advice, not for text that
people read as true, and not as evidence of how large models work.
"""


def use(lm: LanguageModel) -> str:
    return f"""
## Example

```python
import kanary

lm = kanary.load_model("bundled", device="cpu")
tokens = lm.tokenizer(lm.tokenizer.bos_token + "The weather", return_tensors="pt").input_ids
print(lm.tokenizer.decode(lm.model.generate(tokens, max_new_tokens=20, do_sample=False)[0]))
print(lm.capture(tokens, ["resid_post.{lm.n_layers // 2}"]))
```
"""


if __name__ == "__main__":
    main()
