"""The language model, its tokenizer, and the task whose answers can be verified: all made on the spot."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

LETTERS = "0123456789+="
PROMPT, ANSWER, WIDTH, HEADS, LAYERS = 4, 2, 64, 4, 2


def encoded(texts: Sequence[str]) -> Tensor:
    """[texts, letters] of texts that are equally long."""
    return torch.tensor([[LETTERS.index(letter) for letter in text] for text in texts])


def decoded(tokens: Tensor) -> list[str]:
    """The texts of [texts, letters]."""
    return ["".join(LETTERS[token] for token in row) for row in tokens.tolist()]


def prompts(count: int, chance: random.Random) -> list[str]:
    """Sums such as '7+5='."""
    return [f"{chance.randrange(10)}+{chance.randrange(10)}=" for _ in range(count)]


def solution(prompt: str) -> str:
    """The answer of two letters: '12'."""
    return f"{int(prompt[0]) + int(prompt[2]):02}"


def reward(prompt: str, answer: str) -> float:
    """1 for the right answer, a quarter for one right letter: what a verifier can tell without a reward model."""
    right = sum(given == wanted for given, wanted in zip(answer, solution(prompt), strict=True))
    return (0.0, 0.25, 1.0)[right]


class LanguageModel(nn.Module):
    """A transformer of 100,000 weights: [texts, letters] to the logits of each next letter."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(len(LETTERS), WIDTH), nn.Embedding(PROMPT + ANSWER, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, len(LETTERS))

    def forward(self, tokens: Tensor) -> Tensor:
        """A letter sees those before it."""
        length = tokens.shape[1]
        seen = self.letters(tokens) + self.places(torch.arange(length, device=tokens.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        return self.head(self.layers(seen, mask, is_causal=True))

    @torch.no_grad()
    def answer(self, tokens: Tensor) -> Tensor:
        """The prompts, each with an answer that is drawn letter by letter."""
        for _ in range(ANSWER):
            letter = torch.multinomial(self(tokens)[:, -1].softmax(-1), 1)
            tokens = torch.cat([tokens, letter], 1)
        return tokens

    def log_probabilities(self, tokens: Tensor) -> Tensor:
        """[texts, ANSWER] of the answers' letters."""
        every = self(tokens[:, :-1]).log_softmax(-1)[:, PROMPT - 1 :]
        return every.gather(-1, tokens[:, PROMPT:, None]).squeeze(-1)
