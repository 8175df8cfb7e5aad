"""Loading a language model from a folder or from the Hub, and refusing one that would mislead."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from kanary.errors import KanaryError, nearest
from kanary.lm.model import LanguageModel

BUNDLED = "bundled"
"""The name of the small model that comes with Kanary, made by ``tools/train_bundled_model.py``."""
BUNDLED_FOLDER = Path(__file__).with_name("bundled")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Models round their vocabulary up (Phi-2: 98 % used, Pythia-12B: 99 %); a tokenizer that fills less is another model's.
_LEAST_VOCABULARY_SHARE = 0.8
_PATIENCE = 10.0  # seconds for the Hub's first answer


def load_model(
    name: str | Path, *, revision: str | None = None, dtype: str = "auto", device: str = "auto"
) -> LanguageModel:
    """Loads a Hugging Face causal language model, ready to read: eval mode, no gradients of its weights.

    Only safetensors weights are read, nothing is unpickled, and no code that comes with the model runs.

    Args:
        name: a folder, an id on the Hugging Face Hub, or ``bundled``: the small model that comes with Kanary, which knows
            the labelled corpus and nothing else (a folder of that name is ``./bundled``).
        revision: branch, tag or commit on the Hub; a folder and the bundled model have none.
        dtype: ``auto`` (that of the checkpoint), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (CUDA, else CPU), or a torch device such as ``cuda:1``.

    Raises:
        KanaryError: no such folder or id, a revision of what is not on the Hub, damaged or incomplete weights, NaN in them, a
            tokenizer of another model.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise KanaryError(f"Unknown dtype {dtype!r}. {nearest(dtype, ['auto', *DTYPES])}")
    target = _device(device)
    where, remote = (str(_bundled(revision)), False) if name == BUNDLED else locate(name, "model")
    if not remote and revision is not None:
        raise KanaryError(
            f"{where} is a folder here and has no revisions, but revision={revision!r} was asked for. Leave it out, or give "
            "the model's id on the Hub."
        )
    if not remote and not (Path(where) / "config.json").is_file():
        raise KanaryError(f"{where} is not a model: it has no config.json. Give the folder that holds it.")
    model, tokenizer, report = _read(where, remote, revision, DTYPES.get(dtype, dtype))
    _refuse_incomplete(where, report)
    with _explained(where, remote, "weights"):
        if not getattr(model, "is_quantized", False):  # a quantised model already lies where its back end put it
            model = model.to(target)
    model.eval().requires_grad_(False)
    if where == str(BUNDLED_FOLDER):  # the same name on every machine
        where = tokenizer.name_or_path = BUNDLED
    lm = LanguageModel(model, tokenizer, where, revision)
    _refuse_other_tokenizer(lm)
    _refuse_nan(lm)
    return lm


def _bundled(revision: str | None) -> Path:
    if revision is not None:
        raise KanaryError(
            f"The model {BUNDLED!r} comes with Kanary and has no revisions, but revision={revision!r} was asked for. "
            f"Leave it out; a model of that name in a folder here is ./{BUNDLED}."
        )
    if not (BUNDLED_FOLDER / "model.safetensors").is_file():
        raise KanaryError(
            f"This installation of Kanary came without the model {BUNDLED!r}: {BUNDLED_FOLDER / 'model.safetensors'} is "
            "missing. Install Kanary again, from a wheel: pip install --force-reinstall --no-deps kanary-VERSION.whl."
        )
    return BUNDLED_FOLDER


def locate(name: str | Path, what: str) -> tuple[str, bool]:
    """Whether ``name`` is here or on the Hub: (folder or file, False) or (Hub id, True).

    Raises:
        KanaryError: it can only be a path, and nothing is there. ``what`` says what was looked for.
    """
    text = str(name).strip()
    if not text:
        raise KanaryError(f"No {what} was given: the name is empty.")
    path = Path(text).expanduser()
    if path.exists():
        return str(path.resolve() if str(path) == BUNDLED else path), False  # a folder's name is not the model's
    parts = text.split("/")
    if isinstance(name, Path) or text[0] in "./~" or len(parts) > 2 or "\\" in text or " " in text:
        raise KanaryError(f"There is no {what} at {text!r}: the path does not exist (looked in {Path.cwd()}).")
    return text, True


def _read(where: str, remote: bool, revision: str | None, dtype: Any) -> tuple[Any, Any, dict[str, Any]]:
    """(model, tokenizer, the loader's report of what did not fit)."""
    with _explained(where, remote, "library"):
        import transformers
    here_only = remote and not _hub_answers(where)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False, "local_files_only": here_only}
    models: Any = transformers.AutoModelForCausalLM
    with _quiet():
        with _explained(where, remote, "config"):
            config = transformers.AutoConfig.from_pretrained(where, **options)
        with _explained(where, remote, "tokenizer"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, config=config, **options)
        with _explained(where, remote, "weights"):
            options |= {"use_safetensors": True, "output_loading_info": True}
            options |= {"ignore_mismatched_sizes": True}  # those in the report are refused, by name
            model, report = models.from_pretrained(where, dtype=dtype, **options)
    return model, tokenizer, report


