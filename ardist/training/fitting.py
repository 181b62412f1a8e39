"""Maximum likelihood for any network: one loop, in one process or in several."""

import copy
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import BatchSampler, DataLoader, Dataset, Subset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from ardist import shapes
from ardist.bound_network import unwrap
from ardist.distribution import AutoregressiveDistribution
from ardist.networks.base import ConditionalNetwork, LogLikelihood, reference_of
from ardist.ordering import Ordering
from ardist.recomputation import is_sharded
from ardist.shapes import described
from ardist.training.objectives import masked_log_prob

_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(
        ("batch_size", "max_epochs", "patience", "steps_per_epoch"), shapes.as_positive
    ),
    **dict.fromkeys(("lr", "time_limit", "clip"), shapes.as_scale),
    **dict.fromkeys(("resume", "progress"), shapes.as_flag),
    **{"weight_decay": shapes.as_tolerance, "average": shapes.as_probability},
    **{"warmup": shapes.as_count, "seed": shapes.as_integer, "in_order": shapes.as_share},
    **{"optimizer": shapes.as_callable, "checkpoint": shapes.as_path},
    **{"callbacks": shapes.as_callables},
}
_STARTING_ROWS = 4096  # from which the marginals are computed at which a network starts
_OPTIONAL = {"max_epochs", "patience", "time_limit", "steps_per_epoch", "clip", "checkpoint"}


@dataclass
class History:
    """The course of a training run, epoch by epoch.

    Attributes:
        train: mean negative log-likelihood of a row during each epoch, in nats, with dropout.
        valid: the same of the validation set after each epoch; empty if there is none.
        lr: the learning rate at the end of each epoch.
        seconds: from the start of the run to the end of each epoch.

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

    def _nats(self, epoch: int) -> str:
        """The mean negative log-likelihoods of an epoch, as text."""
        valid = f", valid {self.valid[epoch]:.3f}" if self.valid else ""
        return f"train {self.train[epoch]:.3f}{valid} nats"

    def __str__(self) -> str:
        if not self.train:
            return "no epochs"
        best, count, seconds = self.best_epoch, len(self.train), self.seconds[-1]
        return f"epoch {best + 1} of {count} ({seconds:.0f} s): {self._nats(best)}"


def fit(
    network: nn.Module,
    x: Tensor | Dataset[Any] | DataLoader[Any],
    context: Tensor | None = None,
    *,
    valid: float | Tensor | tuple[Tensor, ...] | Dataset[Any] | DataLoader[Any] | None = 0.1,
    batch_size: int = 128,
    lr: float = 1e-3,
    max_epochs: int | None = None,
    patience: int | None = 10,
    time_limit: float | None = None,
    steps_per_epoch: int | None = None,
    orderings: str | Sequence[Ordering] | None = None,
    in_order: float = 0.0,
    nan_policy: str = "raise",
    optimizer: Callable[..., Optimizer] = AdamW,
    weight_decay: float = 0.0,
    warmup: int = 50,
    clip: float | None = 1.0,
    average: float = 0.0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = True,
    seed: int = 0,
    progress: bool = True,
    callbacks: Sequence[Callable[[History], object]] = (),
) -> History:
    """Trains a network by maximum likelihood, and keeps the weights that are best in validation.

    A network that predicts from any set, such as `networks.Masked`, maximizes `masked_log_prob`,
    any other one `log_prob`. Any other module is called as `LogLikelihood` is: with the tensors of
    a batch, it returns a number for each row, of which fit maximizes the mean.

    A new `MADE`, `RNN` or `Masked` starts at the marginals of the rows (`network.start_at`).

    The learning rate rises over the first `warmup` steps. Then it falls along a cosine to zero at
    `max_epochs` or `time_limit`. Without either, each epoch without improvement in validation
    lowers it: a third of `patience` of them halve it. Training ends at whichever comes first. The
    network is in eval mode afterwards. The random numbers of an epoch depend on the seed alone,
    and torch's global generator is as it was.

    Under `torchrun` (an initialized `torch.distributed`), each process has its share of each batch
    and seeds of its own. The network is wrapped in DDP, unless it is already, or FSDP2 has sharded
    it. A DataLoader is used as it is, and needs a `DistributedSampler`. The first process reports.

    Args:
        network: a conditional network, also wrapped, or a module that is called like
            `LogLikelihood(network)`.
        x: events (N, *event_shape), or a Dataset or DataLoader of x or of (x, context).
        context: (N, *context_shape) for a tensor x.
        valid: a share of the rows to validate on, or a set: a tensor, (x, context), a Dataset or
            a DataLoader; None or 0 for none.
        batch_size: rows of a step, in all processes together.
        lr: the highest learning rate.
        max_epochs: epochs at most; no limit by default.
        patience: epochs without improvement in validation after which training ends, or None.
        time_limit: seconds at most. The learning rate then depends on the machine's speed.
        steps_per_epoch: steps at most; by default an epoch is one pass over the data.
        orderings: the orders to train on, for networks that support any: "row" or "batch" for a
            random order of each row or batch, or a sequence, of which each batch has one. By
            default the network's own, or random sets if it predicts from any set.
        in_order: the share of rows in the network's own order among random ones.
        nan_policy: "raise", or "marginalize" if NaN in x is missing.
        optimizer: called with parameter groups and `lr`.
        weight_decay: of weights, which are parameters of two dimensions or more, not of biases.
        warmup: steps in which the learning rate rises to `lr`.
        clip: the largest norm of the gradient, or None.
        average: decay per step of an exponential moving average of the weights, such as 0.99. It
            is validated and kept instead of the weights. 0 for none. FSDP2 does not support it.
        checkpoint: a file that the first process replaces after each epoch, in one step. Any
            number of processes can resume from it, as many as before to the same numbers.
        resume: whether to resume from the checkpoint if it exists.
        seed: of the split, the order of the rows, dropout and orderings.
        progress: whether to show a bar with the nats of the last epoch.
        callbacks: called with the history after each epoch, in the first process.

    Raises:
        ValueError: if an argument is invalid, or the likelihood becomes NaN or infinite.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Normal()), hidden_features=16)
    >>> history = ad.training.fit(net, torch.randn(200, 4), max_epochs=3, progress=False)
    >>> len(history.train), len(history.valid)
    (3, 3)
    """
    options = SimpleNamespace(**locals())
    for name, check in _CHECKS.items():
        if (value := getattr(options, name)) is not None or name not in _OPTIONAL:
            setattr(options, name, check(value, name))
    shapes.check_type(network, nn.Module, "network")
    device = reference_of(network).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return _Run(options)()


def _place() -> tuple[int, int]:
    """The rank of this process, and how many there are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _gathered(value: Any) -> list[Any]:
    """The values of all processes."""
    values = [value] * _place()[1]
    if len(values) > 1:
        distributed.all_gather_object(values, value)
    return values


