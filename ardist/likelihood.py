"""The log-likelihood of a network as a module, for wrappers of a module's `forward`."""

from torch import Tensor, nn

from ardist.bound_network import checked_chunk_size, unwrap
from ardist.distribution import NAN_POLICIES, AutoregressiveDistribution
from ardist.ordering import Ordering
from ardist.shapes import as_choice


class LogLikelihood(nn.Module):
    """A module whose `forward` is the `log_prob` of a network's distribution.

    Use it with DDP, FSDP and `torch.func.functional_call`, which wrap a module's `forward`. Dropout
    is active in training mode, as in `log_prob`.

    Args:
        network: a conditional network, wrapped or not.
        chunk_size: as for `AutoregressiveDistribution`.
        nan_policy: as for `AutoregressiveDistribution`.

    Raises:
        ValueError: if there is no conditional network inside, or it does not support `chunk_size`.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Normal()), hidden_features=(8,))
    >>> ad.LogLikelihood(net)(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    def __init__(
        self, network: nn.Module, *, chunk_size: int | None = None, nan_policy: str = "raise"
    ) -> None:
        super().__init__()
        unwrap(network)  # raises if there is no conditional network inside
        self.chunk_size = checked_chunk_size(network, chunk_size)
        self.nan_policy = as_choice(nan_policy, NAN_POLICIES, "nan_policy")
        self.network = network

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        ordering: Ordering | Tensor | None = None,
    ) -> Tensor:
        """The log-probability of events x (*lead, *event_shape) in nats: (*lead).

        Args:
            x: the events.
            context: as for `AutoregressiveDistribution`.
            ordering: as for `AutoregressiveDistribution.with_ordering`; the network's own if None.
        """
        p = AutoregressiveDistribution(
            self.network, context, chunk_size=self.chunk_size, nan_policy=self.nan_policy
        )
        return (p if ordering is None else p.with_ordering(ordering)).log_prob(x)