def _hub_answers(name: str) -> bool:
    """Asks the Hub once, and says so. Where nothing can be connected to, the library would try six times for every file."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return False
    print(f"Asking the Hugging Face Hub for {name} …", file=sys.stderr, flush=True)
    try:
        HfApi().model_info(name, timeout=_PATIENCE)
    except Exception as error:  # what else goes wrong, the loader meets again, and explains
        # by name, because the Hub's client changes the library whose errors it raises
        return not {"ConnectError", "ConnectionError"} & {kind.__name__ for kind in type(error).__mro__}
    return True


def _device(name: str) -> torch.device:
    if name == "auto":
        # not mps: it has neither float64, in which numbers are summed, nor the sparse products of training
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise KanaryError(f"Unknown device {name!r}: write auto, cpu, cuda or cuda:1.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise KanaryError(f"Device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices.")
    return device


@contextmanager
def _explained(where: str, remote: bool, part: str) -> Iterator[None]:
    """Turns what the libraries raise while they read ``part`` of a model into one line."""
    try:
        yield
    except KanaryError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        if _stopped(error):
            raise KeyboardInterrupt from error
        said = " ".join(str(error).split())
        if "connect" in said or "offline" in said.lower() or "Max retries" in said:
            message = f"no folder of that name is here{_beside(where)}, and the Hugging Face Hub cannot be reached. {_HUB_FIX}"
        elif remote and ("not a local folder" in said or "404" in said or "401" in said):
            message = f"neither a folder here{_beside(where)} nor a model on the Hugging Face Hub. {_HUB_FIX}"
        elif "pytorch_model.bin" in said or "file named model.safetensors" in said:
            message = "it has no model.safetensors. Kanary unpickles nothing: save the model again as safetensors."
        elif part == "tokenizer":
            message = f"its tokenizer is missing or damaged ({said[:160]}). Put its tokenizer.json beside the weights."
        elif isinstance(error, SafetensorError) or "safetensor" in said.lower():
            message = f"its weights are damaged or cut short ({said[:160]}). Restore or download them again."
        else:
            message = f"its {part} cannot be read ({said[:240]})."
        raise KanaryError(f"Model {where!r} cannot be loaded: {message}") from error


def _stopped(error: BaseException | None) -> bool:
    """Whether Ctrl-C came while a library was imported, which then says that it lacks something."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _beside(name: str) -> str:
    """What to say of a name like ``models/x`` where the folder ``models`` is here: it may be a slip in a path."""
    folder = Path(name).parent
    if folder == Path() or not folder.is_dir():
        return ""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return f" (the folder {folder} is, and has {', '.join(names[:5]) or 'no folders'}{', …' if len(names) > 5 else ''})"


_HUB_FIX = "Check the name and the connection (private models need `hf auth login`)."


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the loader's progress bar and warnings: what matters in them is raised as an error below."""
    import transformers

    library: Any = transformers.utils.logging
    before, bar = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(logging.ERROR)
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(before)
        if bar:
            library.enable_progress_bar()


def _refuse_incomplete(where: str, report: dict[str, Any]) -> None:
    """A weight that the files lack would be random, and one of another shape too."""
    for key, problem in (("missing_keys", "lack"), ("mismatched_keys", "have another shape than the config for")):
        if names := sorted(str(n[0] if isinstance(n, tuple) else n) for n in report.get(key, ())):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise KanaryError(f"Model {where!r} cannot be used: its files {problem} {names[0]}{more}.")


def _refuse_other_tokenizer(lm: LanguageModel) -> None:
    """Ids beyond the model's vocabulary crash it or worse; far too few mean that the tokenizer is another model's."""
    added = set(getattr(lm.tokenizer, "added_tokens_decoder", {}))  # Gemma 3 has an image token that no text contains
    ids = lm.tokenizer.get_vocab().values()
    beyond = [i for i in ids if i >= lm.vocab_size and i not in added]
    if beyond or len(ids) < _LEAST_VOCABULARY_SHARE * lm.vocab_size:
        raise KanaryError(
            f"The tokenizer of {lm.name!r} has {len(ids):,} tokens but the model has {lm.vocab_size:,}: "
            "they do not belong together. Copy the model's own tokenizer files into its folder."
        )


def _refuse_nan(lm: LanguageModel) -> None:
    for name, weight in lm.model.named_parameters():
        if not weight.is_floating_point() or weight.numel() == 0:
            continue
        # A sum meets every NaN and Inf in one read; only a strange sum (it may overflow) is looked at closely.
        if not torch.isfinite(weight.sum(dtype=torch.float32)) and not torch.isfinite(weight).all():
            count = int((~torch.isfinite(weight)).sum())
            raise KanaryError(
                f"Model {lm.name!r} has NaN or Inf in {count:,} of {weight.numel():,} values of {name}. "
                "The checkpoint is damaged, or overflowed: try another dtype or another copy."
            )
