"""What one tenant has got of the engine in one class of service.

Service is counted in tokens over the tenant's weight, as in the Virtual Token Counter (Sheng et al., "Fairness in
Serving Large Language Models", arXiv:2401.00588, algorithm 2).
"""

from __future__ import annotations

from dataclasses import dataclass

PROMPT_TOKEN = 1.0
OUTPUT_TOKEN = 2.0
"""What a token counts: one of a prompt is computed beside many others, one of an output takes a step."""


@dataclass(eq=False)
class Account:
    """Of one tenant in one class.

    number: of accounts, in the order in which they were opened. counter: service so far.
    """

    service_class: int
    number: int
    counter: float = 0.0

    def charge_prompt(self, tokens: int, weight: float) -> None:
        """A prompt's tokens that are in no cache, all of them when it is admitted: chunks would let it flood a step."""
        self.counter += PROMPT_TOKEN * tokens / weight

    def charge_output(self, tokens: int, weight: float) -> None:
        """Tokens that were drawn."""
        self.counter += OUTPUT_TOKEN * tokens / weight
