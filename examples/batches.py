"""Batches of sequences of different lengths, for the examples that train on them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler


def padded(sequences: list[Tensor], pad: float = 0.0) -> tuple[Tensor, Tensor]:
    """Padded sequences (N, steps, ...), and a mask of their steps (N, steps)."""
    masks = [torch.ones(len(sequence), dtype=torch.bool) for sequence in sequences]
    x = pad_sequence(sequences, batch_first=True, padding_value=pad)
    return x, pad_sequence(masks, batch_first=True)


class Bucketed(Sampler[list[int]]):
    """Batches of sequences of similar length, in random order, so that there is little padding.

    Args:
        sequences: the data.
        size: number of sequences in a batch.
        jitter: the share by which lengths are varied before they are sorted; 0 for the same batches
            in each epoch.
    """

    def __init__(self, sequences: list[Tensor], size: int, jitter: float) -> None:
        self.lengths = torch.tensor([len(sequence) for sequence in sequences])
        self.size, self.jitter = size, jitter

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.lengths * (1 + self.jitter * torch.rand(len(self.lengths)))
        batches = order.argsort().split(self.size)
        for number in torch.randperm(len(batches)):
            yield batches[number].tolist()


def loader(
    sequences: list[Tensor],
    size: int,
    jitter: float = 0.0,
    make: Callable[[list[Tensor]], Any] = padded,
) -> DataLoader:
    return DataLoader(sequences, batch_sampler=Bucketed(sequences, size, jitter), collate_fn=make)
