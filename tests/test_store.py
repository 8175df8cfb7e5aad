"""A store gives back what was written, every row once per epoch, and says which file is damaged."""

import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kanary.activations.pool import Pool
from kanary.activations.store import FORMAT, ActivationStore, site_folder
from kanary.activations.stored import StoredActivations
from kanary.activations.writer import StoreWriter
from kanary.errors import KanaryError

SITE = "resid_post.1"


def make_store(
    folder: Path,
    shards: list[int],
    *,
    width: int = 8,
    dtype: torch.dtype = torch.float32,
    sites: tuple[str, ...] = (SITE,),
) -> ActivationStore:
    """A store whose token ids are the row numbers and whose activations depend on them."""
    manifest = {
        "format": FORMAT,
        "complete": False,
        "sites": {site: site_folder(site) for site in sites},
        "widths": dict.fromkeys(sites, width),
        "dtype": str(dtype).removeprefix("torch."),
        "shards": [],
    }
    folder.mkdir(parents=True, exist_ok=True)
    writer = StoreWriter(folder, manifest)
    for number, rows in enumerate(shards):
        ids = torch.arange(writer.rows, writer.rows + rows)
        x = {site: activations(ids, width, dtype) + i for i, site in enumerate(sites)}
        writer.append(Pool(number, x, ids, ids + 2**40, (ids % 7).int(), state={}, after={}))
    writer.finish()
    return ActivationStore.open(folder)


def activations(ids: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    return ((ids[:, None] * 31 + torch.arange(width) * 17) % 251).to(dtype)


def streamed(source: StoredActivations, pools: int | None = None) -> list[int]:
    tokens: list[int] = []
    for pool in source.pools():
        tokens += pool.tokens.tolist()
        assert torch.equal(pool.x[SITE], activations(pool.tokens, 8, source.store.dtype))
        if pools is not None and pool.index == pools - 1:
            break
    return tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_survives_the_store(tmp_path: Path, dtype: torch.dtype) -> None:
    store = make_store(tmp_path, [100, 37], dtype=dtype)
    rows = store.read(90, 120)
    ids = torch.arange(90, 120)
    assert rows.x[SITE].dtype == dtype
    assert torch.equal(rows.x[SITE], activations(ids, 8, dtype))
    assert torch.equal(rows.tokens, ids)
    assert torch.equal(rows.documents, ids + 2**40)
    assert torch.equal(rows.positions, (ids % 7).int())
    assert (store.n_tokens, store.d_model, store.sites, store.complete) == (137, 8, [SITE], True)


def test_any_safetensors_library_reads_a_shard(tmp_path: Path) -> None:
    store = make_store(tmp_path, [50], dtype=torch.bfloat16)
    tensors = safetensors.torch.load_file(store.path(SITE, 0))
    assert torch.equal(tensors["activations"], store.read(0, 50).x[SITE])


@settings(deadline=None, max_examples=40)
@given(
    shards=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    pool=st.integers(1, 90),
    batch=st.integers(1, 9),
    block=st.integers(1, 20),
    seed=st.integers(0, 5),
)
def test_every_row_comes_once_per_epoch(
    tmp_path_factory: pytest.TempPathFactory, shards: list[int], pool: int, batch: int, block: int, seed: int
) -> None:
    store = make_store(tmp_path_factory.mktemp("store"), shards)
    n = store.n_tokens
    options = {"pool": pool, "batch": batch, "block": block, "seed": seed, "overlap": False}
    assert sorted(streamed(StoredActivations(store, repeat=False, **options))) == list(range(n))
    source = StoredActivations(store, **options)
    three = streamed(source, pools=-(-3 * n // source.pool_rows))
    assert [sorted(three[a : a + n]) for a in (0, n, 2 * n)] == [list(range(n))] * 3


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path: Path) -> None:
    store = make_store(tmp_path, [512])
    orders = []
    for seed in (0, 1):
        tokens = streamed(StoredActivations(store, pool=512, block=8, seed=seed), pools=2)
        orders += [tokens[:512], tokens[512:]]
    assert len(set(map(tuple, orders))) == 4


def test_batches_of_a_pool_hold_every_row_once_and_can_start_later(tmp_path: Path) -> None:
    store = make_store(tmp_path, [300])
    (pool,) = StoredActivations(store, pool=300, repeat=False).pools()
    batches = [batch.tokens.tolist() for batch in pool.batches(64, seed=3)]
    assert [len(batch) for batch in batches] == [64] * 4
    assert [batch.tokens.tolist() for batch in pool.batches(64, seed=3, start=2)] == batches[2:]
    assert batches[0] != sorted(batches[0])
    whole = list(pool.batches(64, seed=3, partial=True))
    assert sorted(torch.cat([batch.tokens for batch in whole]).tolist()) == list(range(300))
    for batch in whole:
        assert torch.equal(batch.x[SITE], activations(batch.tokens, 8, torch.float32))


def test_a_pool_comes_again_from_its_state(tmp_path: Path) -> None:
    source = StoredActivations(make_store(tmp_path, [200, 100]), pool=64, batch=16, block=8)
    pools = [pool for pool, _ in zip(source.pools(), range(6), strict=False)]
    for start, expected in ((pools[4].state, pools[4]), (pools[3].after, pools[4])):
        again = next(source.pools(start))
        assert again.index == expected.index
        assert torch.equal(again.tokens, expected.tokens)
        assert torch.equal(again.x[SITE], expected.x[SITE])


def test_reading_in_the_background_changes_nothing_and_leaves_no_thread(tmp_path: Path) -> None:
    store = make_store(tmp_path, [200, 100])
    ordered = [
        streamed(StoredActivations(store, pool=64, block=8, overlap=overlap), pools=7) for overlap in (True, False)
    ]
    assert ordered[0] == ordered[1]
    pools = StoredActivations(store, pool=64).pools()
    next(pools)
    pools.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kanary")]


def test_a_pool_holds_a_whole_number_of_batches(tmp_path: Path) -> None:
    assert StoredActivations(make_store(tmp_path, [200]), pool=100, batch=32).pool_rows == 128


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_shard_that_is_cut_or_missing_is_named_when_the_store_is_opened(tmp_path: Path, damage: str) -> None:
    store = make_store(tmp_path, [100, 100])
    shard = store.path(SITE, 1)
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-10])
    else:
        shard.unlink()
    with pytest.raises(KanaryError, match=rf"{SITE}/shard-00001.safetensors is"):
        ActivationStore.open(tmp_path)


