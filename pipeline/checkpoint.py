"""Checkpoints: one folder a step, published whole, never replaced before its successor is there.

What a folder holds is in `pipeline/manifest.py`. Tensors are the optimisers' state
(`pipeline/training_state.py`). Everything else that shapes the future (data order, sampling noise,
learning rate) is a pure function of config, data and step: the manifest has the hash of the first
two, and a checkpoint of another config or other data is refused.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from align.data.errors import UserError
from align.data.messages import sha256_of
from align.pipeline import ranks, remote, stopping, training_state
from align.pipeline.config import RunConfig
from align.pipeline.frozen import frozen_settings
from align.pipeline.manifest import Checkpoint, Manifest, published, step_of, verified
from align.pipeline.progress import note
from align.pipeline.run_directory import RunDirectory
from align.pipeline.saving import Saves, Snapshot, delete, reason_of
from align.pipeline.training_state import Engines

NO_NUMBERS: Mapping[str, float] = {}
NO_TENSORS: Mapping[str, Tensor] = {}


class Checkpoints:
    """The checkpoints of one stage of `steps` steps: where to begin, and when to save.

    `data` is what the stage trains on, in any form that JSON can hold, usually a hash.
    """

    def __init__(
        self, directory: RunDirectory, stage: str, config: RunConfig, data: Any, steps: int
    ) -> None:
        self._folder = directory.stage(stage) / "checkpoints"
        self._directory = directory
        self._stage = stage
        self._train = config.train
        self._config_sha256 = sha256_of(frozen_settings(config, stage))
        self._data_sha256 = sha256_of(data)
        self._steps = steps
        self._saves = Saves(self._settle)
        self._saved_at = time.monotonic()
        self._found: Checkpoint | None = ranks.on_main(self._newest)
        if self.steps_done > steps:
            raise UserError(
                f"{stage} has {self.steps_done} steps behind it and is to have {steps}: let it "
                "have more, or go on from an earlier checkpoint with --resume PATH"
            )

    @property
    def steps_done(self) -> int:
        """Steps that the checkpoint to go on from has behind it; 0 without one."""
        return self._found.manifest.step if self._found else 0

    @property
    def numbers(self) -> Mapping[str, float]:
        """What the stage itself carried from step to step; empty without a checkpoint."""
        return self._found.manifest.scalars.get(training_state.STAGE, {}) if self._found else {}

    def restore(self, engines: Engines, tensors: Mapping[str, Tensor] = NO_TENSORS) -> None:
        """Bring fresh engines, and the stage's own tensors, to that checkpoint, if there is one."""
        if self._found:
            with self._reading() as found:
                training_state.restore(found.files, engines, found.manifest.scalars)
                training_state.restore_tensors(found.files, tensors)

    def restore_weights(self, models: Mapping[str, nn.Module]) -> None:
        """Bring models without an engine to that checkpoint, for a stage that is trained out."""
        with self._reading() as found:
            training_state.restore_weights(found.files, models)

    @contextmanager
    def _reading(self) -> Iterator[Checkpoint]:
        """Say what the stage goes on from, or that it cannot be read."""
        assert self._found is not None  # without a checkpoint there is nothing to restore
        try:
            yield self._found
        except (SafetensorError, KeyError) as error:
            raise UserError(
                f"{self._found.path} cannot be read: {reason_of(error)}. Delete it, and the same "
                "command goes on from the one before"
            ) from error
        if ranks.is_main():
            note(f"going on after step {self.steps_done}: {self._found.path}")

    def after(
        self,
        step: int,
        engines: Engines,
        numbers: Mapping[str, float] = NO_NUMBERS,
        tensors: Mapping[str, Tensor] = NO_TENSORS,
    ) -> None:
        """Save after a step if it is due, or if the run is to stop: then raise Stop.

        What the stage itself carries from step to step: `numbers`, the same on every rank, and
        `tensors`, of which every rank has its own.

        Raises: UserError if the save before this one failed.
        """
        stop, due = ranks.on_main(lambda: (self._directory.stop_requested(), self._is_due(step)))
        self._saves.check()
        if stop or due:
            self._save(step, engines, numbers, tensors)
        if stop or step == self._steps:
            self.finish()
        if stop:
            raise stopping.Stop

    def finish(self) -> None:
        """Wait until the save that is under way, if any, is published."""
        self._saves.finish()

    def _is_due(self, step: int) -> bool:
        every, minutes = self._train.save_every, self._train.save_minutes
        by_steps = every > 0 and step % every == 0
        # A monotonic clock: a wall clock that jumps would save at every step, or never.
        by_time = minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes
        return by_steps or by_time

    def _save(
        self,
        step: int,
        engines: Engines,
        numbers: Mapping[str, float],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Take a snapshot, to be written and published while training goes on."""
        self._saves.finish()
        manifest = Manifest(
            stage=self._stage,
            step=step,
            created_at=time.time(),
            ranks=ranks.world_size(),
            zero_stage=self._train.zero_stage,
            config_sha256=self._config_sha256,
            data_sha256=self._data_sha256,
            scalars={
                training_state.STAGE: dict(numbers),
                **training_state.scalars_of(engines),
            },
            files=(),
        )
        snapshot = Snapshot(manifest, training_state.shares_of(engines, tensors))
        self._saves.begin(snapshot, self._folder / f"step-{step:08d}")
        self._saved_at = time.monotonic()

    def _settle(self, newest: Path) -> None:
        """Delete what the newest checkpoint makes superfluous, here and where copies go."""
        kept = published(self._folder)
        every, last = self._train.keep_every, self._train.keep_last
        for path in kept[:-last]:
            if not every or step_of(path) % every:
                delete(path)
        if self._train.upload:
            self._upload(newest, self._train.upload)

    def _upload(self, newest: Path, url: str) -> None:
        """A copy that fails is said and does not end the run: the checkpoint here is whole."""
        try:
            remote.upload(newest, url, self._stage)
            remote.prune({path.name for path in published(self._folder)}, url, self._stage)
        except UserError as error:
            note(f"checkpoint of step {step_of(newest)} is here, but not where copies go: {error}")

    def _newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; what is skipped on the way is said.

        Raises: UserError if it belongs to another config or to other data.
        """
        for leftover in (*self._folder.glob("*.writing"), *self._folder.glob("*.deleting")):
            shutil.rmtree(leftover)
        for path in reversed(published(self._folder)):
            try:
                found = verified(path)
            except UserError as error:
                note(f"checkpoint skipped: {error}")
                continue
            self._check_ours(found)
            return found
        return self._fetched()

    def _fetched(self) -> Checkpoint | None:
        """The newest copy, where this disk has no checkpoint."""
        url = self._train.upload
        path = remote.fetch_newest(self._folder, url, self._stage) if url else None
        if path is None:
            return None
        note(f"fetched {path.name} from {url}")
        found = verified(path)
        self._check_ours(found)
        return found

    def _check_ours(self, found: Checkpoint) -> None:
        for name, then, now in (
            ("settings", found.manifest.config_sha256, self._config_sha256),
            ("data", found.manifest.data_sha256, self._data_sha256),
        ):
            if then != now:
                raise UserError(
                    f"{found.path} was made from other {name} ({then[:12]} then, {now[:12]} now): "
                    f"bring back the {name} of that time, or choose another --run-dir"
                )
