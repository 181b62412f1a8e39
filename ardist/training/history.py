"""The course of a training run."""

from dataclasses import dataclass, field


@dataclass
class History:
    """The course of a training run, epoch by epoch.

    Attributes:
        train: mean negative log-likelihood of a row during each epoch, in nats, with dropout.
        valid: the same for the validation set after each epoch; empty if there is none.
        lr: the learning rate at the end of each epoch.
        seconds: the time from the start of the run to the end of each epoch.

    >>> import ardist as ad
    >>> print(ad.training.History([3.0, 2.5, 2.0], [3.1, 2.7, 2.8], [0.001] * 3, [1.0, 2.0, 3.0]))
    epoch 2 of 3 (3 s): train 2.500, valid 2.700 nats
    """

    train: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """The index of the epoch whose weights are kept: the best in validation, or the last."""
        return self.valid.index(min(self.valid)) if self.valid else len(self.train) - 1

    def __str__(self) -> str:
        if not self.train:
            return "no epochs"
        best, count, seconds = self.best_epoch, len(self.train), self.seconds[-1]
        return f"epoch {best + 1} of {count} ({seconds:.0f} s): {nats(self, best)}"


def nats(history: History, epoch: int) -> str:
    """The mean negative log-likelihoods of an epoch, as text."""
    valid = f", valid {history.valid[epoch]:.3f}" if history.valid else ""
    return f"train {history.train[epoch]:.3f}{valid} nats"
