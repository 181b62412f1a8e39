"""The noise that a family's draws are made from."""

from typing import ClassVar

import torch
from torch import Tensor

from ardist.families.guards import at_least_single, guard


@guard
class FromNoise:
    """The part of `Family` for draws that are a function of the parameters and of noise.

    A family can define `sample_noise` and `from_noise`, then the inverse `to_noise`, and then
    `log_abs_det_jacobian`. The flags follow from the definitions. Shapes are as in `Family`.
    """

    _defined: ClassVar[frozenset[str]] = frozenset()  # names of optional methods, by `Family`

    @property
    def has_noise(self) -> bool:
        """Whether `noise` and `from_noise` exist: `sample_noise` and `from_noise` are defined."""
        return "sample_noise" in self._defined and "from_noise" in self._defined

    @property
    def is_reparameterized(self) -> bool:
        """Whether `to_noise` exists too. Then `from_noise` gives draws their gradients."""
        return self.has_noise and "to_noise" in self._defined

    @property
    def is_bijective(self) -> bool:
        """Whether `from_noise` is a bijection of real noise: `log_abs_det_jacobian` exists too."""
        return self.is_reparameterized and "log_abs_det_jacobian" in self._defined

    @property
    def noise_shape(self) -> torch.Size:
        """Shape of the noise of one value."""
        return torch.Size()

    def noise(
        self,
        shape: torch.Size,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Noise that `from_noise` turns into values, if `has_noise`: (*shape, *noise_shape).

        Half-precision noise is drawn in float32, since a uniform number in half precision has
        only a few hundred values.

        Raises:
            NotImplementedError: if the family has no noise.
        """
        dtype = at_least_single(dtype or torch.get_default_dtype())
        return self.sample_noise(
            torch.empty((*shape, *self.noise_shape), dtype=dtype, device=device)
        )

    def sample_noise(self, out: Tensor) -> Tensor:
        """Noise for `from_noise`, (..., *noise_shape), in `out` or in a new tensor of its shape."""
        raise NotImplementedError(
            f"noise: {self} has no noise that is independent of its parameters; sample(params) "
            f"draws from it"
        )

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        """The value that the noise gives under these parameters, if `has_noise`.

        Raises:
            NotImplementedError: if the family has no noise.
        """
        raise NotImplementedError(
            f"from_noise: {self} has no noise that is independent of its parameters; "
            f"sample(params) draws from it"
        )

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        """The inverse of `from_noise`, if `is_reparameterized`: (..., *noise_shape).

        Raises:
            NotImplementedError: if the value does not determine the noise.
        """
        raise NotImplementedError(
            f"to_noise: a value of {self} does not determine its noise; log_prob(params, value) "
            f"scores the value"
        )

    def log_abs_det_jacobian(self, params: Tensor, value: Tensor) -> Tensor:
        """log abs(det dvalue/dnoise) of `from_noise` at this value, if `is_bijective`: (...).

        Raises:
            NotImplementedError: if draws are not a bijection of real noise.
        """
        raise NotImplementedError(
            f"log_abs_det_jacobian: draws of {self} are not a bijection of real noise; "
            f"log_prob(params, value) scores the value"
        )

    def to_noise_and_log_det(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """`to_noise` and `log_abs_det_jacobian` in one call. Override it if they share work."""
        return self.to_noise(params, value), self.log_abs_det_jacobian(params, value)

    def _noise_for(self, params: Tensor) -> Tensor:
        return self.noise(params.shape[:-1], dtype=params.dtype, device=params.device)


def uniform_noise(out: Tensor) -> Tensor:
    """Uniform draws in the open interval (0, 1), in place."""
    # Both ends are given, since 0 is excluded and torch 2.13 cannot load a graph with defaults.
    return out.uniform_(torch.finfo(out.dtype).tiny, 1.0)


def gumbel_noise(out: Tensor) -> Tensor:
    """Gumbel draws, in place. The argmax of logits plus Gumbel noise is a categorical draw."""
    return out.exponential_().log_().neg_()