class _MaskedLogLikelihood(LogLikelihood):
    """The objective of a network that predicts from any set."""

    in_order = 0.0

    def forward(self, x: Tensor, context: Tensor | None = None, ordering: Any = None) -> Tensor:
        p = AutoregressiveDistribution(self.network, context, nan_policy=self.nan_policy)
        return masked_log_prob(p, x, in_order=self.in_order)


def _objective(options: Any) -> nn.Module:
    """The module that is called with each batch."""
    try:
        has_masks = unwrap(options.network).has_masks
    except ValueError:  # a module of the user's own
        return options.network
    kind = _MaskedLogLikelihood if has_masks and options.orderings is None else LogLikelihood
    model = kind(options.network, nan_policy=options.nan_policy)
    model.in_order = options.in_order
    return model


def _order(options: Any) -> Callable[[int], Ordering | Tensor] | None:
    """A function that draws the order of a batch of so many rows."""
    kinds = options.orderings
    if kinds is None:
        return None
    if shapes.is_sequence(kinds) and kinds and all(isinstance(each, Ordering) for each in kinds):
        return lambda rows: kinds[int(torch.randint(len(kinds), ()))]
    if not isinstance(kinds, str) or kinds not in ("row", "batch"):
        raise ValueError(f'orderings: expected "row", "batch" or Orderings, got {described(kinds)}')
    nets = (part for part in options.network.modules() if isinstance(part, ConditionalNetwork))
    fac = next(nets).factorization

    def draw(rows: int) -> Tensor:
        ranks = torch.rand(rows if kinds == "row" else 1, fac.num_blocks).argsort(-1)
        ranks[torch.rand(ranks.shape[0]) < options.in_order] = fac.ranks.flatten()
        ranks = ranks.reshape(-1, *fac.grid_shape)
        return ranks if kinds == "row" else ranks[0]

    return draw


