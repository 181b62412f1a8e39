"""RNNs compared with loops over torch's own cells."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from harness import Case
from torch import Tensor, nn

import ardist as ad
from ardist import families as fam
from ardist import networks


def lstm() -> Iterator[Case]:
    steps, size, symbols = 256, 256, 65
    net = networks.RNN(
        ad.Factorization(steps, fam.Categorical(symbols)),
        cell="lstm", hidden_size=size, num_layers=2,
    )  # fmt: skip
    embedding, head = nn.Embedding(symbols, size), nn.Linear(size, symbols)
    module = nn.LSTM(size, size, 2, batch_first=True)
    cells = nn.LSTMCell(size, size), nn.LSTMCell(size, size)

    @torch.no_grad()
    def by_cells(batch: int) -> Tensor:
        states = [(torch.zeros(batch, size), torch.zeros(batch, size)) for _ in cells]
        token, drawn = torch.zeros(batch, dtype=torch.int64), []
        for _ in range(steps):
            h = embedding(token)
            for i, cell in enumerate(cells):
                states[i] = cell(h, states[i])
                h = states[i][0]
            token = torch.multinomial(head(h).softmax(-1), 1).squeeze(1)
            drawn.append(token)
        return torch.stack(drawn, 1)

    @torch.no_grad()
    def by_module(batch: int) -> Tensor:
        state = torch.zeros(2, batch, size), torch.zeros(2, batch, size)
        token, drawn = torch.zeros(batch, dtype=torch.int64), []
        for _ in range(steps):
            h, state = module(embedding(token).unsqueeze(1), state)
            token = torch.multinomial(head(h[:, 0]).softmax(-1), 1).squeeze(1)
            drawn.append(token)
        return torch.stack(drawn, 1)

    for batch, aim in ((1, ">= 1.3 of the cells"), (16, ">= 1.3 of the cells"), (64, ">= 1 of nn")):
        yield (
            f"LSTM 2x256, T=256, 65 symbols: sample({batch})",
            (lambda batch=batch: net.condition().sample((batch,))),
            {
                "a loop over nn.LSTMCell": lambda batch=batch: by_cells(batch),
                "a loop over nn.LSTM": lambda batch=batch: by_module(batch),
            },
            aim,
        )

    x = torch.randint(symbols, (64, steps))

    def ours() -> None:
        (-net.condition().log_prob(x).mean()).backward()
        net.zero_grad()

    def raw() -> None:
        inputs = torch.cat((torch.zeros(64, 1, size), embedding(x[:, :-1])), 1)
        logits = head(module(inputs)[0])
        F.cross_entropy(logits.flatten(0, 1), x.flatten()).backward()
        for part in (module, embedding, head):
            part.zero_grad()

    yield (
        "the same, batch 64: log_prob with backward",
        ours,
        {"nn.LSTM and F.cross_entropy": raw},
        ">= 0.95 (at most 1.05 times its time)",
    )
