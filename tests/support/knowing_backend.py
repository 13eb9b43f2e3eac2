"""A backend without an engine that knows what to say to some prompts."""

from __future__ import annotations

from deployments.replica.sequence import SequenceText
from model.request import Request
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import WINDOW, FakeBackend


class Knowing(FakeBackend):
    """Answers a prompt that holds a text which it knows with what is known, all others as ever.

    answers: by that text; the first that fits counts.
    """

    def __init__(self, tokenizer: Tokenizer, answers: dict[str, str], window: int = WINDOW) -> None:
        super().__init__(tokenizer, window)
        self._answers = answers

    def answer_ids(self, text: SequenceText, sequence: Request) -> list[int]:
        prompt = self.tokenizer.decode(sequence.prompt_ids)
        answer = next((answer for known, answer in self._answers.items() if known in prompt), None)
        return super().answer_ids(text, sequence) if answer is None else self.tokenizer.encode(answer)
