"""Maximum likelihood for any network: one loop, in one process or in several."""

import copy
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from numbers import Real
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from ardist import shapes
from ardist.bound_network import unwrap
from ardist.distribution import AutoregressiveDistribution
from ardist.families.guards import at_least_single
from ardist.likelihood import LogLikelihood
from ardist.networks.base import ConditionalNetwork
from ardist.networks.constants import reference_of
from ardist.ordering import Ordering
from ardist.recomputation import is_sharded
from ardist.shapes import described
from ardist.training.batches import (
    as_dataset,
    check_numbers,
    checksum,
    explain,
    make_loader,
    order_of,
    sampler_of,
    split,
    tensors_of,
)
from ardist.training.checkpoints import load_checkpoint, save_checkpoint
from ardist.training.history import History, nats
from ardist.training.objectives import masked_log_prob
from ardist.training.processes import gathered, mean, place

_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(
        ("batch_size", "max_epochs", "patience", "steps_per_epoch"), shapes.as_positive
    ),
    **dict.fromkeys(("lr", "time_limit", "clip"), shapes.as_scale),
    **dict.fromkeys(("resume", "progress"), shapes.as_flag),
    "weight_decay": shapes.as_tolerance,
    "average": shapes.as_probability,
    "warmup": shapes.as_count,
    "seed": shapes.as_seed,
    "in_order": shapes.as_share,
    "optimizer": shapes.as_callable,
    "checkpoint": shapes.as_file,
    "callbacks": shapes.as_callables,
}
_ADAM_W = partial(AdamW, fused=True)  # one kernel for all parameters
_STARTING_ROWS = 4096  # for the marginals at which a network starts
_LARGE = 4.0  # asinh of 27, which is the feature of this number
_SMALL = 0.1
_FEW_ROWS = 16  # fewer may all be small by chance
# A checkpoint and its run must agree in these, in the optimizer and in the data.
_SETTINGS = "batch_size", "lr", "seed", "average", "weight_decay", "orderings", "nan_policy"
_OPTIONAL = {"max_epochs", "patience", "time_limit", "steps_per_epoch", "clip", "checkpoint"}


def fit(
    network: nn.Module,
    x: Tensor | Dataset[Any] | DataLoader[Any],
    context: Tensor | None = None,
    *,
    valid: float | Tensor | Sequence[Tensor] | Dataset[Any] | DataLoader[Any] | None = 0.1,
    batch_size: int = 128,
    lr: float = 1e-3,
    max_epochs: int | None = None,
    patience: int | None = 10,
    time_limit: float | None = None,
    steps_per_epoch: int | None = None,
    orderings: str | Sequence[Ordering] | None = None,
    in_order: float = 0.0,
    nan_policy: str = "raise",
    optimizer: Callable[..., Optimizer] = _ADAM_W,
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

    It maximizes `log_prob`, or `masked_log_prob` for a network that predicts from any set, such as
    `networks.Masked`. Any other module is called with the tensors of a batch, as `LogLikelihood`
    is. It returns one number for each row, and `fit` maximizes the mean.

    A new `MADE` or `Masked` starts at the marginals of the rows (`network.start_at`), and so does a
    new `RNN` unless all blocks have one finite family.

    The learning rate rises over the first `warmup` steps. Then it falls along a cosine to zero at
    `max_epochs` or `time_limit`. Without either, it is halved after `patience // 3` epochs in a row
    without improvement in validation. Training ends at the first of `max_epochs`, `time_limit`
    and `patience`. The network is in eval mode afterwards. If an epoch is interrupted or its
    likelihood is not finite, the network has the best weights of the epochs before, if there are
    any. The random numbers of an epoch depend only on the seed, and torch's global generator does
    not change. `torch.no_grad` and `torch.inference_mode` around the call have no effect on it.

    Under `torchrun` (an initialized `torch.distributed`), each process has its share of each batch
    and its own seeds. The network is wrapped in DDP, unless it is already wrapped or FSDP2 has
    sharded it. A DataLoader is not changed, and needs a `DistributedSampler`. The first process
    reports.

    Args:
        network: a conditional network, possibly wrapped, or a module that is called like
            `LogLikelihood(network)`.
        x: events (N, *event_shape), or a Dataset or DataLoader of x or of (x, context).
        context: (N, *context_shape) for a tensor x.
        valid: a share of the rows to validate on, or other rows: a tensor, (x, context), a
            Dataset or a DataLoader; None or 0 for none. A DataLoader x has no shares.
        batch_size: rows of a batch, in all processes together.
        lr: the highest learning rate.
        max_epochs: epochs at most; no limit by default.
        patience: epochs without improvement in validation after which training ends, or None.
        time_limit: seconds at most. The learning rate then depends on the machine's speed.
        steps_per_epoch: steps at most; by default an epoch is one pass over the data.
        orderings: the orders to train on, for networks that support any: "row" or "batch" for a
            random order of each row or batch, or a sequence of orders, from which each batch draws
            one. By default the network's own order, or random sets if it predicts from any set.
        in_order: the share of rows in the network's own order if the other rows are in random
            orders. Validation of a network that predicts from any set is the mean over all orders.
        nan_policy: "raise", or "marginalize" if NaN in x is missing, for a network that follows
            any order.
        optimizer: called with parameter groups and `lr`. By default torch's fused AdamW.
        weight_decay: of weights, which are parameters of two dimensions or more, not of biases.
        warmup: steps in which the learning rate rises to `lr`.
        clip: the largest norm of the gradient, or None.
        average: decay per step of an exponential moving average of the weights, such as 0.99. The
            average is validated and kept instead of the weights. 0 for none. FSDP2 does not
            support it.
        checkpoint: a file that the first process replaces after each epoch. Any number of
            processes can resume from it, with the same data and options. The same number of
            processes reproduces an uninterrupted run.
        resume: whether to resume from the checkpoint if it exists.
        seed: seed of the split, the order of the rows, dropout and orderings.
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
    if any(weight.is_inference() for weight in network.parameters()):
        raise ValueError(
            "network: expected parameters that can be trained, got a network that was "
            "made under torch.inference_mode"
        )
    device = reference_of(network).device
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):
        return _Run(options)()


