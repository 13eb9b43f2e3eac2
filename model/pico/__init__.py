"""The embedded model: a small member of the StarCoder family, trained by the scripts of this package.

`CHECKPOINT` is the directory that transformers and the engine load; nothing here imports torch.
"""

from pathlib import Path

CHECKPOINT: Path = Path(__file__).parent / "checkpoint"

__all__ = ["CHECKPOINT"]
