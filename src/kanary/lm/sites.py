"""Names for the places in a network where activations are read and written.

Reading and writing use the same point. ``attn_out`` and ``mlp_out`` are what a block *adds* to the residual stream, so
that ``resid_post = resid_pre + attn_out + mlp_out`` in every family (in Gemma 2 and 3: after the norm that follows).
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kanary.errors import KanaryError, nearest

KINDS = ("resid_pre", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True)
class Layout:
    """Where one family keeps its parts: the list of blocks in the decoder, and two modules in each block."""

    blocks: str
    attn_out: str
    mlp_out: str


_LLAMA = Layout("layers", "self_attn", "mlp")
_GEMMA = Layout("layers", "post_attention_layernorm", "post_feedforward_layernorm")
FAMILIES: dict[str, Layout] = {  # keyed by the config's model_type
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": Layout("h", "attn", "mlp"),
    "gpt_neox": Layout("layers", "attention", "mlp"),
}


@dataclass(frozen=True)
class Site:
    """One place in a network."""

    name: str
    """What the user writes: ``resid_post.3``, ``module:model.layers.3.mlp`` or ``input:model.layers.3.mlp``."""
    kind: str
    """``resid_pre``, ``resid_post``, ``attn_out``, ``mlp_out``, or ``module`` / ``input`` when named by hand."""
    layer: int | None
    """Block, from 0; None when named by hand."""
    path: str
    """The module, as in ``model.get_submodule(path)``."""
    side: Literal["input", "output"]
    """Which side of the module."""
    n_layers: int

    def describe(self) -> str:
        """Plain words: ``after block 3 of 5``."""
        if self.layer is None:
            return f"the {self.side} of {self.path}"
        block = f"block {self.layer + 1} of {self.n_layers}"
        words = {"resid_pre": "before", "resid_post": "after", "attn_out": "what attention adds in"}
        return f"{words.get(self.kind, 'what the MLP adds in')} {block}"


def site_names(model: nn.Module) -> list[str]:
    """Every ``kind.layer`` of the model, block by block; empty for a family that is not in :data:`FAMILIES`."""
    found = find_blocks(model)
    return [] if found is None else [f"{kind}.{layer}" for layer in range(len(found[1])) for kind in KINDS]


def find_site(model: nn.Module, name: str) -> Site:
    """The site called ``name``.

    Raises:
        KanaryError: no such site (with the nearest), or a family that has no names (with its module tree).
    """
    prefix, colon, path = name.partition(":")
    if colon and prefix in ("module", "input"):
        return _by_hand(model, name, prefix, path)
    found = find_blocks(model)
    if found is None:
        family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise KanaryError(
            f"Kanary has no site names for models of type {family!r}, so {name!r} is not known. Name a module by hand: "
            "'module:PATH' reads and writes its output, 'input:PATH' its input. The modules are\n" + module_tree(model)
        )
    layout, blocks, prefix = found
    if name not in (names := site_names(model)):
        where = f"this model has {len(blocks)} blocks, counted from 0"
        raise KanaryError(f"Unknown site {name!r}: {where}. {_nearest_site(name, names)}")
    kind, _, number = name.partition(".")
    inside = {"attn_out": "." + layout.attn_out, "mlp_out": "." + layout.mlp_out}.get(kind, "")
    side: Literal["input", "output"] = "input" if kind == "resid_pre" else "output"
    return Site(name, kind, int(number), f"{prefix}.{number}{inside}", side, len(blocks))


def attach(model: nn.Module, site: Site, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Calls ``function`` with the activation whenever a forward passes ``site``; a tensor returned takes its place."""
    module = model.get_submodule(site.path)

    def on_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and isinstance(args[0], Tensor):
            new = function(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        key = next((k for k, value in kwargs.items() if isinstance(value, Tensor)), None)
        if key is None:
            raise KanaryError(f"Site {site.name!r}: {site.path} takes no tensor, so there is no activation to read.")
        new = function(kwargs[key])
        return None if new is None else (args, {**kwargs, key: new})

    def on_output(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return function(output)
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            new = function(output[0])
            return None if new is None else (new, *output[1:])
        raise KanaryError(
            f"Site {site.name!r}: {site.path} returns a {type(output).__name__}, not a tensor. Name one of its parts."
        )

    if site.side == "input":
        return module.register_forward_pre_hook(on_input, with_kwargs=True)
    return module.register_forward_hook(on_output)


def module_tree(model: nn.Module, depth: int = 6) -> str:
    """The modules as indented text; the numbered members of a list that are alike are shown once."""
    lines: list[str] = []

    def walk(module: nn.Module, indent: int) -> None:
        children = list(module.named_children())
        shown: dict[tuple[str, str], list[str]] = {}
        for name, child in children:
            key = (type(child).__name__, "" if name.isdigit() else name)
            shown.setdefault(key, []).append(name)
        for (kind, _), names in shown.items():
            label = names[0] if len(names) == 1 else f"{names[0]}…{names[-1]}"
            lines.append(f"{'  ' * indent}{label}: {kind}")
            if indent < depth:
                walk(module.get_submodule(names[0]), indent + 1)

    walk(model, 1)
    return "\n".join(lines)


def find_blocks(model: nn.Module) -> tuple[Layout, nn.ModuleList, str] | None:
    """The family's layout, its list of blocks, and the path of that list; None for an unknown family."""
    get_decoder = getattr(model, "get_decoder", None)
    decoder = get_decoder() if get_decoder else None
    layout = FAMILIES.get(getattr(getattr(decoder, "config", None), "model_type", ""))
    blocks = getattr(decoder, layout.blocks, None) if layout else None
    if layout is None or not isinstance(blocks, nn.ModuleList):
        return None
    return layout, blocks, next(path for path, module in model.named_modules() if module is blocks)


def _by_hand(model: nn.Module, name: str, kind: str, path: str) -> Site:
    paths = [p for p, _ in model.named_modules() if p]
    if path not in paths:
        near = get_close_matches(path, paths, n=1, cutoff=0.5)
        hint = f"Did you mean '{kind}:{near[0]}'?" if near else "The modules are\n" + module_tree(model)
        raise KanaryError(f"Unknown site {name!r}: the model has no module {path!r}. {hint}")
    n_layers = len(found[1]) if (found := find_blocks(model)) else 0
    return Site(name, kind, None, path, "input" if kind == "input" else "output", n_layers)


def _nearest_site(name: str, names: list[str]) -> str:
    """The nearest name; for a right kind with a layer that is not there, the nearest layer of that kind."""
    kind, _, layer = name.partition(".")
    if kind not in KINDS:
        kind = (get_close_matches(kind, KINDS, n=1, cutoff=0.5) or [""])[0]
    same = [n for n in names if n.startswith(kind + ".")]
    if not same:
        return f"Known: {', '.join(f'{k}.L' for k in KINDS)} with L from 0, or 'module:PATH' for any module."
    if layer.isdigit():
        return f"Did you mean {same[min(int(layer), len(same) - 1)]!r}?"
    return nearest(f"{kind}.{layer}", same)