class _MaskedLogLikelihood(LogLikelihood):
    """The objective of a network that predicts from any set."""

    in_order = 0.0

    def forward(self, x: Tensor, context: Tensor | None = None, ordering: Any = None) -> Tensor:
        p = AutoregressiveDistribution(self.network, context, nan_policy=self.nan_policy)
        return masked_log_prob(p, x, in_order=self.in_order if self.training else 0.0)


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


def _optimizer(model: nn.Module, options: Any) -> Optimizer:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise ValueError("network: expected parameters that require gradients, got none")
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0},
    ]
    try:
        made = options.optimizer([g for g in groups if g["params"]], lr=options.lr)
        shapes.check_type(made, Optimizer, "optimizer")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"optimizer: expected to be called with parameter groups and lr=, as torch.optim.AdamW "
            f"is, and to return an Optimizer, got {described(options.optimizer)}"
        ) from error
    return made


def _averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    """A copy whose weights are the moving average of the model's; None for a decay of 0."""
    if not decay:
        return None
    if is_sharded(model):
        raise ValueError(
            f"average: expected 0, since it needs a copy of the network, which FSDP2 does not "
            f"support, got {decay}"
        )
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


class _Run:
    """The loop over epochs and its state."""

    def __init__(self, options: Any) -> None:
        self.options, self.history, self.objective = options, History(), _objective(options)
        self.order = order_of(options, self.objective)
        is_random = isinstance(options.orderings, str)
        if options.in_order and not (is_random or isinstance(self.objective, _MaskedLogLikelihood)):
            raise ValueError(
                f"in_order: expected 0, since the orders are not random, got {options.in_order}; "
                f'orderings="row" makes them so'
            )
        data = as_dataset(self.objective, "x", options.x, options.context)
        train, held = split(data, options, self.objective)
        self.train = make_loader(train, options, "x")
        self.held = None if held is None else make_loader(held, options, "valid")
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
        path = options.checkpoint
        self.resumed: Path | None = path if path and options.resume and path.is_file() else None
        if self.resumed is None:
            self.start_at_data()
        self.averaged = _averaged(self.objective, options.average)
        self.model, parts = self.objective, self.objective.modules()
        is_ddp = any(isinstance(part, DistributedDataParallel) for part in parts)
        if place()[1] > 1 and not is_ddp and not is_sharded(self.model):
            self.model = DistributedDataParallel(self.model)
        self.optimizer = _optimizer(self.model, options)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.best = self.objective.state_dict()
        self.settings = {} if path is None else self.make_settings(data, held)
        self.fall = 1.0  # of the learning rate, after epochs without improvement

    def make_settings(self, data: Any, held: Any) -> dict[str, Any]:
        """The settings in which a run and its checkpoint must agree, as values for a file."""
        o, optimizer = self.options, self.optimizer
        settings = {name: getattr(o, name) for name in _SETTINGS}
        if not isinstance(o.orderings, str | None):
            settings["orderings"] = repr(o.orderings)
        arguments = {name: value for name, value in optimizer.defaults.items() if name != "lr"}
        settings["optimizer"] = f"{type(optimizer).__name__} with {arguments}"
        settings["x"], settings["valid"] = checksum(data, "x"), None
        if held is not None:
            is_share = isinstance(o.valid, Real)
            settings["valid"] = float(o.valid) if is_share else checksum(held, "valid")
        return settings

    @property
    def network(self) -> ConditionalNetwork | None:
        """The network, or None if it is wrapped or another module, which may change the rows."""
        inner = self.objective.network if isinstance(self.objective, LogLikelihood) else None
        return inner if isinstance(inner, ConditionalNetwork) else None

    def start_at_data(self) -> None:
        """Starts a network at the marginals of the first rows, if this makes them more likely.

        A network that has learned more than the marginals is not changed, and neither is a network
        with frozen parameters.
        """
        options, network = self.options, self.network
        if network is None or is_sharded(network) or not network.starts_at_data:
            return
        if not all(weight.requires_grad for weight in network.parameters()):
            return
        count = min(self.steps, -(-_STARTING_ROWS // options.batch_size))
        torch.manual_seed(options.seed)  # for the order of the rows of a DataLoader
        first = list(islice(self.train, count))
        if not first:
            return
        own = torch.cat([tensors_of(batch, "x")[0] for batch in first])
        rows = torch.cat(gathered(own)).to(self.device)  # the same in each process

        def score() -> float:
            torch.manual_seed(options.seed)
            scores = self.log_prob(self.objective, first[0], "x")
            return mean(scores.sum(), scores.shape[0], "x")

        before = copy.deepcopy(network.state_dict())
        with torch.no_grad(), network.eval_mode():
            former = score()
            network.start_at(rows)
            if not score() > former:
                network.load_state_dict(before)

    def __call__(self) -> History:
        o, is_first = self.options, place()[0] == 0
        if self.resumed is not None:
            self.load(self.resumed)
        history = self.history
        self.start = perf_counter() - sum(history.seconds[-1:])
        self.bar = self.make_bar(o.progress and is_first)
        try:
            while not self.is_over:
                self.epoch(len(history.train))
                self.bar.set_postfix_str(nats(history, -1), refresh=False)
                if o.checkpoint is not None:
                    self.save(o.checkpoint)
                for callback in o.callbacks if is_first else ():
                    callback(history)
        finally:  # also after an interrupt, or if the likelihood is not finite
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
        """Trains for one epoch, validates, and keeps the weights if they are the best."""
        o, history, rate, total, rows = self.options, self.history, 0.0, torch.zeros(()), 0
        if o.max_epochs is None and o.time_limit is None:
            self.fall = 0.5 ** _num_plateaus(history.valid, max(1, o.patience // 3))
        torch.manual_seed(hash((o.seed, index, place()[0])))
        if (sampler := sampler_of(self.train)) is not None:
            sampler.set_epoch(index)
        self.model.train()
        for step, batch in enumerate(islice(self.train, self.steps)):
            seconds = 0.0 if o.time_limit is None else self.seconds()
            if step and seconds >= (o.time_limit or math.inf):
                break
            if index == step == 0:
                self.check_units(batch)
            rate = self.rate(index, step, seconds)
            scores = self.step(batch, rate)
            total, rows = total - scores.sum(), rows + scores.shape[0]
            self.bar.update()
        history.train.append(self.mean_nats("x", total, rows))
        history.lr.append(o.lr * rate)
        kept = self.objective if self.averaged is None else self.averaged.module
        if self.held is not None:
            history.valid.append(self.validate(kept, self.held))
        if history.best_epoch == index:
            self.best = copy.deepcopy(kept.state_dict())
        history.seconds.append(self.seconds())

    def check_units(self, batch: Any) -> None:
        """Warns about numbers in units far from 1, from which a network learns little."""
        if self.network is None:
            return
        fac = self.network.factorization
        x, *context = (tensor.float() for tensor in tensors_of(batch, "x"))
        if x.numel() == 0:
            return
        if _is_far_from_one(fac.layout.features(fac.split(x)), _LARGE):
            warnings.warn(
                "x: expected numbers in units near 1, since networks learn little from others; "
                "families.auto(column) standardizes a column, or families.Transformed(family, "
                "AffineTransform(mean, deviation))",
                stacklevel=5,
            )
        if context and _is_far_from_one(context[0], math.sinh(_LARGE)):
            warnings.warn(
                "context: expected numbers in units near 1, since networks learn little from "
                "others; standardize them: (context - mean) / deviation",
                stacklevel=5,
            )

    def step(self, batch: Any, rate: float) -> Tensor:
        """One step of the optimizer. Returns the score of each row."""
        for group, highest in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = highest * rate
        scores = self.log_prob(self.model, batch, "x")
        if not scores.requires_grad:
            raise ValueError("network: expected log-probabilities with gradients, got none")
        self.optimizer.zero_grad()
        (-scores.mean()).backward()
        if self.options.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.objective)
        return scores.detach()

    def rate(self, epoch: int, step: int, seconds: float) -> float:
        """The learning rate as a share of the highest one."""
        o = self.options
        done = (epoch + step / self.steps) / (o.max_epochs or math.inf)
        done = min(1.0, max(done, seconds / (o.time_limit or math.inf)))  # 0 without an end
        fall = self.fall * math.cos(math.pi / 2 * done) ** 2
        return fall * min(1.0, (epoch * self.steps + step + 1) / max(o.warmup, 1))

    def log_prob(self, model: nn.Module, batch: Any, name: str) -> Tensor:
        """The score of each row of a batch, (rows,). Errors call the batch by `name`."""
        tensors = [tensor.detach().to(self.device) for tensor in tensors_of(batch, name)]
        if isinstance(self.objective, LogLikelihood) and len(tensors) > 2:
            raise ValueError(
                f"{name}: expected batches of x or (x, context), got {len(tensors)} tensors"
            )
        rows = tensors[0].shape[:1]
        kwargs = {} if self.order is None else {"ordering": self.order(rows[0])}
        try:
            result = model(*tensors, **kwargs)
        except (TypeError, ValueError) as error:
            explain(self.objective, name, tensors, kwargs, error)
            raise
        if not isinstance(result, Tensor) or result.shape != rows:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"network: expected one log-probability for each row, {tuple(rows)}, got {got}"
            )
        return result.to(at_least_single(result.dtype))  # in which they are added up

    @torch.no_grad()
    def validate(self, model: nn.Module, held: Any) -> float:
        """The mean nats of a row, under the same random numbers each time."""
        rank, world = place()
        torch.manual_seed(hash((self.options.seed, -1, rank)))
        model.eval()
        empty = torch.zeros(0, device=self.device)
        scores = torch.cat([empty, *(self.log_prob(model, batch, "valid") for batch in held)])
        if (sampler := sampler_of(held)) is not None:  # repeats rows to share them evenly
            scores = scores[: -(-(len(sampler.dataset) - rank) // world)]
        return self.mean_nats("valid", -scores.sum(), scores.shape[0])

    def mean_nats(self, name: str, total: Tensor, rows: int) -> float:
        """The mean over the rows of an argument. Raises if it is not finite."""
        nats = mean(total, rows, name)
        if not math.isfinite(nats) or nats == 0.0:
            loader = islice(self.train, self.steps) if name == "x" else self.held
            check_numbers(self.objective, name, loader)
        if not math.isfinite(nats):
            raise ValueError(
                f"network: expected finite log-probabilities of {name}, got a mean of {-nats} in "
                f"epoch {len(self.history.seconds) + 1}; a smaller lr or clip can help"
            )
        return nats

    def seconds(self) -> float:
        """Seconds since the start. With a time limit, all processes get the same number."""
        seconds = perf_counter() - self.start
        return seconds if self.options.time_limit is None else max(gathered(seconds))

    def make_bar(self, is_shown: bool) -> Any:
        from tqdm import tqdm  # type: ignore[import-untyped]  # pyro-ppl depends on it

        most, done = self.options.max_epochs, len(self.history.train) * self.steps
        is_endless = most is None or self.steps == sys.maxsize  # a stream of unknown length
        total = None if is_endless else most * self.steps
        pause = 0.5 if sys.stderr.isatty() else 30.0  # seconds; a log has fewer lines
        look = {"mininterval": pause, "ncols": 100, "disable": not is_shown}
        return tqdm(desc="training", total=total, initial=done, **look)

    def save(self, path: Path) -> None:
        averaged = {} if self.averaged is None else self.averaged.state_dict()
        state = {
            "model": self.objective.state_dict(),
            "best": self.best,
            "averaged": averaged,
            "optimizer": self.optimizer.state_dict(),
            "history": asdict(self.history),
            "settings": self.settings,
        }
        save_checkpoint(path, state)

    def load(self, path: Path) -> None:
        saved = load_checkpoint(path, self.settings, self.objective, self.optimizer)
        self.objective.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.best, self.history = saved["best"], History(**saved["history"])
        if self.averaged is not None:
            self.averaged.load_state_dict(saved["averaged"])


def _is_far_from_one(numbers: Tensor, large: float) -> bool:
    """Whether the units of a column of numbers (rows, ...) are much larger or smaller than 1."""
    sizes = numbers.flatten(1).abs()
    largest = sizes.nan_to_num(0.0).amax(0)
    is_small = (largest > 0) & (largest < _SMALL) & (numbers.shape[0] >= _FEW_ROWS)
    return bool((is_small | (sizes.nanmedian(0).values > large)).any())


def _num_plateaus(valid: Sequence[float], patience: int) -> int:
    """How many times `patience` epochs in a row did not improve on the best epoch."""
    best, waited, count = math.inf, 0, 0
    for found in valid:
        waited = 0 if found < best else waited + 1
        best = min(best, found)
        if waited == patience:
            waited, count = 0, count + 1
    return count
