"""How fast a store is read in shuffled batches, beside the disk's own sequential rate.

    python bench/store.py --json

Writes a store of 2 GB (``--gb``) under ``--folder``. Then in turn, each time after dropping it from the page cache
(``posix_fadvise(DONTNEED)``; Linux), its files are read from front to back in 8 MB pieces, and in shuffled batches.
``x_disk`` is the quotient of the two rates in bytes/s, median of the rounds; ``peak_mb`` the most memory of the process
that read (its own, without the page cache), torch included.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch

from kanary.activations.pool import Pool
from kanary.activations.store import FORMAT, IDS, ActivationStore, site_folder
from kanary.activations.stored import StoredActivations
from kanary.activations.writer import StoreWriter

SITE = "resid_post.0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0, help="size of the store")
    parser.add_argument("--width", type=int, default=512, help="numbers per activation")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--batch", type=int, default=4096, help="rows per batch")
    parser.add_argument("--pool", type=int, default=131_072, help="rows that are mixed")
    parser.add_argument("--rounds", type=int, default=3, help="how often both rates are measured, in turn")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to put the store (default: a temporary folder)"
    )
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = write_store(Path(folder), args.gb, args.width, getattr(torch, args.dtype))
        rounds = [
            (in_child(sequential, store.folder), in_child(shuffled, store.folder, args.pool, args.batch))
            for _ in range(args.rounds)
        ]
        disk = [disk_bytes / seconds for (disk_bytes, seconds, _), _ in rounds]
        ours = [read_bytes / seconds for _, (read_bytes, seconds, _) in rounds]
        line = {
            "case": "shuffled read, page cache dropped",
            "x_disk": round(statistics.median(b / a for a, b in zip(disk, ours, strict=True)), 3),
            "disk_mb_s": [round(rate / 1e6) for rate in disk],
            "read_mb_s": [round(rate / 1e6) for rate in ours],
            "rows_s": round(statistics.median(ours) * store.n_tokens / store.n_bytes),
            "peak_mb": round(max(peak for _, (_, _, peak) in rounds)),
            "store_gb": round(store.n_bytes / 1e9, 3),
            "rows": store.n_tokens,
            "width": args.width,
            "dtype": args.dtype,
            "pool": args.pool,
            "batch": args.batch,
            "n": args.rounds,
        }
    print(json.dumps(line))


def write_store(folder: Path, gigabytes: float, width: int, dtype: torch.dtype) -> ActivationStore:
    """A store of normal random numbers in shards of 128 MB."""
    rows = int(gigabytes * 1e9) // (width * dtype.itemsize)
    shard = (128 << 20) // (width * dtype.itemsize)
    manifest = {
        "format": FORMAT,
        "complete": False,
        "sites": {SITE: site_folder(SITE)},
        "widths": {SITE: width},
        "dtype": str(dtype).removeprefix("torch."),
        "shards": [],
    }
    writer = StoreWriter(folder, manifest)
    x = torch.randn(shard, width).to(dtype)
    while writer.rows < rows:
        n = min(shard, rows - writer.rows)
        ids = {name: torch.arange(writer.rows, writer.rows + n).to(kind) for name, kind in IDS.items()}
        writer.append(Pool(len(writer.manifest["shards"]), {SITE: x[:n]}, **ids, state={}, after={}))
    writer.finish()
    return ActivationStore.open(folder)


def in_child(function, *args):
    """Runs in a process of its own, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def sequential(folder: Path) -> tuple[int, float, float]:
    files = drop_cache(folder)
    buffer = bytearray(8 << 20)
    total, start = 0, time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total, time.perf_counter() - start, peak_mb()


def shuffled(folder: Path, pool: int, batch: int) -> tuple[int, float, float]:
    drop_cache(folder)
    torch.ones(1 << 20).sum()  # threads start before the clock
    store = ActivationStore.open(folder)
    start = time.perf_counter()
    source = StoredActivations(store, pool=pool, batch=batch, repeat=False)
    rows = sum(len(drawn) for part in source.pools() for drawn in part.batches(batch, seed=0, partial=True))
    seconds = time.perf_counter() - start
    assert rows == store.n_tokens
    return store.n_bytes, seconds, peak_mb()


def drop_cache(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*.safetensors"))
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    return files


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
