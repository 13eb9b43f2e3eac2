"""The embedded models: small members of the StarCoder family, trained by the scripts of this package.

The directories are what transformers and the engine load; nothing here imports torch.
"""

from pathlib import Path

CHECKPOINT: Path = Path(__file__).parent / "checkpoint"
"""5.7 M parameters, trained on two CPU cores."""
NANO: Path = Path(__file__).parent / "nano"
"""26.8 M parameters, trained in minutes on a GPU (`model.pico.gpu`)."""

__all__ = ["CHECKPOINT", "NANO"]
