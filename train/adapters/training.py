"""The training itself, in one folder: epochs of steps, validation, and what is published after each."""

import logging
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from tracks.errors import TrackInputError
from train.adapters.checkpoint import ADAPTER_FILE, LOG_FILE, PICTURE_FILE, StateFile
from train.adapters.config import TrainOptions
from train.adapters.forward import REPORTED, validate
from train.adapters.heads import Head
from train.adapters.images import epoch_order
from train.adapters.processes import ALONE, Processes
from train.adapters.record import adapter_header, draw_curves, write_log
from train.adapters.source import Course
from train.adapters.token_sources import open_sources
from train.adapters.tokens import TokenBatch, TokenSource

log = logging.getLogger(__name__)
STEPS_BETWEEN_READINGS = 10


class AdapterTraining:
    """One training in one folder, from the first step to the last, or from where an earlier process stopped."""

    def __init__(
        self, head: Head, course: Course, options: TrainOptions, folder: Path, processes: Processes = ALONE
    ):  # fmt: skip
        self.head, self.course, self.options, self.folder = head, course, options, folder
        self.processes, self.device = processes, processes.device
        self.part_size = processes.part_size(options.batch_size)
        self.adapter = head.adapter.to(self.device)
        first, second = options.betas
        self.optimizer = torch.optim.Adam(self.adapter.parameters(), lr=options.learning_rate, betas=(first, second))
        self.state_file = StateFile(folder)
        self.state = self.state_file.restore(self.adapter, self.optimizer, self.device)

    def run(self) -> None:
        """All epochs that are missing, then the adapters of the chosen one."""
        if self.state.epoch > self.options.epochs:
            raise TrackInputError(
                f"expected epochs to be {self.state.epoch} or more, as many as {self.folder} has been trained for, "
                f"got {self.options.epochs}; raise epochs, or begin anew with fresh=true"
            )
        try:
            if self.state.epoch < self.options.epochs:
                with open_sources(
                    self.head.backbone, self.course, self.options, self.folder, self.processes
                ) as sources:
                    self._run_epochs(*sources)
        except KeyboardInterrupt:
            log.warning(
                "stopped; %s keeps %d of %d epochs and %d steps of the next, and the same command resumes there",
                self.folder,
                self.state_file.saved_at[0],
                self.options.epochs,
                self.state_file.saved_at[1],
            )
            raise
        self._publish()

    def _run_epochs(self, source: TokenSource, validation_source: TokenSource) -> None:
        while self.state.epoch < self.options.epochs:
            loss = self._train_epoch(source)
            self._finish_epoch(loss, self._validate(validation_source))

    def _train_epoch(self, source: TokenSource) -> float:
        """The steps of an epoch that are missing; returns the mean loss over its images."""
        state, size = self.state, self.options.batch_size
        order = epoch_order(len(self.course.samples), self.options.seed, state.epoch)
        first = state.step * size
        batches = source.batches(self.processes.part(order[first:], size), self.part_size, epoch=state.epoch)
        loss_sum = torch.tensor(state.loss_sum, dtype=torch.float64, device=self.device)
        before, began = state.seconds, time.perf_counter()
        with self._epoch_bar(len(order), min(first, len(order))) as bar:
            for start in range(first, len(order), size):
                done = min(start + size, len(order))
                loss_sum += self._step(next(batches, None)) * (done - start)
                state.step += 1
                state.seconds = before + time.perf_counter() - began
                bar.update(done - start)
                if state.step % STEPS_BETWEEN_READINGS == 0 or done == len(order):
                    bar.set_postfix(loss=f"{loss_sum.item() / done:.4f}")
                if self.options.checkpoint_every and state.step % self.options.checkpoint_every == 0:
                    state.loss_sum = finite(loss_sum.item(), state.epoch)
                    self._save()
        return finite(loss_sum.item() / len(order), state.epoch)

    def _epoch_bar(self, images: int, done: int) -> tqdm:
        title = f"epoch {self.state.epoch + 1}/{self.options.epochs}"
        return tqdm(total=images, initial=done, desc=title, unit="image", disable=not self.processes.first)

    def _step(self, batch: TokenBatch | None) -> Tensor:
        """One step of Adam, on this process's part of a batch (None for none); returns the batch's loss, a scalar."""
        self.optimizer.zero_grad()
        shares = self._shares(batch)
        loss = torch.zeros((), device=self.device)
        if batch is not None:
            loss = self.head.loss(batch, dice_on_normal=self.options.dice_on_normal, shares=shares)
            loss.backward()
        parameters = list(self.adapter.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        loss = loss.detach()
        self.processes.sum([loss, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
        self.optimizer.step()
        return loss

    def _shares(self, batch: TokenBatch | None) -> tuple[Tensor | float, Tensor | float]:
        """How much of a batch this process's part is: of the images, and of those that the dice term counts."""
        if self.processes.count == 1:
            return 1.0, 1.0
        own = torch.zeros(2, device=self.device)
        if batch is not None:
            has_defect = batch.masks.flatten(1).any(dim=1)
            own[0] = len(has_defect)
            own[1] = len(has_defect) if self.options.dice_on_normal else has_defect.sum()
        whole = own.clone()
        self.processes.sum([whole])
        images, dice = own / whole.clamp(min=1)
        return images, dice

    def _save(self) -> None:
        if self.processes.first:
            self.state_file.save(self.state, self.adapter, self.optimizer)

    def _validate(self, source: TokenSource) -> dict[str, float | None]:
        """Metrics and image threshold on the held-out categories; all None without any, or in another process."""
        if not self.course.validation_samples or not self.processes.first:
            return dict.fromkeys((*REPORTED, "image_threshold"))
        result = validate(self.head.zero_shot, source, self.course.validation_samples, self.options.batch_size)
        return {**result.mean, "image_threshold": result.image_threshold}

    def _finish_epoch(self, loss: float, validation: dict[str, float | None]) -> None:
        """Write down the epoch: first what a continuation needs, then what people look at."""
        state = self.state
        state.epoch += 1
        state.history.append({"epoch": state.epoch, "loss": loss, "seconds": round(state.seconds, 3), **validation})
        state.step, state.loss_sum, state.seconds = 0, 0.0, 0.0
        if self.options.select == "best" and self._is_best():
            state.best_epoch = state.epoch
            state.best = {name: tensor.detach().cpu().clone() for name, tensor in self.adapter.state_dict().items()}
        self._save()
        self._publish()

    def _is_best(self) -> bool:
        values = [row[self.options.select_metric] for row in self.state.history]
        known = [-math.inf if value is None else value for value in values]
        return len(known) == 1 or known[-1] > max(known[:-1])

    def _publish(self) -> None:
        """The adapters of the last or best epoch with their header, the log and the curves."""
        if not self.processes.first:
            return
        state = self.state
        chosen = state.best_epoch if state.best is not None else state.epoch
        threshold = state.history[chosen - 1]["image_threshold"]
        header = adapter_header(self.head, self.course, self.options, (chosen, state.epoch), threshold)
        self.head.save(self.folder / ADAPTER_FILE, state.best, header)
        write_log(self.folder / LOG_FILE, state.history)
        draw_curves(self.folder / PICTURE_FILE, state.history)


def finite(loss: float, epoch: int) -> float:
    """The loss, if it is a number.

    Raises:
        TrackInputError: it is not; nothing of this epoch has been kept since the last checkpoint.
    """
    if not math.isfinite(loss):
        raise TrackInputError(
            f"expected a finite loss, got {loss} in epoch {epoch + 1}; lower learning_rate, or use "
            "float32 precision. What was kept before stays; other settings need another OUT, or fresh=true"
        )
    return loss
