"""Every kernel with tiles on their way fits into the shared memory of the smallest supported device.

Compiled for compute capability 8.6, whose programs have 99 KB, without a GPU; in a process of its own, as this one may
interpret kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from triton.runtime.errors import OutOfResources

from kernels.cuda import launch
from kernels.cuda.launch import with_stages

LIMIT = 99 * 1024
COMPILE = """
import json, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels.cuda import decode, prefill, shared_prefix, skinny
from kernels.cuda.geometry import Geometry
from kernels.cuda.paged import paged_keys
from kernels.kv_cache import LayerCache

INTS = {"tables", "tiles", "starts", "counts", "contexts", "items", "members"}
FLOATS = {"tops", "totals", "sums"}

def shared(kernel, constants, warps, dtype):
    types = {"scale": "fp32", "scale_log2": "fp32", "cap": "fp32"}
    def type_of(name):
        if name in constants:
            return "constexpr"
        if name.islower() and name in ("query", "keys", "values", "out", "x", "weight", "bias"):
            return "*" + dtype
        return types.get(name) or ("*i32" if name in INTS else "*fp32" if name in FLOATS else "i32")
    names = kernel.arg_names
    signature = {name: type_of(name) for name in names}
    attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name][0] == "*"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", 86, 32), options={"num_warps": warps}).metadata.shared

found = {}
for heads, kv_heads, head_dim, dtype in json.loads(sys.argv[1]):
    torch_type = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    query = torch.empty(1, heads, head_dim, dtype=torch_type)
    keys = torch.empty(1, 64, kv_heads, head_dim, dtype=torch_type)
    geometry = Geometry.of(query, keys)
    sizes = paged_keys(query, LayerCache(keys, keys, 64), 1.0, 0.0, 0).sizes
    sizes |= {"COPIED": False, "STAGES_": 1, "ONES_": 16}
    rows, name = decode.query_rows(geometry.group), f"{head_dim} {dtype}"
    found[f"decode {name}"] = shared(
        decode._decode_kernel, sizes | {"ROWS": rows, "EARLY": False}, decode.shape(head_dim, rows, False)[0], dtype)
    rows = geometry.prefill_rows
    found[f"prefill {name}"] = shared(
        prefill._prefill_kernel, sizes | {"ROWS": rows, "RECORD_": 8, "SPLIT": True}, rows // 16, dtype)
    rows = geometry.shared_rows
    found[f"shared prefix {name}"] = shared(
        shared_prefix._shared_kernel, sizes | {"ROWS": rows, "EARLY": False}, rows // 16, dtype)
for rows, columns, depth in ((1, 4096, 4096), (1, 512, 4096), (16, 28672, 4096), (64, 2048, 2048), (64, 28672, 4096)):
    tile = skinny.tile_for(rows, columns, depth, 46)
    constants = dict(
        ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, STAGES_=1, WEIGHTS_FIRST=tile.weights_first,
        WHOLE=depth % tile.depth == 0, BIASED=False, GATED=False, KIND=0, EARLY=False, FETCHED=False,
        LANES=max(32 * tile.warps, tile.columns))
    found[f"product {rows} x {depth} -> {columns}"] = shared(skinny._linear_kernel, constants, tile.warps, "bf16")
print(json.dumps(found))
"""


def test_one_tile_on_its_way_fits_everywhere() -> None:
    models = [(32, 8, 64, "bf16"), (32, 8, 128, "bf16"), (8, 1, 256, "bf16"), (32, 8, 128, "fp32")]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, json.dumps(models)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    needs = json.loads(result.stdout)
    assert len(needs) == 3 * len(models) + 5
    assert {name: need for name, need in needs.items() if not 0 < need <= LIMIT} == {}


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_fitting", {})


def test_stages_are_as_many_as_fit_and_are_remembered() -> None:
    tried: list[int] = []

    def start(stages: int) -> None:
        tried.append(stages)
        if stages > 2:
            raise OutOfResources(1000 * stages, 2000, "shared memory")

    for _ in range(2):
        with_stages(start, 4, ("a kernel", torch.device("cpu")))
    with_stages(start, 2, "another")
    assert tried == [4, 3, 2, 2, 2]


def test_a_kernel_that_never_fits_says_so() -> None:
    def start(stages: int) -> None:
        raise OutOfResources(140_000, 101_376, "shared memory")

    with pytest.raises(MemoryError, match=r"decode attention.*Required: 140000, Hardware limit: 101376"):
        with_stages(start, 3, "decode attention")
