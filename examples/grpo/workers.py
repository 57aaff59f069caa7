"""The worker, a Ray actor with one GPU; in three groups they learn, draw answers, or keep the model as it was at first.

All of them are one world of torch.distributed: NCCL on GPUs, Gloo without. It connects over the interface of the run,
which rayhpc has named in NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME, on each host its own.
"""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import ray
import torch
from torch import Tensor, nn
from torch import distributed as world
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rayhpc.examples.grpo.model import PROMPT, LanguageModel, decoded, encoded, prompts, reward, solution

# A collective whose other end is gone raises after so long, and the driver ends with it.
PATIENCE = timedelta(seconds=120)
CLIP, KL_WEIGHT, EPOCHS, RATE = 0.2, 0.02, 2, 1e-3


class Worker:
    """A worker of any group: a model with its optimizer, and a rank in the world."""

    def __init__(self, seed: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.chance = random.Random(seed)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = LanguageModel().to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), RATE)
        self.store: Any = None

    def listen(self, size: int) -> tuple[str, int]:
        """Rank 0: where the others meet it; the port is bound before anybody is told."""
        self.store = world.TCPStore(ray.util.get_node_ip_address(), 0, size, True, PATIENCE, wait_for_workers=False)
        return self.store.host, self.store.port

    def meet(self, rank: int, size: int, place: tuple[str, int], groups: Sequence[Sequence[int]]) -> str:
        """Join the world and its groups: who learns, who needs new weights; says where and how."""
        store = self.store or world.TCPStore(*place, size, False, PATIENCE)
        backend = "nccl" if self.device == "cuda" else "gloo"
        world.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        self.learners, self.updated = (world.new_group(list(group)) for group in groups)
        return f"{ray.util.get_node_ip_address()} by {backend}"

    def receive(self, everybody: bool) -> None:
        """Take the weights of rank 0, which sends them by the same call; they do not pass through Ray."""
        weights = parameters_to_vector(self.model.parameters()).detach()
        world.broadcast(weights, 0, group=None if everybody else self.updated)
        vector_to_parameters(weights, self.model.parameters())

    def restore(self, content: bytes, which: str) -> list[float]:
        """Go on from a checkpoint with one of its two models, "model" or "first"; the rewards up to it."""
        state = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
        self.model.load_state_dict(state[which])
        self.optimizer.load_state_dict(state["optimizer"])
        self.first = state["first"]
        return list(state["rewards"])

    def generate(self, count: int, group: int) -> dict[str, Tensor]:
        """A rollout: a group of answers to each prompt, verified; an answer's advantage is its lead over the group."""
        asked = [prompt for prompt in prompts(count, self.chance) for _ in range(group)]
        tokens = self.model.answer(encoded(asked).to(self.device))
        rewards = torch.tensor(list(map(reward, asked, decoded(tokens[:, PROMPT:])))).view(count, group)
        leads = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        with torch.no_grad():
            drawn = self.model.log_probabilities(tokens).cpu()
        return {"tokens": tokens.cpu(), "rewards": rewards.flatten(), "advantages": leads.flatten(), "drawn": drawn}

    @torch.no_grad()
    def judge(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A reference: the batch, with how likely the model finds it that has not learned by reward."""
        return {**batch, "first": self.model.log_probabilities(batch["tokens"].to(self.device)).cpu()}

    def begin(self, steps: int) -> None:
        """Rank 0, an actor: make the first model, which gets about half of the sums right."""
        optimizer = torch.optim.Adam(self.model.parameters(), 3e-3)
        for _ in range(steps):
            tokens = encoded([prompt + solution(prompt) for prompt in prompts(64, self.chance)]).to(self.device)
            optimizer.zero_grad()
            (-self.model.log_probabilities(tokens).mean()).backward()
            optimizer.step()
        self.first = copy.deepcopy(self.model.state_dict())

    def learn(self, batch: dict[str, Tensor]) -> float:
        """An actor: update the weights by GRPO, as all actors do at once; the distance from the first model."""
        tokens, drawn, first, leads = (batch[n].to(self.device) for n in ("tokens", "drawn", "first", "advantages"))
        parameters, lead = list(self.model.parameters()), leads[:, None]
        for _ in range(EPOCHS):
            now = self.model.log_probabilities(tokens)
            ratio, distance = (now - drawn).exp(), (first - now).exp() - (first - now) - 1
            gain = torch.min(ratio * lead, ratio.clamp(1 - CLIP, 1 + CLIP) * lead)
            self.optimizer.zero_grad()
            (KL_WEIGHT * distance - gain).mean().backward()
            mean = parameters_to_vector([parameter.grad for parameter in parameters])
            world.all_reduce(mean, group=self.learners)
            vector_to_parameters(mean / world.get_world_size(self.learners), [p.grad for p in parameters])
            nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
        return float(distance.mean())

    def checkpoint(self, rewards: Sequence[float]) -> bytes:
        """Rank 0: all that another run needs to go on."""
        file, model, optimizer = io.BytesIO(), self.model.state_dict(), self.optimizer.state_dict()
        torch.save({"model": model, "first": self.first, "optimizer": optimizer, "rewards": [*rewards]}, file)
        return file.getvalue()
