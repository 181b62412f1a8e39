"""Conditional networks, which map earlier blocks and a context to the conditionals' parameters."""

from ardist.decoding import Decoder
from ardist.networks.base import ConditionalNetwork
from ardist.networks.from_module import FromModule
from ardist.networks.made import MADE
from ardist.networks.markov import Markov
from ardist.networks.masked import Masked
from ardist.networks.pixelcnn import PixelCNN
from ardist.networks.recurrent import RNN
from ardist.networks.transformer import Transformer
from ardist.networks.unshared import Unshared
from ardist.networks.wavenet import WaveNet
from ardist.static import StaticStep

__all__ = [
    "MADE",
    "RNN",
    "ConditionalNetwork",
    "Decoder",
    "FromModule",
    "Markov",
    "Masked",
    "PixelCNN",
    "StaticStep",
    "Transformer",
    "Unshared",
    "WaveNet",
]
