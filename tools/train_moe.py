"""Train the small mixture of experts in assets/ and the dense model beside it, from assets/corpus.

    python tools/train_moe.py train      # both, side by side, one thread each; continues if interrupted
    python tools/train_moe.py export     # the latest checkpoints -> assets/, with figures and model cards

tools/README.md says what to install.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from trainer.batches import Batches
from trainer.card import model_card
from trainer.config import SHAPES, VOCAB_SIZE, ModelShape, Recipe
from trainer.corpus import Cell, read_corpus
from trainer.evaluation import held_out_loss, specialisation, total
from trainer.export import load_checkpoint, save_checkpoint
from trainer.tokenizer import end_of_text, save_tokenizer, train_tokenizer
from trainer.training import Progress, restore, train

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "assets"
_PRINTING = threading.Lock()


def report(line: str) -> None:
    """Print a line at once, whole."""
    with _PRINTING:
        print(line, flush=True)


def corpus_tokenizer(cells: list[Cell], state: Path) -> Tokenizer:
    """The tokenizer of this training, trained on the training text when there is none in `state`."""
    path = state / "tokenizer.json"
    if not path.exists():
        tokenizer = train_tokenizer((text for cell in cells for text in cell.training), VOCAB_SIZE)
        state.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def train_all(names: list[str], recipe: Recipe, state: Path) -> None:
    """Train each of `names` in a thread of its own."""
    cells = read_corpus(ASSETS / "corpus")
    tokenizer = corpus_tokenizer(cells, state)
    torch.set_num_threads(1)
    failures: list[BaseException] = []

    def run(shape: ModelShape) -> None:
        try:
            batches = Batches(cells, tokenizer, recipe)
            epochs = batches.epochs(recipe.steps)
            report(f"{shape.name}: {batches.token_count} training tokens, {epochs:.2f} epochs")
            train(shape, recipe, batches, state, report)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(SHAPES[name],), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"training failed: {failures[0]}")


def figures(
    shape: ModelShape,
    folder: Path,
    progress: Progress,
    recipe: Recipe,
    cells: list[Cell],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """All that is known of a trained model, measured on the weights as exported, computed in float32."""
    model = load_checkpoint(shape, folder)
    losses, usage = held_out_loss(model, cells, tokenizer)
    tokens = progress.step * recipe.tokens_per_step
    result: dict[str, Any] = {
        "name": shape.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "matrix_parameters_per_token": shape.matrix_parameters_per_token,
        "shape": asdict(shape),
        "recipe": asdict(recipe),
        "steps": progress.step,
        "tokens": tokens,
        "training_tokens": Batches(cells, tokenizer, recipe).token_count,
        "training_matrix_flops": 6 * shape.matrix_parameters_per_token * tokens,
        "cpu_seconds": round(progress.cpu_seconds),
        "held_out": {name: loss.figures() for name, loss in losses.items()},
        "held_out_all": total(losses.values()).figures(),
        "history": progress.history,
    }
    if shape.expert_count:
        result["experts"] = specialisation(usage)
    return result


def export_all(names: list[str], state: Path) -> None:
    """Write the latest checkpoint of each of `names` to assets/, evaluate it and describe it."""
    cells = read_corpus(ASSETS / "corpus")
    tokenizer = corpus_tokenizer(cells, state)
    results = {}
    for name in names:
        shape, folder = SHAPES[name], ASSETS / name
        model, progress, recipe = restore(shape, state)
        save_checkpoint(model, folder, end_of_text(tokenizer))
        save_tokenizer(tokenizer, folder, shape.context)
        results[name] = figures(shape, folder, progress, recipe, cells, tokenizer)
        (folder / "figures.json").write_text(_dump(results[name]))
        shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
        report(f"{name}: {progress.step} steps, {(folder / 'model.safetensors').stat().st_size} bytes")
    sources = json.loads((ASSETS / "corpus" / "sources.json").read_text())
    for name in names:
        (ASSETS / name / "README.md").write_text(model_card(results[name], results, sources))


def _dump(result: dict[str, Any]) -> str:
    """JSON with a line for each entry of the first two levels."""
    lines = []
    for key, value in result.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        elif isinstance(value, list):
            inner = ",\n".join(f"  {json.dumps(item)}" for item in value)
            lines.append(f" {json.dumps(key)}: [\n{inner}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("train", "export"))
    parser.add_argument("models", nargs="*", default=list(SHAPES), metavar="MODEL", help=", ".join(SHAPES))
    parser.add_argument("--state", type=Path, default=ROOT / "training-state", help="folder of checkpoints")
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(SHAPES)
    if unknown:
        parser.error(f"unknown model {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    if arguments.action == "train":
        train_all(arguments.models, replace(Recipe(), steps=arguments.steps), arguments.state)
    else:
        export_all(arguments.models, arguments.state)


if __name__ == "__main__":
    main()