def _rows(model: nn.Module, name: str, x: Any, context: Any = None) -> Any:
    """A Dataset or DataLoader as it is, and tensors as a dataset."""
    if isinstance(x, Dataset | DataLoader) and context is None:
        return x
    if not isinstance(x, Tensor):
        raise ValueError(
            f"{name}: expected a tensor, or a Dataset or DataLoader and no context, got "
            f"{type(x).__name__}"
        )
    shapes.check_data(x, name)
    if isinstance(model, LogLikelihood):
        p = AutoregressiveDistribution(model.network, context, nan_policy=model.nan_policy)
        p.check_value(x, name)
        if x.dim() == len(p.event_shape) or x.shape[0] == 0:
            raise ValueError(f"{name}: expected (N, *event_shape), got {tuple(x.shape)}")
    if context is not None and context.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"context: expected one for each row of {name}, {tuple(x.shape)}, got "
            f"{tuple(context.shape)}"
        )
    return TensorDataset(x) if context is None else TensorDataset(x, context)


def _split(data: Any, options: Any, model: nn.Module) -> tuple[Any, Any]:
    """The rows to train on, and those to validate on or None."""
    valid = options.valid
    if isinstance(valid, Tensor | Dataset | DataLoader):
        return data, _rows(model, "valid", valid)
    if isinstance(valid, tuple) and len(valid) == 2:
        return data, _rows(model, "valid", *valid)
    if valid is None or not shapes.as_real(
        valid, "valid", "a share in [0, 1) or a set", lambda x: 0 <= x < 1
    ):
        return data, None
    if isinstance(data, DataLoader):
        raise ValueError(f"valid: expected a set, or None, with a DataLoader, got {valid}")
    count = max(1, round(valid * len(data)))
    if count >= len(data):
        raise ValueError(f"x: expected two rows at least, one to validate, got {len(data)}")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(options.seed))
    return Subset(data, order[count:].tolist()), Subset(data, order[:count].tolist())


def _loader(data: Any, options: Any, shuffle: bool) -> DataLoader[Any]:
    """The batches of this process, in an order that depends on the seed and the epoch alone."""
    if isinstance(data, DataLoader):
        return data
    rank, world = _place()
    if options.batch_size % world:
        raise ValueError(
            f"batch_size: expected a multiple of {world} processes, got {options.batch_size}"
        )
    sampler: Any = DistributedSampler(data, world, rank, shuffle=shuffle, seed=options.seed)
    size = options.batch_size // world
    if isinstance(getattr(data, "dataset", data), TensorDataset):  # takes a batch at once
        return DataLoader(data, None, sampler=BatchSampler(sampler, size, drop_last=False))
    return DataLoader(data, size, sampler=sampler)


def _sampler(loader: Any) -> Any:
    sampler = getattr(loader.sampler, "sampler", loader.sampler)
    return sampler if isinstance(sampler, DistributedSampler) else None


def _optimizer(model: nn.Module, options: Any) -> Optimizer:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0},
    ]
    try:
        made: Optimizer = options.optimizer([g for g in groups if g["params"]], lr=options.lr)
    except TypeError as error:
        raise ValueError(
            f"optimizer: expected to be called with parameter groups and lr=, as torch.optim.AdamW "
            f"is, got {described(options.optimizer)}"
        ) from error
    return made


