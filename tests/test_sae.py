"""An SAE reads and returns raw activations, in sparse codes, and is the same after it was written and read."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from kanary.errors import KanaryError
from kanary.files import sha256
from kanary.sae import SAE, SAEConfig, SparseCodes, load_plugin
from kanary.sae.parts import SPARSIFIERS
from kanary.training.learner import begin
from planted import ELEMENTWISE, KINDS, config_for, layout, planted, random_sae, train_on

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest) -> tuple[SAE, Tensor]:
    """A little-trained SAE of every kind, as training leaves it, and raw activations."""
    x = planted(2000)
    learner, _ = train_on(x, config_for(request.param, width=48, batch=200, tokens=6000, k=K.get(request.param)))
    return learner.sae, x[:300]


K = dict.fromkeys(("topk", "batchtopk"), 4)


# ---- sparse codes ----


@st.composite
def dense_codes(draw: Any) -> Tensor:
    shape = (*draw(st.lists(st.integers(0, 4), max_size=3)), draw(st.integers(1, 9)))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.randn(shape, generator=seed) * (
        torch.rand(shape, generator=seed) < draw(st.sampled_from([0, 0.3, 1.0]))
    )


@quick
@given(dense_codes())
def test_codes_made_from_a_dense_tensor_hold_all_of_it(dense: Tensor) -> None:
    codes = SparseCodes.from_dense(dense)
    assert torch.equal(codes.to_dense(), dense)
    assert codes.shape == dense.shape[:-1]
    assert torch.equal(codes.l0(), (dense != 0).sum(-1))
    assert (codes.values != 0).all()
    flat = dense.reshape(-1, dense.shape[-1])
    assert torch.equal(codes.rows(), flat.nonzero()[:, 0])
    for index in range(dense.shape[-1]):
        assert torch.equal(codes.latent(index), dense[..., index])


@quick
@given(dense_codes(), st.data())
def test_indexing_codes_is_indexing_their_tokens(dense: Tensor, data: Any) -> None:
    codes, flat = SparseCodes.from_dense(dense), dense.reshape(-1, dense.shape[-1])
    ends = st.none() | st.integers(-6, 6)
    span = slice(data.draw(ends), data.draw(ends))
    assert torch.equal(codes[span].to_dense(), flat[span])
    token = data.draw(st.integers(-70, 70))
    if -len(flat) <= token < len(flat):
        assert torch.equal(codes[token].to_dense(), flat[token][None])
    else:
        with pytest.raises(IndexError):
            codes[token]


def test_a_loop_over_codes_visits_every_token_and_ends() -> None:
    codes = SparseCodes.from_dense(torch.eye(3))
    visited = []
    for token in codes:
        visited.append(token.indices.tolist())
        assert len(visited) <= 3
    assert visited == [[0], [1], [2]]


def test_zeros_among_the_values_are_no_codes() -> None:
    dense = torch.tensor([[0.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    pattern = SparseCodes.from_dense(torch.ones(3, 2)).pattern
    codes = SparseCodes.of(dense.flatten(), pattern, (3,))
    assert codes.indices.tolist() == [1, 0]
    assert codes.offsets.tolist() == [0, 1, 1, 2]
    assert torch.equal(codes.to_dense(), dense)


# ---- raw in, raw out ----


def test_latents_ascend_within_every_token_as_promised(trained: tuple[SAE, Tensor]) -> None:
    sae, x = trained
    codes = sae.eval().encode(x)
    keys = codes.rows() * sae.d_sae + codes.indices
    assert (keys.diff() > 0).all()
    assert codes.l0().sum() > len(x)


def test_the_leading_shape_of_the_activations_is_kept(trained: tuple[SAE, Tensor]) -> None:
    sae, x = trained
    flat, shaped = sae.eval().encode(x), sae.encode(x.view(3, 10, 10, -1))
    assert shaped.shape == (3, 10, 10)
    assert torch.equal(shaped.to_dense().view(300, -1), flat.to_dense())
    assert sae.decode(shaped).shape == (3, 10, 10, x.shape[1])
    assert sae.encode(x[0]).shape == ()
    torch.testing.assert_close(sae(x[0]), sae(x)[0])


def test_decoding_is_the_weighted_sum_of_directions_in_raw_units(trained: tuple[SAE, Tensor]) -> None:
    sae, x = trained
    codes = sae.eval().encode(x)
    z = codes.to_dense() @ sae.W_dec + sae.decoder.b_dec
    torch.testing.assert_close(sae.decode(codes), z / sae.scale + sae.mean, rtol=1e-4, atol=1e-4)


def test_a_tokens_codes_do_not_depend_on_the_tokens_beside_it(trained: tuple[SAE, Tensor]) -> None:
    sae, x = trained
    together = sae.eval().encode(x[:20]).to_dense()
    alone = torch.stack([sae.encode(row).to_dense() for row in x[:20]])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@quick
@given(st.data())
def test_special_tokens_get_no_codes_and_pass_through_untouched(trained: tuple[SAE, Tensor], data: Any) -> None:
    sae, x = trained
    special = torch.tensor(data.draw(st.lists(st.booleans(), min_size=24, max_size=24))).view(4, 6)
    x = x[:24].view(4, 6, -1).clone()
    x[special] *= 1e4  # as the activations at BOS are
    codes = sae.eval().encode(x, special)
    assert codes.shape == (4, 6)
    assert (codes.l0()[special] == 0).all()
    torch.testing.assert_close(codes.to_dense()[~special], sae.encode(x[~special]).to_dense(), rtol=1e-4, atol=1e-5)
    x_hat = sae(x, special)
    assert torch.equal(x_hat[special], x[special])
    torch.testing.assert_close(x_hat[~special], sae(x[~special]), rtol=1e-4, atol=1e-4)


def test_no_tokens_at_all_are_no_codes_at_all(trained: tuple[SAE, Tensor]) -> None:
    sae, x = trained
    assert sae.eval().encode(x[:0]).l0().shape == (0,)
    assert sae(x[:0]).shape == (0, x.shape[1])


def test_half_precision_activations_come_back_in_half_precision(trained: tuple[SAE, Tensor]) -> None:
    sae, x = trained
    x_hat = sae.eval()(x.bfloat16())
    assert x_hat.dtype == torch.bfloat16
    torch.testing.assert_close(x_hat.float(), sae(x.bfloat16().float()), rtol=0.01, atol=0.05)


def test_encoding_works_inside_inference_mode(trained: tuple[SAE, Tensor]) -> None:
    sae, x = trained
    with torch.inference_mode():
        assert torch.equal(sae.eval().encode(x).values, sae.encode(x).values)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_activations_themselves(kind: str) -> None:
    sae = random_sae(kind).requires_grad_(False)
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(7, 6, dtype=torch.float64)
    codes = sae.encode(x)
    (ours,) = torch.autograd.grad(sae.decode(codes), x, upstream)
    dense = (x - sae.mean) * sae.scale - sae.decoder.b_dec
    pre = dense @ sae.encoder.W_enc.T + sae.encoder.b_enc
    if kind == "gated":
        pre = sae.sparsifier.r_mag.exp() * pre
    (wanted,) = torch.autograd.grad(((codes.to_dense() != 0) * pre) @ sae.W_dec / sae.scale, x, upstream)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e4])
def test_multiplying_the_activations_and_starting_again_leaves_the_codes_equal(kind: str, factor: float) -> None:
    x = planted(500)
    codes = []
    for given_x in (x, x * factor + 7 * factor):
        sae = SAE(config_for(kind, width=32, k=K.get(kind)).sae_config(x.shape[1]))
        begin(sae, given_x, "median", seed=3)
        codes.append(sae.encode(given_x).to_dense())
        assert abs(float(sae.standardise(given_x).square().sum(1).mean()) / sae.d_model - 1) < 1e-3
    assert (codes[0] != 0).any()
    torch.testing.assert_close(codes[0], codes[1], rtol=1e-2, atol=2e-3)


def test_activations_of_another_width_or_with_nan_are_refused_in_one_line(trained: tuple[SAE, Tensor]) -> None:
    sae, x = trained
    with pytest.raises(KanaryError, match=r"width 17.*reads 16.*resid_post\.1 of planted"):
        sae.encode(torch.zeros(2, 17))
    for bad in (float("nan"), float("inf")):
        broken = x.clone()
        broken[5, 3] = bad
        with pytest.raises(KanaryError, match=r"Activation 5 .*NaN"):
            sae.encode(broken)
    with pytest.raises(KanaryError, match=r"7 latents, this SAE has 48"):
        sae.decode(SparseCodes.from_dense(torch.ones(1, 7)))


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_an_sae_in_training_may_be_asked_for_codes_however_many_fire(kind: str) -> None:
    sae, x = random_sae(kind), torch.randn(50, 6, dtype=torch.float64)
    wanted = sae.encode(x).to_dense()
    with layout("dense"):
        torch.testing.assert_close(sae.train().encode(x).to_dense(), wanted)


# ---- written and read ----


def test_a_saved_and_loaded_sae_encodes_as_training_did(trained: tuple[SAE, Tensor], tmp_path: Path) -> None:
    sae, x = trained
    with torch.no_grad():
        active = sae.train().active(sae.standardise(x))
        active = sae.all_active(sae.standardise(x)) if active is None else active
        values = sae.sparsifier.activate(active)
    if active.pattern is None:
        training = values
    else:
        training = SparseCodes.of(values, active.pattern, (len(x),)).to_dense()
    if sae.sparsifier.name == "batchtopk":  # its threshold is a running mean; put it where this very batch cuts
        sae.sparsifier.threshold.fill_(float(training[training > 0].min()) - 1e-6)
    sae.save_pretrained(tmp_path / "sae")
    loaded = SAE.from_pretrained(tmp_path / "sae")
    assert not loaded.training
    torch.testing.assert_close(loaded.encode(x).to_dense(), training, rtol=1e-5, atol=1e-5)
    assert torch.equal(loaded.encode(x).to_dense(), sae.eval().encode(x).to_dense())
    assert torch.equal(loaded(x), sae(x))


def test_an_sae_remembers_its_options_and_where_it_was_trained(trained: tuple[SAE, Tensor], tmp_path: Path) -> None:
    sae, _ = trained
    sae.save_pretrained(tmp_path / "sae")
    loaded = SAE.from_pretrained(tmp_path / "sae")
    assert loaded.sparsifier.options == sae.sparsifier.options
    assert loaded.config.trained_on == sae.config.trained_on
    assert loaded.config.trained_on["site"] == "resid_post.1"
    loaded.remember(note="again")
    loaded.save_pretrained(tmp_path / "sae")  # over the old one
    assert SAE.from_pretrained(tmp_path / "sae").config.trained_on["note"] == "again"


def test_nothing_that_was_saved_needs_unpickling(trained: tuple[SAE, Tensor], tmp_path: Path) -> None:
    sae, _ = trained
    sae.save_pretrained(tmp_path / "sae")
    assert {p.name for p in (tmp_path / "sae").iterdir()} == {"config.json", "sae.safetensors"}
    assert not list(tmp_path.glob(".*"))


def test_saving_never_replaces_a_folder_that_holds_anything_else(tmp_path: Path) -> None:
    model = tmp_path / "model"  # a language model's folder also has a config.json
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(KanaryError, match="other files"):
        random_sae("relu").save_pretrained(model)
    assert (model / "model.safetensors").read_bytes() == b"precious"
    assert (model / "config.json").read_text() == '{"model_type": "llama"}'
    (model / "model.safetensors").unlink()
    with pytest.raises(KanaryError, match="other files"):
        random_sae("relu").save_pretrained(model)


def saved(folder: Path) -> Path:
    random_sae("topk").float().save_pretrained(folder)
    return folder


def rewrite(folder: Path, **config: Any) -> None:
    """Changes entries of config.json; None removes one."""
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def rewrite_weights(folder: Path, **tensors: Tensor | None) -> None:
    """Changes tensors with the checksum that belongs to them, as a careless tool would."""
    kept = {k: v for k, v in (load_file(folder / "sae.safetensors") | tensors).items() if v is not None}
    save_file(kept, folder / "sae.safetensors")
    rewrite(folder, sha256=sha256(folder / "sae.safetensors"))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(KanaryError) as caught:
        SAE.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@quick
@given(st.data())
def test_weights_with_any_byte_changed_or_cut_off_are_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    folder = saved(tmp_path_factory.mktemp("damaged") / "sae")
    content = bytearray((folder / "sae.safetensors").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    (folder / "sae.safetensors").write_bytes(content)
    refused(folder, str(folder / "sae.safetensors"), "damaged")


def test_tensors_that_do_not_fit_or_hold_nan_are_named(tmp_path: Path) -> None:
    nan = torch.full((16, 6), 0.5)
    nan[3, 2] = float("nan")
    for number, (tensors, words) in enumerate(
        [
            ({"decoder.W_dec": nan}, ["decoder.W_dec", "NaN"]),
            ({"encoder.b_enc": torch.full((16,), float("inf"))}, ["encoder.b_enc", "infinity"]),
            ({"encoder.W_enc": torch.zeros(6, 16)}, ["encoder.W_enc", "[6, 16]", "[16, 6]"]),
            ({"encoder.W_enc": None}, ["encoder.W_enc", "missing"]),
            ({"stranger": torch.zeros(1)}, ["stranger", "unexpected"]),
        ]
    ):
        folder = saved(tmp_path / str(number))
        rewrite_weights(folder, **tensors)
        refused(folder, str(folder / "sae.safetensors"), *words)


@pytest.mark.parametrize(("part", "name"), [("decoder", "kan-bend"), ("decoder", "kan-curve"), ("encoder", "kan-edge")])
def test_weights_of_functions_on_another_basis_are_refused_though_their_shapes_fit(
    tmp_path: Path, part: str, name: str
) -> None:
    sae = SAE(SAEConfig(6, 16, sparsifier={"name": "relu"}, **{part: {"name": name, "basis": "hat"}}))
    sae.save_pretrained(tmp_path)
    known = json.loads((tmp_path / "config.json").read_text())
    rewrite(tmp_path, **{part: known[part] | {"basis": "bspline"}})
    refused(tmp_path, str(tmp_path / "config.json"), f"the {part}'s basis is 'bspline'", "'hat'")
    rewrite(tmp_path, **{part: known[part]})
    assert SAE.from_pretrained(tmp_path).digest() == sae.digest()


def test_what_weights_say_of_themselves_may_be_missing_but_not_nonsense(tmp_path: Path) -> None:
    folder = saved(tmp_path / "sae")
    rewrite_weights(folder)  # as files of before have it
    SAE.from_pretrained(folder)
    for said in ("{", "[]", "null", '{"encoder": 3}'):
        save_file(load_file(folder / "sae.safetensors"), folder / "sae.safetensors", {"parts": said})
        rewrite(folder, sha256=sha256(folder / "sae.safetensors"))
        refused(folder, str(folder / "sae.safetensors"), "damaged", said)


def test_weights_that_are_not_safetensors_are_refused_by_name(tmp_path: Path) -> None:
    folder = saved(tmp_path / "sae")
    (folder / "sae.safetensors").write_bytes(b"not at all")
    rewrite(folder, sha256=sha256(folder / "sae.safetensors"))
    refused(folder, str(folder / "sae.safetensors"), "damaged")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "other"}', '{"format": "kanary-sae-1"}', "\x00"])
def test_a_config_that_is_not_one_is_refused_by_name(tmp_path: Path, text: str) -> None:
    folder = saved(tmp_path / "sae")
    (folder / "config.json").write_text(text)
    refused(folder, str(folder / "config.json"))


@settings(quick, max_examples=80)
@given(
    st.sampled_from(["format", "sha256", "d_model", "d_sae", "encoder", "sparsifier", "decoder", "trained_on"]),
    st.none()
    | st.booleans()
    | st.floats(-3, 99)
    | st.sampled_from([-1, 0, 5, 10**15, "", "topk", "16", [], [1], {}, {"name": "tokp"}, {"name": 3}])
    | st.sampled_from([{"name": "topk", "k": "many"}, {"name": "topk", "k": 99}, {"name": "topk", "kk": 3}, {"k": 3}]),
)
def test_a_config_with_a_wrong_value_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    folder = saved(tmp_path_factory.mktemp("config") / "sae")
    rewrite(folder, **{key: value})
    if key == "trained_on" and isinstance(value, dict):
        assert SAE.from_pretrained(folder).config.trained_on == value
    else:
        refused(folder, str(folder))


def test_a_missing_file_and_a_missing_sae_are_said_plainly(tmp_path: Path) -> None:
    folder = saved(tmp_path / "sae")
    (folder / "sae.safetensors").unlink()
    refused(folder, str(folder), "sae.safetensors")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no SAE")
    (tmp_path / "empty" / "checkpoints").mkdir()
    refused(tmp_path / "empty", "not finished", "--resume")


def test_a_run_folder_stands_for_its_only_sae_and_several_are_listed(tmp_path: Path) -> None:
    saved(tmp_path / "one" / "sae")
    assert SAE.from_pretrained(tmp_path / "one").d_sae == 16
    saved(tmp_path / "nested" / "sae" / "topk-k4")
    assert SAE.from_pretrained(str(tmp_path / "nested")).d_sae == 16
    saved(tmp_path / "nested" / "sae" / "topk-k8")
    refused(tmp_path / "nested", "2 SAEs", "topk-k4", "topk-k8")


# ---- parts ----


def test_an_unknown_part_is_refused_with_the_nearest_one() -> None:
    for kind, given_name, meant in (("sparsifier", "batchtop", "batchtopk"), ("encoder", "linaer", "linear")):
        with pytest.raises(KanaryError, match=f"Unknown {kind} '{given_name}'. Did you mean '{meant}'"):
            SAE(SAEConfig(4, 8, **{kind: {"name": given_name}}))
    with pytest.raises(KanaryError, match=r"Unknown option 'threshold_rat'.*'threshold_rate'"):
        SAE(SAEConfig(4, 8, sparsifier={"name": "batchtopk", "threshold_rat": 1}))


@pytest.mark.parametrize("kind", sorted(K))
def test_more_active_latents_than_the_width_are_refused(kind: str) -> None:
    for k in (0, -1, 9):
        with pytest.raises(KanaryError, match=rf"k={k} does not fit a width of 8"):
            SAE(SAEConfig(4, 8, sparsifier={"name": kind, "k": k}))
    SAE(SAEConfig(4, 8, sparsifier={"name": kind, "k": 8}))
    with pytest.raises(KanaryError, match="at least 1"):
        SAE(SAEConfig(0, 8))


PLUGIN = '''
"""A sparsifier in a file of its own."""
{future}
from dataclasses import dataclass

import torch
from torch import Tensor

from kanary.config import option
from kanary.sae import Active, Sparsifier, part


@dataclass(frozen=True)
class Options:
    cut: float = option(1.0, "fires above this")
    unused: float | None = option(None, "nothing")


@part("{name}")
class Cut(Sparsifier):
    Options = Options
    elementwise = True

    def mask(self, pre: Tensor) -> Tensor:
        return pre > self.options.cut

    def activate(self, active: Active) -> Tensor:
        return active.pre * (active.pre > self.options.cut)

    def penalty(self, active: Active, values: Tensor, decoder) -> Tensor:
        return 0.3 * active.mean_over_tokens(values)
'''


@pytest.mark.parametrize("future", ["", "from __future__ import annotations"])
def test_a_sparsifier_in_one_file_trains_saves_and_loads(tmp_path: Path, future: str) -> None:
    name = f"cut{len(future)}"
    file = tmp_path / f"{name}.py"
    file.write_text(PLUGIN.format(name=name, future=future))
    x = planted(1000)
    config = config_for(name, width=32, batch=100, tokens=3000, plugin=(str(file),), options={"cut": 0.5})
    try:
        learner, stats = train_on(x, config)
        assert stats[-1].mse < stats[0].mse
        assert 0 < stats[-1].l0 < 32
        sae = learner.sae.eval()
        sae.save_pretrained(tmp_path / "sae")
        loaded = SAE.from_pretrained(tmp_path / "sae")
        assert loaded.sparsifier.options.cut == 0.5
        assert torch.equal(loaded.encode(x).to_dense(), sae.encode(x).to_dense())
        assert (sae.encode(x).values > 0.5).all()
        del SPARSIFIERS[name]  # as in another process
        refused(tmp_path / "sae", f"'{name}'", "plugin")
        load_plugin(file)
        assert torch.equal(SAE.from_pretrained(tmp_path / "sae").encode(x).values, sae.encode(x).values)
    finally:
        SPARSIFIERS.pop(name, None)
        sys.modules.pop(f"kanary_plugin_{name}", None)
    with pytest.raises(KanaryError, match="no such file"):
        load_plugin(tmp_path / "missing.py")


def test_every_option_of_every_part_explains_itself() -> None:
    for kind in KINDS:
        for option in dataclasses.fields(SPARSIFIERS[kind].Options):
            assert len(option.metadata["help"]) > 5
