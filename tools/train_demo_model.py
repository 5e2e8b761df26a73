"""Train the demo model: a small byte-level language model of Python source text.

The text is the source of the running interpreter's own standard library, so nothing is downloaded.
Every 20th file is held out. The model is a decoder-only transformer (RMSNorm, rotary positions,
SwiGLU) with 256 byte values as its vocabulary. It is trained in float32 and saved in bfloat16:

    python tools/train_demo_model.py                 # train, save, print both losses
    python tools/train_demo_model.py --evaluate      # reload the saved model, print both losses

Both losses are bits per byte on the held-out files: the model's, measured after its weights have
been cast to bfloat16, and that of a bigram byte model counted on the same training text.
The script needs torch, safetensors and numpy; it uses one thread and about 16 minutes.
"""

import argparse
import hashlib
import json
import math
import platform
import sysconfig
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 20
CORPUS_BYTES = 8_000_000
HELD_OUT_EVERY = 20
CONTEXT = 256
BATCH = 8
PEAK_RATE = 3e-3
WARMUP_STEPS = 100
DEFAULT_OUTPUT = Path(__file__).resolve().parent.parent / "examples" / "demo_model"
SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "context_length": CONTEXT,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
}
# Packages of test data or tables, and what is not part of the library or differs between builds.
EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3"}
EXCLUDED |= {"encodings", "pydoc_data", "turtledemo", "__phello__"}
EXCLUDED_PREFIXES = ("_sysconfigdata", "config-")


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape = (x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads)
        q = rotate(self.q_proj(x).view(shape).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(shape).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(x.shape))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        width, eps = sizes["hidden_size"], sizes["rms_norm_eps"]
        self.input_layernorm = nn.RMSNorm(width, eps=eps)
        self.self_attn = Attention(width, sizes["num_attention_heads"])
        self.post_attention_layernorm = nn.RMSNorm(width, eps=eps)
        self.mlp = Mlp(width, sizes["intermediate_size"])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes["vocab_size"], sizes["hidden_size"])
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes["num_hidden_layers"]))
        self.norm = nn.RMSNorm(sizes["hidden_size"], eps=sizes["rms_norm_eps"])
        half = sizes["hidden_size"] // sizes["num_attention_heads"] // 2
        frequency = sizes["rope_theta"] ** (-torch.arange(half) / half)
        angle = torch.outer(torch.arange(sizes["context_length"]), frequency).repeat(1, 2)
        self.cos, self.sin = angle.cos(), angle.sin()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, self.cos[: x.shape[1]], self.sin[: x.shape[1]])
        out: Tensor = self.norm(x)
        return out


class ByteModel(nn.Module):
    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.model = Decoder(sizes)
        self.lm_head = nn.Linear(sizes["hidden_size"], sizes["vocab_size"], bias=False)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() == 2:  # smaller where a branch is added to the residual stream
                small = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.014 if small else 0.04)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.lm_head(self.model(tokens))
        return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embedding to the last dimension."""
    first, second = torch.chunk(x, 2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def read_corpus() -> tuple[Tensor, Tensor, str]:
    """Return the training bytes, the held-out bytes, and a SHA-256 over both."""
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    names = [name for name in names if not EXCLUDED.intersection(name.split("/"))]
    names = [name for name in names if not name.startswith(EXCLUDED_PREFIXES)]
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    left = CORPUS_BYTES
    for index, name in enumerate(names, start=1):
        text = (root / name).read_bytes()[:left]
        left -= len(text)
        parts[index % HELD_OUT_EVERY == 0].append(text)
    train, held_out = (b"".join(part) for part in parts)
    digest = hashlib.sha256(train + held_out).hexdigest()
    held_out = held_out[: 1 + (len(held_out) - 1) // CONTEXT * CONTEXT]  # whole windows only
    tensors = [torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in (train, held_out)]
    return tensors[0].long(), tensors[1].long(), digest


def bigram_loss(train: Tensor, held_out: Tensor) -> float:
    """Held-out bits per byte of a bigram byte model with add-one smoothing."""
    pairs = torch.bincount(train[:-1] * 256 + train[1:], minlength=256 * 256).view(256, 256) + 1
    bits = -torch.log2(pairs.double() / pairs.sum(dim=1, keepdim=True))
    return float(bits[held_out[:-1], held_out[1:]].mean())


def model_loss(model: ByteModel, held_out: Tensor) -> float:
    """Held-out bits per byte in windows of the context length; predicts what the bigram does."""
    windows = held_out.unfold(0, CONTEXT + 1, CONTEXT)
    with torch.no_grad():
        nats = [float(window_loss(model, part, "sum")) for part in torch.split(windows, 32)]
    return sum(nats) / (windows.shape[0] * CONTEXT) / math.log(2)


def window_loss(model: ByteModel, windows: Tensor, reduction: str) -> Tensor:
    """Cross-entropy in nats of every byte of each window but the first."""
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction=reduction)


def train_model(model: ByteModel, train: Tensor, steps: int, minutes: float | None) -> int:
    """Train in place and return the steps taken; the rate decays over steps or minutes."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    window, began = torch.arange(CONTEXT + 1), time.monotonic()
    for step in range(steps):
        elapsed = time.monotonic() - began
        progress = max(step / steps, elapsed / (60 * minutes) if minutes else 0.0)
        if progress >= 1:
            return step
        decay = 0.02 + 0.49 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * decay * min(1.0, (step + 1) / WARMUP_STEPS)
        starts = torch.randint(len(train) - CONTEXT, (BATCH, 1))
        loss = window_loss(model, train[starts + window], "mean")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: {loss.item() / math.log(2):.3f} bits per byte", flush=True)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description="Train or evaluate the demo model.")
    parser.add_argument("--steps", type=int, default=3200, help="optimizer steps")
    parser.add_argument("--minutes", type=float, help="time budget that may end training earlier")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="model directory")
    parser.add_argument("--evaluate", action="store_true", help="do not train, evaluate --output")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    train, held_out, digest = read_corpus()

    if arguments.evaluate:
        config = json.loads((arguments.output / "config.json").read_text())
        if config["training"]["corpus_sha256"] != digest:
            print("note: this Python's library is not the text that the model was trained on")
    else:
        model = ByteModel(SIZES)
        steps = train_model(model, train, arguments.steps, arguments.minutes)
        tensors = {name: weight.bfloat16() for name, weight in model.state_dict().items()}
        arguments.output.mkdir(parents=True, exist_ok=True)
        save_file(tensors, arguments.output / "model.safetensors", metadata={"format": "pt"})
        config = {**SIZES, "torch_dtype": "bfloat16"}
        config["training"] = {
            "python_version": platform.python_version(),
            "torch_version": torch.__version__.partition("+")[0],
            "corpus_sha256": digest,
            "train_bytes": len(train),
            "held_out_bytes": len(held_out),
            "steps": steps,
            "bytes_per_step": BATCH * CONTEXT,
            "seed": SEED,
        }

    saved = ByteModel(config)
    saved.load_state_dict(load_file(arguments.output / "model.safetensors"))
    losses = {"model": model_loss(saved, held_out), "bigram": bigram_loss(train, held_out)}
    if not arguments.evaluate:
        config["parameters"] = sum(weight.numel() for weight in saved.parameters())
        config["held_out_bits_per_byte"] = {name: round(x, 4) for name, x in losses.items()}
        (arguments.output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name, loss in losses.items():
        print(f"held-out loss, {name}: {loss:.4f} bits per byte")


if __name__ == "__main__":
    main()
