"""Compiles every kernel of kanary.kernels.triton as its launchers call it, for a GPU that need not be there.

    python tests/triton_compile.py 80 90     # compute capabilities

Run in a process of its own, without TRITON_INTERPRET, in which kernels would be interpreted instead.
"""

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kanary.kernels import Pattern
from kanary.kernels import triton as kernels

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}
LAUNCHED = ("_decode", "_decode_entries", "_decode_latents", "_edge_weights", "_edge_inputs")
ALIGNED = [["tt.divisibility", 16]]  # as Triton finds out by itself about what it is given


class Compiler:
    """Stands in for a kernel: compiles it for what it would be launched with."""

    def __init__(self, kernel: Any, capabilities: list[int]) -> None:
        self.kernel, self.capabilities = kernel, capabilities

    def __getitem__(self, grid: object) -> Any:
        return self.compile

    def compile(self, *given: Any, **constants: Any) -> None:
        types, attributes = dict.fromkeys(constants, "constexpr"), {}
        for place, (name, each) in enumerate(zip(self.kernel.arg_names, given, strict=False)):
            if each is None:
                types[name], constants[name] = "constexpr", None
                continue
            types[name] = TYPES[each.dtype] if isinstance(each, torch.Tensor) else "i32"
            if isinstance(each, torch.Tensor) or each % 16 == 0:
                attributes[(place,)] = ALIGNED
        types = {name: types[name] for name in self.kernel.arg_names}
        for capability in self.capabilities:
            source = ASTSource(self.kernel, types, constants, attributes)
            binary = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
            print(self.kernel.__name__, constants, f"compute capability {capability}: {len(binary)} bytes")


def main(capabilities: list[int]) -> None:
    for name in LAUNCHED:
        setattr(kernels, name, Compiler(getattr(kernels, name), capabilities))
    launch(torch.float32, 1, 3)
    launch(torch.bfloat16, 0, 1)


def launch(dtype: torch.dtype, bends: int, degree: int) -> None:
    """Calls every launcher, decoders with ``bends`` (0: with knots) and edges with splines of this ``degree``."""

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype)

    d, width = 2048, 4
    pattern = Pattern(torch.tensor([3, 1, 1]), torch.tensor([0, 2, 3]), width)
    coefficients = ones(width, bends, 7) if bends else None
    rest = pattern, ones(width, d), ones(width, bends or 7, d), ones(width, 2), coefficients
    kernels.decode(ones(3), *rest)
    kernels.decode_entries(ones(2, d), ones(3), *rest)
    kernels.decode_latents(ones(2, d), ones(3), *rest)
    table = ones(degree + 1, degree + 1, 8 - degree)
    kernels.edge_weights(ones(3), pattern, ones(2, d), ones(width, d, 8), ones(d, 2), table)
    kernels.edge_inputs(ones(3), pattern, ones(2, d), ones(width, d, 8), ones(d, 2), table)


if __name__ == "__main__":
    main([int(capability) for capability in sys.argv[1:]])
