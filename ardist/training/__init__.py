"""Maximum likelihood by `fit`, other objectives, and a measure of exposure bias."""

from ardist.training.fitting import fit
from ardist.training.history import History
from ardist.training.objectives import (
    Exposure,
    exposure_bias,
    masked_log_prob,
    pseudo_log_prob,
    scheduled_log_prob,
)

__all__ = [
    "Exposure",
    "History",
    "exposure_bias",
    "fit",
    "masked_log_prob",
    "pseudo_log_prob",
    "scheduled_log_prob",
]
