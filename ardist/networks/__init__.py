"""Conditional networks: from the past, and a context, to the conditionals' parameters."""

from ardist.networks.base import ConditionalNetwork
from ardist.networks.made import MADE
from ardist.networks.recurrent import RNN
from ardist.sampling import Decoder

__all__ = ["MADE", "RNN", "ConditionalNetwork", "Decoder"]