class _Run:
    """The loop over epochs, and what changes in it."""

    def __init__(self, options: Any) -> None:
        self.options, self.history, self.order = options, History(), _order(options)
        self.objective = _objective(options)
        data = _rows(self.objective, "x", options.x, options.context)
        data, held = _split(data, options, self.objective)
        self.train = _loader(data, options, shuffle=True)
        self.held = None if held is None else _loader(held, options, shuffle=False)
        is_endless = options.max_epochs is None and options.time_limit is None
        if is_endless and (held is None or options.patience is None):
            raise ValueError(
                "max_epochs: expected a number, since neither time_limit nor patience in "
                "validation ends the training, got None"
            )
        self.steps: int = options.steps_per_epoch or sys.maxsize
        with suppress(TypeError):  # a stream has no length
            self.steps = min(self.steps, len(self.train))
        self.device = reference_of(self.objective).device
        self.start_at_data()
        self.averaged: AveragedModel | None = None
        if options.average:
            average = get_ema_multi_avg_fn(options.average)
            self.averaged = AveragedModel(self.objective, multi_avg_fn=average)
        self.model, parts = self.objective, self.objective.modules()
        is_ddp = any(isinstance(part, DistributedDataParallel) for part in parts)
        if _place()[1] > 1 and not is_ddp and not is_sharded(self.model):
            self.model = DistributedDataParallel(self.model)
        self.optimizer = _optimizer(self.model, options)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.best = self.objective.state_dict()
        self.settings = {name: getattr(options, name) for name in ("batch_size", "lr", "seed")}

    def start_at_data(self) -> None:
        """Starts a network at the marginals of the first rows, if they are more likely then.

        A network that has learned more than the marginals stays as it is.
        """
        network: Any = getattr(self.objective, "network", None)
        options = self.options
        is_own = isinstance(network, ConditionalNetwork) and not is_sharded(network)
        if not (is_own and network.starts_at_data):
            return
        count = min(self.steps, -(-_STARTING_ROWS // options.batch_size))
        batches = list(islice(self.train, count))
        rows = [batch[0] if isinstance(batch, list | tuple) else batch for batch in batches]
        first = torch.cat(_gathered(torch.cat(rows))).to(self.device)  # the same in each process

        def score() -> float:
            torch.manual_seed(options.seed)
            scores = self.log_prob(self.objective, batches[0])
            return _mean(scores.sum(), scores.shape[0])

        before = copy.deepcopy(network.state_dict())
        with torch.no_grad(), network.eval_mode():
            former = score()
            network.start_at(first)
            if not score() > former:
                network.load_state_dict(before)

    def __call__(self) -> History:
        o, is_first = self.options, _place()[0] == 0
        if o.checkpoint is not None and o.resume and o.checkpoint.is_file():
            self.load(o.checkpoint)
        history = self.history
        self.start = perf_counter() - sum(history.seconds[-1:])
        self.bar = self.make_bar(o.progress and is_first)
        while not self.is_over:
            self.epoch(len(history.train))
            self.bar.set_postfix_str(history._nats(-1), refresh=False)
            if o.checkpoint is not None:
                self.save(o.checkpoint)
            for callback in o.callbacks if is_first else ():
                callback(history)
        self.bar.close()
        self.objective.load_state_dict(self.best)
        self.objective.eval()
        return history

    @property
    def is_over(self) -> bool:
        o, history, count = self.options, self.history, len(self.history.train)
        return count > 0 and (
            (o.max_epochs is not None and count >= o.max_epochs)
            or (o.time_limit is not None and history.seconds[-1] >= o.time_limit)
            or (o.patience is not None and count - 1 - history.best_epoch >= o.patience)
        )

    def epoch(self, index: int) -> None:
        o, history, rate, total, rows = self.options, self.history, 0.0, torch.zeros(()), 0
        torch.manual_seed(hash((o.seed, index, _place()[0])))
        if (sampler := _sampler(self.train)) is not None:
            sampler.set_epoch(index)
        self.model.train()
        for step, batch in enumerate(islice(self.train, self.steps)):
            seconds = 0.0 if o.time_limit is None else self.seconds()
            if step and seconds >= (o.time_limit or math.inf):
                break
            rate = self.rate(index, step, seconds)
            for group, highest in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = highest * rate
            nats = -self.log_prob(self.model, batch)
            self.optimizer.zero_grad()
            nats.mean().backward()
            if o.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)
            self.optimizer.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.objective)
            total, rows = total + nats.detach().sum(), rows + nats.shape[0]
            self.bar.update()
        history.train.append(_mean(total, rows))
        if not math.isfinite(history.train[-1]):
            raise ValueError(
                f"network: expected finite log-probabilities, got a mean of {-history.train[-1]} "
                f"in epoch {index + 1}; a smaller lr or clip can help"
            )
        history.lr.append(o.lr * rate)
        kept = self.objective if self.averaged is None else self.averaged.module
        if self.held is not None:
            history.valid.append(self.validate(kept, self.held))
        if history.best_epoch == index:
            self.best = copy.deepcopy(kept.state_dict())
        history.seconds.append(self.seconds())

    def rate(self, epoch: int, step: int, seconds: float) -> float:
        """The learning rate as a share of the highest one."""
        o, valid = self.options, self.history.valid
        if o.max_epochs is None and o.time_limit is None:  # lower by each epoch without a record
            fall = 0.5 ** (3 * (len(valid) - len(set(accumulate(valid, min)))) / o.patience)
        else:
            done = (epoch + step / self.steps) / (o.max_epochs or math.inf)
            done = min(1.0, max(done, seconds / (o.time_limit or math.inf)))
            fall = math.cos(math.pi / 2 * done) ** 2
        return fall * min(1.0, (epoch * self.steps + step + 1) / max(o.warmup, 1))

    def log_prob(self, model: nn.Module, batch: Any) -> Tensor:
        each = batch if isinstance(batch, list | tuple) else [batch]
        tensors = [tensor.to(self.device) for tensor in each]
        rows = tensors[0].shape[:1]
        kwargs = {} if self.order is None else {"ordering": self.order(rows[0])}
        result: Tensor = model(*tensors, **kwargs)
        if result.shape != rows:
            raise ValueError(
                f"network: expected one log-probability for each row, {tuple(rows)}, got "
                f"{tuple(result.shape)}"
            )
        return result

    @torch.no_grad()
    def validate(self, model: nn.Module, held: Any) -> float:
        """The mean nats of a row, under the same random numbers each time."""
        rank, world = _place()
        torch.manual_seed(hash((self.options.seed, -1, rank)))
        model.eval()
        nats = -torch.cat([self.log_prob(model, batch) for batch in held])
        if (sampler := _sampler(held)) is not None:  # it repeats rows to share them evenly
            nats = nats[: -(-(len(sampler.dataset) - rank) // world)]
        return _mean(nats.sum(), nats.shape[0])

    def seconds(self) -> float:
        """Since the start; the same in all processes if it matters."""
        seconds = perf_counter() - self.start
        return seconds if self.options.time_limit is None else max(_gathered(seconds))

    def make_bar(self, is_shown: bool) -> Any:
        from tqdm import tqdm  # type: ignore[import-untyped]  # pyro-ppl depends on it

        most, done = self.options.max_epochs, len(self.history.train) * self.steps
        total = None if most is None else most * self.steps
        pause = 0.5 if sys.stderr.isatty() else 30.0  # seconds; a log has fewer lines
        look = {"mininterval": pause, "ncols": 100, "disable": not is_shown}
        return tqdm(desc="training", total=total, initial=done, **look)

    def save(self, path: Path) -> None:
        averaged = {} if self.averaged is None else self.averaged.state_dict()
        state = {
            **{"model": self.objective.state_dict(), "optimizer": self.optimizer.state_dict()},
            **{"best": self.best, "averaged": averaged},
            **{"history": asdict(self.history), "settings": self.settings},
        }
        whole = _whole(state)  # by all processes
        if _place()[0] == 0:
            new = path.with_name(f"{path.name}.new")
            torch.save(whole, new)
            new.replace(path)  # never half a file

    def load(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if saved["settings"] != self.settings:
            raise ValueError(
                f"checkpoint: expected one of a run with {self.settings}, got {saved['settings']}; "
                f"resume=False starts again"
            )
        own = self.objective.state_dict()
        model, self.best = (
            {name: _like(own[name], value) for name, value in saved[part].items()}
            for part in ("model", "best")
        )
        self.objective.load_state_dict(model)
        params = [each for group in self.optimizer.param_groups for each in group["params"]]
        for index, state in saved["optimizer"]["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == params[index].shape:
                    state[name] = _like(params[index], value)
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(saved["averaged"])
        self.history = History(**saved["history"])


def _whole(value: Any) -> Any:
    """With whole tensors in place of the shards of FSDP2."""
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _like(own: Any, value: Tensor) -> Tensor:
    """In shards as another tensor, if that is in shards."""
    if not hasattr(own, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, own.device_mesh, own.placements)


def _mean(total: Tensor, rows: int) -> float:
    """The mean over the rows of all processes."""
    totals, counts = zip(*_gathered((total.item(), rows)), strict=True)
    return sum(totals) / sum(counts)
