"""Scalars in TensorBoard's file format.

The record writer alone, without torch's SummaryWriter (3 s of imports) and without its background
thread: a training step logs a few hundred bytes.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """One new event file in a directory; TensorBoard joins all files that it finds there."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names, so they are numbered.
        number = len(list(directory.glob("events.out.tfevents.*")))
        path = directory / f"events.out.tfevents.{number:010d}"
        self._writer = RecordWriter(path.open("xb"))
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each named curve."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def restart_at(self, step: int) -> None:
        """Make TensorBoard hide the points written so far at `step` and later."""
        start = SessionLog(status=SessionLog.START)
        self._add(Event(wall_time=time.time(), step=step, session_log=start))

    def close(self) -> None:
        """Close the file; every event is on disk already."""
        self._writer.close()

    def _add(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()