def test_one_changed_byte_is_found_and_its_file_named(tmp_path: Path) -> None:
    store = make_store(tmp_path, [100, 100])
    store.verify()
    shard = store.path("ids", 1)
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(KanaryError, match=r"ids/shard-00001.safetensors is damaged"):
        ActivationStore.open(tmp_path).verify()


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, 200), value=st.integers(0, 255))
def test_a_damaged_header_is_an_error_that_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    store = make_store(tmp_path_factory.mktemp("store"), [50])
    shard = store.path(SITE, 0)
    data = bytearray(shard.read_bytes())
    data[place] = value
    shard.write_bytes(data)
    try:
        rows = ActivationStore.open(store.folder).read(0, 50).x[SITE]
    except KanaryError as error:
        message = str(error)
    else:
        assert rows.shape == (50, 8)  # the byte was one of the numbers or spaces, which verify() would find
        message = str(shard)
    assert "shard-00000.safetensors" in message


def test_nan_in_a_shard_is_named_by_document_and_file(tmp_path: Path) -> None:
    store = make_store(tmp_path, [100])
    shard = store.path(SITE, 0)
    data = bytearray(shard.read_bytes())
    data[-4:] = torch.tensor([torch.nan]).numpy().tobytes()
    shard.write_bytes(data)
    with pytest.raises(KanaryError, match=rf"NaN .* {SITE}: document {2**40 + 99}, .*{SITE}"):
        list(StoredActivations(store, repeat=False).pools())


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "not a store"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": "other"}', "format 'other'"),
        (f'{{"format": "{FORMAT}"}}', "damaged"),
        (
            f'{{"format": "{FORMAT}", "dtype": "float32", "shards": [], "complete": true, '
            '"sites": {"a": "../.."}, "widths": {"a": 8}}',
            "damaged",
        ),
    ],
)
def test_a_folder_that_is_no_store_is_refused(tmp_path: Path, manifest: str | None, message: str) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(KanaryError, match=message):
        ActivationStore.open(tmp_path)


def test_a_site_that_the_store_lacks_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(KanaryError, match=r"Did you mean 'resid_post\.1'"):
        StoredActivations(make_store(tmp_path, [10]), ["resid_post.2"])


def test_a_store_that_grew_is_not_taken_for_the_one_a_run_began_with(tmp_path: Path) -> None:
    state = next(StoredActivations(make_store(tmp_path / "a", [50])).pools()).state
    with pytest.raises(KanaryError, match="has 60 rows"):
        next(StoredActivations(make_store(tmp_path / "b", [60])).pools(state))


def test_several_sites_are_read_together_or_one_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path, [64], sites=(SITE, "mlp_out.0"))
    both = next(StoredActivations(store, pool=64).pools())
    alone = next(StoredActivations(store, ["mlp_out.0"], pool=64).pools())
    assert set(both.x) == {SITE, "mlp_out.0"}
    assert list(alone.x) == ["mlp_out.0"]
    assert torch.equal(alone.x["mlp_out.0"], both.x["mlp_out.0"])
    assert torch.equal(both.x["mlp_out.0"], both.x[SITE] + 1)
