"""A mixture of logistics over a grid of integers."""

from dataclasses import dataclass
from functools import partial

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.base import Family, choose
from ardist.families.links import Positive
from ardist.families.noise import uniform_noise
from ardist.shapes import as_integer, as_positive


@dataclass(frozen=True, repr=False)
class DiscretizedLogisticMixture(Family):
    """A mixture of logistics rounded to the integers 0, ..., `bins` - 1 (Salimans et al. 2017).

    Each component has a logit, a location and a scale. The unit of location and scale is half the
    range of the bins, which span [-1, 1]. The first and the last bin take the mass of the tails.

    Args:
        num_components: number of components, at least 1.
        bins: number of integers, at least 2: 256 for bytes.

    Raises:
        ValueError: if an argument is invalid.

    >>> import torch, ardist as ad
    >>> family = ad.families.DiscretizedLogisticMixture(5, bins=256)
    >>> family.log_prob(torch.randn(15), torch.arange(256)).exp().sum().round(decimals=4)
    tensor(1.)
    """

    num_components: int
    bins: int
    num_features = 1
    is_index = True
    noise_shape = torch.Size((2,))

    def __post_init__(self) -> None:
        self._check(as_positive, "num_components")
        self._check(partial(as_integer, least=2), "bins")

    @property
    def needs_double(self) -> bool:
        return self.bins > 2**12  # float32 cannot tell the edges of so many bins apart

    @property
    def num_params(self) -> int:
        return 3 * self.num_components

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.bins - 1)

    def __call__(self, params: Tensor) -> Distribution:
        values = torch.arange(self.bins, device=params.device)
        return dist.Categorical(
            logits=self.log_prob(params.unsqueeze(-2), values), validate_args=False
        )

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        logits, loc, raw = params.unflatten(-1, (3, -1)).unbind(-2)
        half = 1 / (self._scale(raw) * (self.bins - 1))
        away = self._away(value, loc)
        # log(sigmoid(a) - sigmoid(b)) = logsigmoid(a) + logsigmoid(-b) + log(1 - exp(b - a)),
        # without cancellation. The first and the last bin keep only the factor of the inner edge.
        first, last = (value == 0).unsqueeze(-1), (value == self.bins - 1).unsqueeze(-1)
        upper = F.logsigmoid((away + 1) * half).masked_fill(last, 0.0)
        lower = F.logsigmoid((1 - away) * half).masked_fill(first, 0.0)
        width = torch.log(-torch.expm1(-2 * half)).masked_fill(first | last, 0.0)
        return (logits.log_softmax(-1) + upper + lower + width).logsumexp(-1)

    def _away(self, value: Tensor, loc: Tensor) -> Tensor:
        """The distance of values from loc, in half bins: (..., num_components).

        It is a sum of two parts, and the larger part is exact, since a small scale magnifies
        rounding errors.
        """
        last = self.bins - 1
        grid = 2.0 ** (22 - last.bit_length())
        near = (loc.detach() * grid).round() / grid
        return (2 * value.unsqueeze(-1) - last).to(loc.dtype) - near * last - (loc - near) * last

    def _scale(self, raw: Tensor) -> Tensor:
        # With a scale of a hundredth of a bin a value is practically certain.
        return Positive(0.01 / self.bins)(raw - 2.0)

    def sample_noise(self, out: Tensor) -> Tensor:
        uniform_noise(out)
        out[..., 1].logit_()
        return out

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        logits, loc, raw = params.unflatten(-1, (3, -1)).unbind(-2)
        chosen = choose(logits, noise[..., 0]).unsqueeze(-1)
        loc, raw = (
            part.expand(*chosen.shape[:-1], -1).gather(-1, chosen).squeeze(-1)
            for part in (loc, raw)
        )
        value = torch.addcmul(loc, self._scale(raw), noise[..., 1])
        return ((value + 1) * ((self.bins - 1) / 2)).round().clamp(0, self.bins - 1).long()

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        logits, loc, raw = params.unflatten(-1, (3, -1)).unbind(-2)
        edge = (self._away(value.floor(), loc) + 1) / (self._scale(raw) * (self.bins - 1))
        below = (logits.softmax(-1) * edge.sigmoid()).sum(-1)
        below = torch.where(value < self.bins - 1, below, 1.0)
        return torch.where(value < 0, 0.0, below)

    def features(self, value: Tensor) -> Tensor:
        return (value * (2 / (self.bins - 1)) - 1).unsqueeze(-1)
