"""Transformers compared with Hugging Face's and x-transformers, and with a GPT by hand."""

from collections.abc import Callable, Iterator
from importlib.metadata import version

import torch
import torch.nn.functional as F
from harness import Case
from torch import Tensor, nn

import ardist as ad
from ardist import families as fam
from ardist import networks


class HandGPT(nn.Module):
    """A GPT of the sizes in `gpt`, written by hand in nanoGPT's form."""

    def __init__(self, symbols: int, length: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(symbols, dim), nn.Embedding(length, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * depth + 1))
        self.attend = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(dim, 4 * dim) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(4 * dim, dim) for _ in range(depth))
        self.head = nn.Linear(dim, symbols)

    def forward(self, index: Tensor) -> Tensor:
        batch, length = index.shape
        x = self.tokens(index) + self.places(torch.arange(length))
        for i, (attend, out) in enumerate(zip(self.attend, self.out, strict=True)):
            q, k, v = (
                part.view(batch, length, self.heads, -1).transpose(1, 2)
                for part in attend(self.norms[2 * i](x)).split(x.shape[-1], -1)
            )
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(attended.transpose(1, 2).reshape(batch, length, -1))
            x = x + self.down[i](F.gelu(self.up[i](self.norms[2 * i + 1](x))))
        logits: Tensor = self.head(self.norms[-1](x))
        return logits


SYMBOLS, LENGTH, DIM, DEPTH, HEADS = 65, 256, 128, 4, 4
NAMES = (
    "ardist",
    f"transformers {version('transformers')} GPT-2",
    f"x-transformers {version('x-transformers')}",
)


def build() -> networks.Transformer:
    return networks.Transformer(
        ad.Factorization(LENGTH, fam.Categorical(SYMBOLS)),
        dim=DIM, depth=DEPTH, heads=HEADS, any_order=False,
    )  # fmt: skip


def generators() -> dict[str, Callable[[int], object]]:
    """Functions that draw a batch of texts with caches and without token filters, by name."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    net = build()
    hugging = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=SYMBOLS + 1, n_positions=LENGTH + 1, n_embd=DIM, n_layer=DEPTH, n_head=HEADS,
            bos_token_id=SYMBOLS, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    other = AutoregressiveWrapper(
        TransformerWrapper(
            num_tokens=SYMBOLS, max_seq_len=LENGTH + 1,
            attn_layers=Decoder(dim=DIM, depth=DEPTH, heads=HEADS, attn_dim_head=DIM // HEADS),
        )
    ).eval()  # fmt: skip

    def by_ardist(batch: int) -> object:
        return net.condition().sample((batch,))

    def by_hugging(batch: int) -> object:
        start = torch.full((batch, 1), SYMBOLS)
        return hugging.generate(
            start, attention_mask=torch.ones_like(start), do_sample=True, top_k=0, top_p=1.0,
            max_new_tokens=LENGTH, pad_token_id=SYMBOLS,
        )  # fmt: skip

    def by_x_transformers(batch: int) -> object:
        start = torch.zeros(batch, 1, dtype=torch.int64)
        return other.generate(start, LENGTH, cache_kv=True, filter_logits_fn=lambda logits: logits)

    return dict(zip(NAMES, (by_ardist, by_hugging, by_x_transformers), strict=True))


def gpt() -> Iterator[Case]:
    draws = generators()
    for batch, aim in ((1, 5), (16, 3), (64, 2)):
        ours, *peers = ((lambda draw=draw, batch=batch: draw(batch)) for draw in draws.values())
        yield (
            f"GPT of 4 layers, 4 heads, 128 wide, 65 symbols: sample({batch}) of 256",
            ours,
            {f"{n} generate, cached": p for n, p in zip(NAMES[1:], peers, strict=True)},
            f">= {aim} of the fastest",
        )

    net, hand = build(), HandGPT(SYMBOLS, LENGTH, DIM, DEPTH, HEADS)
    x = torch.randint(SYMBOLS, (64, LENGTH))

    def ours_trains() -> None:
        (-net.condition().log_prob(x).mean()).backward()
        net.zero_grad()

    def by_hand() -> None:
        shifted = F.pad(x[:, :-1], (1, 0))
        F.cross_entropy(hand(shifted).flatten(0, 1), x.flatten()).backward()
        hand.zero_grad()

    yield (
        "the same, batch 64: log_prob with backward",
        ours_trains,
        {"the same GPT by hand, F.cross_entropy": by_hand},
        ">= 0.95 (at most 1.05 times its time)",
    )
