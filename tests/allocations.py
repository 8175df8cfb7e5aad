"""How large the largest tensor is that some code makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """Remembers the size of the largest storage that an operation makes; views make none."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        old = {each.data_ptr() for each in _storages((args, kwargs))}
        new = (each.nbytes() for each in _storages(found) if each.data_ptr() not in old)
        self.bytes = max(self.bytes, *new, 0)
        return found


def _storages(tree: Any) -> list[UntypedStorage]:
    """Of all tensors but sparse ones, which are made of others."""
    tensors = [each for each in tree_leaves(tree) if isinstance(each, Tensor) and each.layout is torch.strided]
    return [each.untyped_storage() for each in tensors]


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No tensor that is made meanwhile takes more than so many bytes."""
    with Largest() as made:
        yield
    assert made.bytes <= size, f"{made.bytes:,} bytes, of {size:,}"
