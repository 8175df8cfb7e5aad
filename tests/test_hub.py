"""The stand-in for the Hub behaves as the Hub's own client expects."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

from hub import Hub, running_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sae"
    (folder / "nested").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlibrary_name: kanary\n---\n# An SAE\n", encoding="utf-8")
    (folder / "weights.safetensors").write_bytes(bytes(range(256)) * 400)
    (folder / "nested" / "config.json").write_text("{}", encoding="utf-8")
    return folder


def upload(folder: Path) -> None:
    api = HfApi()
    api.create_repo("someone/sae", exist_ok=True)
    api.upload_folder(repo_id="someone/sae", folder_path=folder)


def test_an_uploaded_folder_comes_back_byte_for_byte(hub: Hub, folder: Path) -> None:
    upload(folder)
    back = Path(snapshot_download("someone/sae"))
    for path in (p for p in folder.rglob("*") if p.is_file()):
        assert (back / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert hub.files("someone/sae")["nested/config.json"] == b"{}"


def test_a_second_upload_replaces_files_and_the_old_commit_stays(hub: Hub, folder: Path) -> None:
    upload(folder)
    first = HfApi().model_info("someone/sae").sha
    (folder / "nested" / "config.json").write_text('{"k": 16}', encoding="utf-8")
    upload(folder)
    assert Path(hf_hub_download("someone/sae", "nested/config.json")).read_text(encoding="utf-8") == '{"k": 16}'
    assert (
        Path(hf_hub_download("someone/sae", "nested/config.json", revision=first)).read_text(encoding="utf-8") == "{}"
    )


def test_uploading_the_same_folder_again_makes_no_commit(hub: Hub, folder: Path) -> None:
    upload(folder)
    commits = len(hub.repositories["someone/sae"].commits)
    upload(folder)
    assert len(hub.repositories["someone/sae"].commits) == commits


def test_what_is_not_there_raises_what_the_real_hub_raises(hub: Hub, folder: Path) -> None:
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("nobody/nothing")
    upload(folder)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("someone/sae", "missing.json")
    with pytest.raises(HfHubHTTPError, match="409"):
        HfApi().create_repo("someone/sae")


def test_private_repositories_are_asked_for_as_private(hub: Hub) -> None:
    HfApi().create_repo("someone/secret", private=True)
    assert hub.repositories["someone/secret"].private


def test_a_broken_hub_is_an_error_not_a_silent_success(hub: Hub, folder: Path) -> None:
    hub.broken = True
    with pytest.raises(HfHubHTTPError, match="500"):
        HfApi().create_repo("someone/sae")
    assert not hub.repositories
