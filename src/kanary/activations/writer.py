"""Writing a store, shard by shard: each is whole on the disk before the manifest lists it."""

from pathlib import Path
from typing import Any

from kanary.activations.pool import Pool
from kanary.activations.shards import write_shard
from kanary.activations.store import shard_path
from kanary.files import write_json


class StoreWriter:
    """Adds shards to the store in ``folder``. The caller holds the folder (``files.exclusive``).

    Killed at any moment, the store holds the shards that the manifest lists; a file that it does not list is written
    again.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """``manifest``: what :class:`ActivationStore` reads, with the shards that are already there."""
        self.folder, self.manifest = folder, manifest
        self._save()

    @property
    def rows(self) -> int:
        return sum(int(shard["rows"]) for shard in self.manifest["shards"])

    def append(self, pool: Pool) -> None:
        """Writes ``pool`` as the next shard; a full disk raises :class:`KanaryError` and loses only this shard."""
        ids = {"tokens": pool.tokens, "documents": pool.documents, "positions": pool.positions}
        contents = {"ids": ids} | {
            folder: {"activations": pool.x[site]} for site, folder in self.manifest["sites"].items()
        }
        files = {}
        for name, tensors in contents.items():
            size, digest = write_shard(shard_path(self.folder, name, len(self.manifest["shards"])), tensors)
            files[name] = {"bytes": size, "sha256": digest}
        shard = {"rows": len(pool), "files": files, "after": pool.after}
        self.manifest = self.manifest | {"shards": [*self.manifest["shards"], shard]}
        self._save()

    def finish(self) -> None:
        """Marks the store as complete."""
        self.manifest = self.manifest | {"complete": True}
        self._save()

    def _save(self) -> None:
        write_json(self.folder / "manifest.json", self.manifest)
