"""An SAE goes to the Hub with a card that says what it is, and comes back as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from hub import Hub, running_hub
from kanary.errors import KanaryError
from kanary.sae import SAE
from planted import KINDS, random_sae


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def sae_of(kind: str = "topk") -> SAE:
    sae = random_sae(kind).float()
    metric = {"value": 0.8123, "low": 0.8, "high": 0.82, "n": 12_345}
    sae.remember(
        model="someone/tiny-llama",
        site="resid_post.2",
        tokenizer="someone/tiny-llama",
        special_ids=[0, 1],
        metrics={"explained_variance": metric},
    )
    return sae


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_pushed_comes_back_with_the_same_codes(hub: Hub, kind: str) -> None:
    sae, x = sae_of(kind), torch.randn(20, 6)
    assert sae.push_to_hub("someone/sae") == f"{hub.url}/someone/sae"
    back = SAE.from_pretrained("someone/sae")
    assert torch.equal(back.encode(x).to_dense(), sae.encode(x).to_dense())
    assert torch.equal(back(x), sae(x))
    assert back.config.trained_on == sae.config.trained_on
    assert set(hub.files("someone/sae")) - {".gitattributes"} == {"README.md", "config.json", "sae.safetensors"}


def test_the_card_says_what_the_sae_is_what_it_reads_and_how_good_it_is(hub: Hub) -> None:
    sae_of().push_to_hub("someone/sae")
    card = ModelCard(hub.files("someone/sae")["README.md"].decode())
    assert card.data.library_name == "kanary"
    assert card.data.base_model == "someone/tiny-llama"
    assert "sparse-autoencoder" in card.data.tags
    for words in (
        "16 latents",
        "width 6",
        "topk(k=3",
        "| site | resid_post.2 |",
        "| explained_variance | 0.8123 | 0.8 … 0.82 | 12,345 |",
        "kanary.SAE.from_pretrained('someone/sae')",
    ):
        assert words in card.text, words
    assert "special_ids" not in card.text


def test_every_table_of_the_card_has_as_many_cells_in_each_row(hub: Hub) -> None:
    sae = sae_of()
    sae.remember(text="a | b")
    sae.push_to_hub("someone/sae")
    table: list[str] = []
    for line in [*hub.files("someone/sae")["README.md"].decode().splitlines(), ""]:
        if line.startswith("|"):
            assert line.endswith("|"), line
            table.append(line)
        elif table:
            assert len({row.replace("\\|", "").count("|") for row in table}) == 1, table
            table = []


def test_a_folder_on_this_machine_is_no_base_model(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/mine").mkdir(parents=True)
    for local in ("models/mine", "../models/mine", str(tmp_path), "gpt2"):
        sae = sae_of()
        sae.remember(model=local)
        sae.push_to_hub("someone/sae")
        header = hub.files("someone/sae")["README.md"].decode().split("---")[1]
        assert "base_model" not in yaml.safe_load(header)


def test_an_sae_without_numbers_has_a_card_without_them(hub: Hub) -> None:
    random_sae("relu").float().push_to_hub("someone/sae")
    assert "Numbers" not in hub.files("someone/sae")["README.md"].decode()


def test_pushing_again_replaces_and_a_revision_brings_the_old_one_back(hub: Hub) -> None:
    first, second = random_sae("topk", seed=0).float(), random_sae("topk", seed=1).float()
    first.push_to_hub("someone/sae")
    old = list(hub.repositories["someone/sae"].commits)[-1]
    second.push_to_hub("someone/sae")
    assert torch.equal(SAE.from_pretrained("someone/sae").W_dec, second.W_dec)
    assert torch.equal(SAE.from_pretrained("someone/sae", revision=old).W_dec, first.W_dec)


def test_private_stays_private(hub: Hub) -> None:
    sae_of().push_to_hub("someone/secret", private=True)
    assert hub.repositories["someone/secret"].private


def one_line(words: str, action: object, *arguments: object) -> None:
    with pytest.raises(KanaryError, match=words) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said_in_one_line(hub: Hub) -> None:
    one_line("nobody/nothing", SAE.from_pretrained, "nobody/nothing")
    one_line("no/such/thing", SAE.from_pretrained, "no/such/thing")
    one_line("no-such-folder", SAE.from_pretrained, "no-such-folder")
    sae_of().push_to_hub("someone/sae")
    with pytest.raises(KanaryError, match="someone/sae"):
        SAE.from_pretrained("someone/sae", revision="nonsense")


def test_a_repository_without_an_sae_is_refused_by_its_name(hub: Hub) -> None:
    sae_of().push_to_hub("someone/sae")
    hub.repositories["someone/sae"].commit({"README.md": b"nothing"})
    one_line("someone/sae|someone--sae", SAE.from_pretrained, "someone/sae")


def test_weights_that_were_swapped_on_the_hub_are_refused(hub: Hub) -> None:
    sae_of().push_to_hub("someone/sae")
    files = dict(hub.files("someone/sae"))
    other = bytearray(files["sae.safetensors"])
    other[-1] ^= 1
    hub.repositories["someone/sae"].commit(files | {"sae.safetensors": bytes(other)})
    one_line(r"sae\.safetensors is damaged", SAE.from_pretrained, "someone/sae")


def test_a_hub_that_fails_is_one_line_and_nothing_is_half_there(hub: Hub) -> None:
    hub.broken = True
    one_line("'someone/sae'", sae_of().push_to_hub, "someone/sae")
    assert not hub.repositories


def test_a_name_that_is_no_hub_id_is_refused(hub: Hub) -> None:
    for name in ("", "someone/sae/again", "no spaces/please"):
        one_line("could not be pushed", sae_of().push_to_hub, name)
