"""A record that cannot be used, by the same code and words wherever it is met."""

from __future__ import annotations


class UnusableRecord(ValueError):
    """A record that cannot be trained on or asked about: a code for machines, a sentence, and what to do about it."""

    def __init__(self, code: str, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem
        self.remedy = remedy
