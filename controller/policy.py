"""The controller: an LSTM that writes a candidate digit by digit, each choice fed back to it.

    h_t = LSTM(e_{t-1}, h_{t-1}),   p(d_t | d_<t) = softmax(W_t h_t + b_t)

e_{t-1} embeds the previous digit, e_{-1} is a trained start vector, and W_t has its own width,
radices[t] (paper, Section 2, Figure 2). Positions with one choice are decided and take no step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Policy(nn.Module):
    """A distribution over the digits of a space; digits are int64 of shape (B, T)."""

    def __init__(
        self,
        radices: Sequence[int],
        hidden: int,
        init: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.radices = tuple(radices)
        self.free = [t for t, radix in enumerate(radices) if radix > 1]
        widths = [self.radices[t] for t in self.free]
        self.start = nn.Parameter(torch.empty(hidden))
        self.embeddings = nn.ModuleList(nn.Embedding(width, hidden) for width in widths[:-1])
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(hidden, width) for width in widths)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -init, init, generator=generator)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`n` candidates (n, T) and the log-probability of each (n,)."""
        digits = torch.zeros(n, len(self.radices), dtype=torch.int64)
        logprob = torch.zeros(n)
        step, state = self.start.expand(n, 1, -1), None
        for i, t in enumerate(self.free):
            hidden, state = self.lstm(step, state)
            logits = self.heads[i](hidden[:, 0]).log_softmax(-1)
            choice = torch.multinomial(logits.exp(), 1, generator=generator)
            logprob += logits.gather(1, choice)[:, 0]
            digits[:, t] = choice[:, 0]
            if i < len(self.embeddings):
                step = self.embeddings[i](choice)
        return digits, logprob

    def evaluate(self, digits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability (B,) of each candidate, and the mean entropy of its decisions (B,), nats.

        The entropies are those of p(. | d_<t) along the candidate; their sum, averaged over
        samples, estimates the entropy of the whole distribution.
        """
        steps = [self.start.expand(len(digits), -1)]
        chosen = zip(self.embeddings, self.free[:-1], strict=True)
        steps += [embed(digits[:, t]) for embed, t in chosen]
        hidden, _ = self.lstm(torch.stack(steps, dim=1))
        logprob, entropy = torch.zeros(len(digits)), torch.zeros(len(digits))
        for i, t in enumerate(self.free):
            logits = self.heads[i](hidden[:, i]).log_softmax(-1)
            logprob = logprob + logits.gather(1, digits[:, t : t + 1])[:, 0]
            entropy = entropy - (logits.exp() * logits).sum(-1)
        return logprob, entropy / max(1, len(self.free))
