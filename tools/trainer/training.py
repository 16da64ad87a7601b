"""The training loop, with checkpoints that a later run continues from as if nothing had happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.batches import Batches
from trainer.config import ModelShape, Recipe
from trainer.model import Decoder
from trainer.muon import Muon

CHECKPOINT_EVERY = 50
REPORT_EVERY = 10


@dataclass
class Progress:
    """How far training is. `cpu_seconds`: of the thread that trains, which is all of it."""

    step: int = 0
    cpu_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    shape: ModelShape, recipe: Recipe, batches: Batches, state: Path, report: Callable[[str], None]
) -> tuple[Decoder, Progress]:
    """Train to the end of `recipe`, from the checkpoint in `state` if there is one.

    One thread does all the work, so that a busy neighbour delays a model and stalls none; the same seed gives
    the same weights on the same CPU.
    """
    torch.set_num_threads(1)
    model, optimizers, progress = _resume(shape, recipe, state)
    model.train()
    parameters = list(model.parameters())
    losses: list[float] = []
    while progress.step < recipe.steps:
        started = time.thread_time()
        rate = recipe.learning_rate_at(progress.step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        tokens, targets = batches.batch(progress.step)
        with torch.autocast("cpu", torch.bfloat16):
            loss, balance = model.loss(tokens, targets)
        model.zero_grad(set_to_none=True)
        (loss + recipe.balance_weight * balance).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters, recipe.gradient_norm)
        for optimizer in optimizers:
            optimizer.step()
        progress.step += 1
        progress.cpu_seconds += time.thread_time() - started
        losses.append(loss.item())
        if progress.step % REPORT_EVERY == 0 or progress.step == recipe.steps:
            entry = {
                "step": progress.step,
                "tokens": progress.step * recipe.tokens_per_step,
                "loss": round(sum(losses) / len(losses), 4),
                "balance": round(balance.item(), 4),
                "gradient_norm": round(norm.item(), 3),
                "learning_rate": round(rate, 7),
                "cpu_seconds": round(progress.cpu_seconds, 1),
            }
            losses.clear()
            progress.history.append(entry)
            report(f"{shape.name} " + " ".join(f"{key}={value}" for key, value in entry.items()))
        if progress.step % CHECKPOINT_EVERY == 0 or progress.step == recipe.steps:
            _save(model, optimizers, progress, recipe, state)
    return model.eval(), progress


def restore(shape: ModelShape, state: Path) -> tuple[Decoder, Progress, Recipe]:
    """The model of the latest checkpoint, for export; SystemExit if there is none."""
    path = _path(state, shape)
    if not path.exists():
        raise SystemExit(f"{state} has no checkpoint of {shape.name}")
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    model = Decoder(shape)
    model.load_state_dict(saved["model"])
    return model.eval(), Progress(**saved["progress"]), Recipe(**saved["recipe"])


def _path(state: Path, shape: ModelShape) -> Path:
    return state / f"{shape.name}.pt"


def _resume(
    shape: ModelShape, recipe: Recipe, state: Path
) -> tuple[Decoder, list[torch.optim.Optimizer], Progress]:
    model = Decoder(shape, recipe.balance_memory, recipe.seed)
    optimizers = _optimizers(model, recipe)
    path = _path(state, shape)
    if not path.exists():
        return model, optimizers, Progress()
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    return model, optimizers, Progress(**saved["progress"])


def _optimizers(model: Decoder, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices that map hidden states to hidden states, AdamW for the embedding, routers and
    norms.

    The output of a mixture is a mean over the chosen experts, where that of a dense MLP is a sum over its
    width. Muon's steps do not see the weights of that mean, so the experts' last matrix takes steps that are
    larger by the number of experts per token; without that, a mixture learns more slowly than a dense model.
    """
    names = dict(model.named_parameters())
    outer = [name for name in names if names[name].dim() == 1 or name.endswith(("embedding", "router"))]
    averaged = [name for name in names if name.endswith("mlp.down")]
    inner = [name for name in names if name not in outer and name not in averaged]
    groups: list[dict[str, Any]] = [{"params": [names[name] for name in inner]}]
    if averaged:
        scale = float(model.shape.experts_per_token)
        groups.append({"params": [names[name] for name in averaged], "scale": scale})
    betas = (recipe.beta1, recipe.beta2)
    return [
        Muon(groups, recipe.learning_rate, recipe.momentum, recipe.weight_decay),
        torch.optim.AdamW(
            [names[name] for name in outer], recipe.learning_rate, betas=betas, weight_decay=0.0, fused=True
        ),
    ]


def _save(
    model: Decoder,
    optimizers: list[torch.optim.Optimizer],
    progress: Progress,
    recipe: Recipe,
    state: Path,
) -> None:
    state.mkdir(parents=True, exist_ok=True)
    path = _path(state, model.shape)
    beside = path.with_suffix(".new")
    saved = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": asdict(progress),
        "recipe": asdict(recipe),
    }
    torch.save(saved, beside)
    beside.replace(path)
