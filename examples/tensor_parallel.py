# SPDX-License-Identifier: Apache-2.0
"""Tensor parallelism in two processes: each rank loads its rows of the first matrix of an MLP and
its columns of the second, and decodes the blocks of no other.

    python examples/tensor_parallel.py

Rank r holds up[rows of r] and down[:, columns of r]; the sum over ranks of down @ relu(up @ x) is
what one process computes (Shoeybi et al., Megatron-LM, 2019).
"""

from __future__ import annotations

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

import wcodec
import wcodec.torch

HIDDEN, INNER, RANKS = 1024, 4096, 2


def save_mlp(path: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"up.weight": (INNER, HIDDEN), "down.weight": (HIDDEN, INNER)}
    weights = {
        name: (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    wcodec.torch.save_file(weights, path)


def mlp(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ up.float().T) @ down.float().T


def work(rank: int, path: str, rendezvous: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS)
    own = slice(rank * INNER // RANKS, (rank + 1) * INNER // RANKS)
    with wcodec.safe_open(path, framework="pt", threads=1) as file:
        up = file.get_slice("up.weight")[own]
        down = file.get_slice("down.weight")[:, own]
        decoded = file.blocks_decoded
        blocks = sum(file.info(name)["n_blocks"] for name in file.offset_keys())
    # The same in one call, which also takes directories of shards.
    slices = {"up.weight": own, "down.weight": (slice(None), own)}
    tensors = wcodec.load_to_torch(path, slices=slices, threads=1)
    assert tensors["up.weight"].equal(up)
    assert tensors["down.weight"].equal(down)

    x = torch.linspace(-1, 1, 4 * HIDDEN).reshape(4, HIDDEN)
    y = mlp(x, up, down)
    dist.all_reduce(y)
    if rank == 0:
        whole = wcodec.torch.load_file(path)
        expected = mlp(x, whole["up.weight"], whole["down.weight"])
        torch.testing.assert_close(y, expected)
        print("the sum over ranks is what one process computes\n", end="", flush=True)
    dist.barrier()
    shapes = f"up {list(up.shape)}, down {list(down.shape)}"
    # With its end in one write: both processes have the same output.
    print(f"rank {rank}: {shapes}, {decoded} of {blocks} blocks\n", end="", flush=True)
    dist.destroy_process_group()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "mlp.wcodec")
        save_mlp(path)
        rendezvous = os.path.join(directory, "rendezvous")
        multiprocessing.spawn(work, args=(path, rendezvous), nprocs=RANKS)


if __name__ == "__main__":
    main()
