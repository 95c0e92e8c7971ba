"""Train a network: the stages of its recipe, one after the other.

In: a model, the data in memory, a recipe, a folder. Out: the folder filled with a checkpoint, and its
numbers. The held-out images choose the epoch; the test images are looked at once, at the end.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import torch
from torch import nn

from nctool.activation.noisy_quant import activations
from nctool.errors import FormatError, UsageError
from nctool.files import make_directory, require_writable
from nctool.ir.number_format import IntegerFormat
from nctool.progress import ProgressCallback, no_progress, no_report
from nctool.recipe.schema import Recipe
from nctool.training.checkpoints.checkpoint import save_checkpoint
from nctool.training.checkpoints.names import CHECKPOINT_NAME, RECIPE_NAME, STATE_NAME
from nctool.training.checkpoints.state import TrainingState, load_state
from nctool.training.checkpoints.tensor_file import first_mismatch
from nctool.training.chip import Chip
from nctool.training.distributed.ranks import joined, own_gpu
from nctool.training.epochs import Run, run_stage
from nctool.training.execution import execution, usable_device
from nctool.training.finetuning import finetuning
from nctool.training.images.data import TrainingData
from nctool.training.images.encoding import image_encoding
from nctool.training.interruption import Interruption, explained_out_of_memory
from nctool.training.metrics import METRICS_NAME, EpochCallback
from nctool.training.result import TrainReport, checkpoint_of, tested
from nctool.training.stages import Stage, Task, first_stage, snapshot, start_thresholds


def fit(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    out_dir: Path,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
    trained: bool = False,
    number_format: IntegerFormat | None = None,
    progress: ProgressCallback = no_progress,
    on_epoch: EpochCallback = no_report,
) -> TrainReport:
    """Train a model and write its checkpoint.

    The epoch kept is the one with the highest held-out accuracy of the spiking network after `noise.steps` steps, then
    of the ANN; of equals the last. With ReLU activations the ANN goes first. With noise of a chip that is the integer
    network; an epoch whose numbers do not fit the chip takes its noise from the float one, and is kept only if no other
    fits. Fine-tuning starts from that epoch; then the one kept is that of the highest mean accuracy over
    `finetune.steps`, or the start, as it was, where none is as good. One recipe, seed and
    number of threads gives the same bytes on the CPU. An interruption leaves complete files: `resume` goes on after the
    last complete epoch. SIGINT, SIGTERM and SIGHUP end the run after the batch that is being computed, but only in the
    main thread.

    Processes that torchrun started share every batch and every measurement; their numbers are those of one process, up
    to the order of sums. The first of them writes the files and reports.

    Args:
        model: fresh, from the recipe's seed; left on `device` with the chosen weights, in evaluation mode.
        data: the three splits.
        recipe: `[model]` and, but for thresholds from data, `[activation]` are already in the model; the rest is
            followed here.
        out_dir: gets `checkpoint.safetensors`, `recipe.toml`, `metrics.jsonl`, `last.safetensors`; without `resume`, a
            run that is there is replaced as soon as an epoch is done.
        device: `cpu` or `cuda`.
        resume: continue from `last.safetensors`.
        trained: the model has its trained weights; only the recipe's fine-tuning is done.
        number_format: what the backend of the recipe's `[chip]` can hold; needed with `noise.source` "chip".
        progress: called after every batch, those of the test images included.
        on_epoch: called after every epoch.

    Returns:
        the numbers of the chosen epoch.

    Raises:
        UsageError: no such device, one that cannot do what `training.precision` and `training.deterministic` ask for,
            the folder cannot be written, nothing to resume, another recipe's state, or no `number_format` for a recipe
            with a chip; an activation of the model stands in several places.
        UnsupportedError: noise is to be that of a chip, and the model cannot be converted.
        FormatError: the state to resume from is bad.
        RangeError: the training diverged, or memory ran out; the state of the epoch before is kept. Or an activation is
            never positive before training, so that there is no threshold in the data.
        Interrupted: a signal came.
    """
    device, chip = own_gpu(usable_device(device, recipe.training)), _chip(recipe, number_format)
    with explained_out_of_memory(device, recipe.training.batch_size), joined(device) as processes:
        encoding = image_encoding(data.normalisation, recipe)
        task = Task(model.to(device), data, data.held_out.to(device), encoding, recipe, chip, processes)
        _require_one_use(task)
        start = _start(task, out_dir, resume=resume, trained=trained)
        progress, on_epoch = (progress, on_epoch) if processes.is_first else (no_progress, no_report)
        random_devices = [device] if device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=random_devices),
            execution(model, data.input_shape[0], recipe.training, device),
            Interruption() as interruption,
        ):
            state = _train(task, start, Run(out_dir, progress, on_epoch, interruption))
        model.load_state_dict(state.best)
        model.eval()
        report = tested(task, state, out_dir, progress)
        processes.from_first(lambda: save_checkpoint(out_dir, checkpoint_of(data, recipe, state, report)))
    return report


def _require_one_use(task: Task) -> None:
    """Refuse an activation that stands in several places: its spiking neurons would share one membrane potential."""
    model, uses = task.model, Counter[str]()
    was_training, layers = model.training, activations(model)
    handles = [layer.register_forward_hook(partial(_count, uses, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            model.eval()(task.encoding(task.held_out.images[:1]))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if shared := [name for name, count in uses.items() if count > 1]:
        raise UsageError(
            f"model: activation `{shared[0]}` is used {uses[shared[0]]} times in a forward pass, allowed: once",
            hint="give each place an activation of its own, as nctool.prepare does for a network of ReLUs",
        )


def _count(uses: Counter[str], name: str, *_: object) -> None:
    uses[name] += 1


def _chip(recipe: Recipe, number_format: IntegerFormat | None) -> Chip | None:
    if recipe.chip is None:
        return None
    if number_format is None:
        raise UsageError('recipe: `noise.source` is "chip", but no integer format is given', hint="use nctool.train")
    return Chip(recipe.chip, number_format)


def _start(task: Task, out_dir: Path, *, resume: bool, trained: bool) -> TrainingState:
    """Make the folder ready, and return the state that the first epoch begins with, the same in all processes."""
    model, recipe, processes = task.model, task.recipe, task.processes
    if not (trained or resume):
        start_thresholds(model, task.data, task.encoding, recipe)
    processes.equalise(model)
    processes.from_first(partial(_make_ready, out_dir))
    if not resume:
        return _nothing_done(model, recipe.training.epochs if trained else 0)
    state = processes.from_first(partial(load_state, out_dir, recipe))
    _require_fit(model, state, out_dir)
    return state


def _train(task: Task, start: TrainingState, run: Run) -> TrainingState:
    """Run the epochs that are not done yet, and return the state after the last."""
    state, epochs_before = start, 0
    for stage in _stages(task):
        last = epochs_before + stage.epochs
        if state.epoch < last:
            state = run_stage(stage, epochs_before, task, state, run)
        epochs_before = last
    return state


def _stages(task: Task) -> tuple[Stage, ...]:
    settings = task.recipe.finetune
    return (first_stage(task),) if settings is None else (first_stage(task), finetuning(task, settings))


def _make_ready(out_dir: Path) -> None:
    """Make the folder, and refuse one that cannot be written."""
    make_directory(out_dir)
    for name in (STATE_NAME, METRICS_NAME, RECIPE_NAME, CHECKPOINT_NAME):
        require_writable(out_dir / name, "-o")


def _nothing_done(model: nn.Module, epoch: int) -> TrainingState:
    weights = snapshot(model)
    return TrainingState(epoch, weights, momentum={}, best=weights, best_epoch=epoch, best_score=(0.0, 0.0), seconds=())


def _require_fit(model: nn.Module, state: TrainingState, out_dir: Path) -> None:
    problem = first_mismatch(model.state_dict(), state.model) or first_mismatch(state.model, state.best)
    if problem is not None:
        raise FormatError(f"`{out_dir / STATE_NAME}` does not fit the recipe's model: {problem}")
