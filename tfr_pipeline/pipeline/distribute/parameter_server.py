"""ParameterServerStrategy: variables on servers, steps on whichever worker is free.

The chief hands every batch, or of large data the numbers of its lists, to a worker. So
each list is seen once an epoch however fast workers are, the step of a worker that dies
is done by another, and workers and servers need no model: they run what they are sent.
"""

from __future__ import annotations

import collections
import ctypes
import itertools
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import compat
from tfr_pipeline.cluster import beat, heartbeat
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.ranking_model import NON_FINITE_LOSS, RankingModel
from tfr_pipeline.optimizers import by_layer
from tfr_pipeline.scopes import outside_scope

# Batches under way for each worker: one that it computes, one that is on its way.
_UNDER_WAY = 2
# Seconds that workers and servers wait, when told to end, for a chief that saves.
_LINGER = 45.0
_LONGEST_MESSAGE = 300


def serve(resolver: Any) -> None:
    """Runs what the chief sends to this worker or server, until SIGTERM.

    When a whole job is told to end, the chief still has to save: workers and servers
    stay while it listens, for a while.

    Args:
      resolver: Cluster resolver that knows the task.

    Raises:
      SystemExit: SIGTERM came; the code is 143.
    """
    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        server = tf.distribute.Server(
            resolver.cluster_spec(),
            job_name=resolver.task_type,
            task_index=resolver.task_id,
            protocol=resolver.rpc_layer or "grpc",
        )
        heartbeat.moves(beat.SERVE)
        print(f"listening as {resolver.task_type} {resolver.task_id}", flush=True)
        # Python handles signals between waits only.
        while not stop.wait(0.5):
            pass
        limit = time.monotonic() + _LINGER
        while time.monotonic() < limit and _listens(resolver.cluster_spec()):
            time.sleep(0.2)
        del server
    finally:
        signal.signal(signal.SIGTERM, previous)
    raise SystemExit(143)


def _listens(cluster: Any) -> bool:
    """Whether the chief of a cluster is there."""
    host, _, port = cluster.task_address("chief", 0).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _shorten(record: logging.LogRecord) -> bool:
    """Cuts what TensorFlow says of lost connections, which would fill pages."""
    message = record.getMessage()
    if len(message) > _LONGEST_MESSAGE:
        record.msg, record.args = f"{message[:_LONGEST_MESSAGE]} ...", ()
    # It makes the function anew by which variables of several processes are saved.
    return "triggered tf.function retracing" not in message


class Dispatcher:
    """Hands the batches of a dataset to workers; Keras's training function.

    Args:
      model: The model, compiled within the scope of `strategy`; starts with the
        weights of `twin`.
      twin: The same model, compiled without strategy.
      strategy: A `ParameterServerStrategy`.
      resolver: Its cluster resolver.

    Attributes:
      twin: As given; has the weights of the last epoch, in this process.
      step: Number of steps handed out since training began.
    """

    def __init__(
        self, model: tf.keras.Model, twin: tf.keras.Model, strategy: Any, resolver: Any
    ):
        if strategy.num_replicas_in_sync > 1:
            raise ConfigError(
                "ParameterServerStrategy: expected workers with one GPU or none, found "
                f"{strategy.num_replicas_in_sync}. Start a worker for each, with "
                "CUDA_VISIBLE_DEVICES set."
            )
        self._model, self.twin, self._strategy = model, twin, strategy
        self.spread()
        tf.get_logger().addFilter(_shorten)
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        # Never destroyed: that takes a lock which is held until a lost worker is back,
        # and at the end of the process nobody can give it free any more.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._coordinator))
        self._batches: Iterator[Any] = iter(())
        self._size: Callable[[int], Any] = lambda steps: None
        self._step: Any = None
        self._make_step: Callable[[], Any] | None = None
        self._score: Any = None
        self._scored_as: Any = None
        self._under_way: list[Any] = []
        workers = resolver.cluster_spec().num_tasks("worker")
        self._most = _UNDER_WAY * workers
        self._taken: Any = np.zeros([workers, 2], np.int64)
        self.step = 0

    def feed(
        self,
        dataset: tf.data.Dataset,
        step: int,
        size: Callable[[int], Any],
        make: Callable[..., Any] | None = None,
    ) -> None:
        """Takes the batches from `step` on.

        Args:
          dataset: The batches, or what workers make them of.
          step: Number of the first one.
          size: See `Feed.take_sizes`.
          make: Makes a batch of an element, in a worker; None if it is one.
        """
        self._batches, self.step, self._size = iter(dataset), step, size
        self._model.input_seconds = 0.0
        if self._step is None:
            model, strategy = self._model, self._strategy

            def train(batch: Any) -> Any:
                if make is not None:
                    batch = make(*batch)
                logs = strategy.run(model.train_step, args=(batch,))
                if "loss" in logs:
                    loss = tf.debugging.check_numerics(logs["loss"], NON_FINITE_LOSS)
                    logs = {**logs, "loss": loss}
                return logs

            spec = [dataset.element_spec]
            self._make_step = lambda: tf.function(
                train, input_signature=spec, autograph=False
            )
            self.retrace()

    def retrace(self) -> None:
        """Traces the step anew when it is next handed out; other layers may train."""
        assert self._make_step is not None, "feed comes first"
        self._step = self._make_step()

    def __call__(self, iterator: Any) -> Any:
        """Hands out one batch; waits while workers have enough to do."""
        while len(self._under_way) >= self._most:
            self._count()
        idle, began = self._coordinator.done(), time.perf_counter()
        batch = next(self._batches)
        if idle:
            self._model.input_seconds += time.perf_counter() - began
        value = self._coordinator.schedule(self._step, args=(batch,))
        self._under_way.append((value, self._size(1)))
        self.step += 1
        return value

    def _count(self) -> None:
        """Waits for a step under way to end, and notes whose it was."""
        # Nothing public says whether one has ended. The first is not waited for: its
        # worker may be slow, or lost.
        while not (done := [item for item in self._under_way if _has_ended(item[0])]):
            time.sleep(0.001)
        value, sizes = done[0]
        self._under_way.remove(done[0])
        try:
            value.get()
        except tf.errors.CancelledError:
            self._coordinator.join()  # raises what the others were cancelled for
            raise
        if sizes is None:
            self._taken = None
            return
        # Nothing public says where a function has run.
        device = compat.first_part(value).device
        self._taken[tf.DeviceSpec.from_string(device).task] += sizes[0]

    def take_sizes(self, steps: int) -> np.ndarray | None:
        """Returns int64 `[workers, 2]`: lists and documents since the last call.

        Args:
          steps: Not needed: what is done counts, not what was handed out.
        """
        taken = self._taken
        if taken is not None:
            self._taken = np.zeros_like(taken)
        return taken

    def settle(self) -> None:
        """Waits for the steps under way, and counts each of them once.

        A step that was sent again, because its worker was lost, may have been taken
        twice.
        """
        with heartbeat.doing(beat.WAIT):
            self._coordinator.join()
            while self._under_way:
                self._count()
        for optimizer in by_layer.all_of(self._model.optimizer):
            optimizer.iterations.assign(self.step)

    @property
    def can_judge(self) -> bool:
        """Whether scores of workers can be counted as an evaluation counts them."""
        return isinstance(self.twin, RankingModel) and self.twin.can_judge

    def scored(
        self, elements: tf.data.Dataset, make: Callable[..., Any]
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Yields labels, scores and weights of batches, in order; workers score them.

        Call `settle` before.

        Args:
          elements: What batches are made of.
          make: Makes a batch of an element, in a worker.
        """
        if self._score is None:
            model, strategy = self._model, self._strategy

            @tf.function(input_signature=[elements.element_spec], autograph=False)
            def score(element: Any) -> Any:
                x, y, weight = tf.keras.utils.unpack_x_y_sample_weight(make(*element))
                y_pred = strategy.run(lambda: model.scores(x, training=False))
                whole = [y, y_pred] if weight is None else [y, y_pred, weight]
                self._scored_as = tf.nest.map_structure(tf.type_spec_from_value, whole)
                # Ragged tensors would not come back as such.
                return tf.nest.flatten(whole, expand_composites=True)

            self._score = score
        waiting: collections.deque[Any] = collections.deque()
        batches = iter(elements)
        while True:
            for element in itertools.islice(batches, self._most - len(waiting)):
                value = self._coordinator.schedule(self._score, args=(element,))
                waiting.append(value)
            if not waiting:
                return
            parts = [tf.constant(part) for part in waiting.popleft().fetch()]
            y, y_pred, *weight = tf.nest.pack_sequence_as(
                self._scored_as, parts, expand_composites=True
            )
            yield y, y_pred, weight[0] if weight else None

    def results(self, names: Iterable[str]) -> dict[str, float]:
        """Returns those of the training's losses and metrics that have these names."""
        metrics = {metric.name: metric for metric in self._model.metrics}
        return {n: float(metrics[n].result()) for n in names if n in metrics}

    def spread(self) -> None:
        """Gives the model the weights of the twin."""
        _spread_weights(self.twin, self._model)

    def gather(self) -> tf.keras.Model:
        """Returns the twin, with the weights of this moment."""
        _gather_weights(self._model, self.twin)
        return self.twin

    @staticmethod
    def no_data() -> Any:
        """Returns what Keras is given to iterate over instead of data."""
        return tf.keras.utils.experimental.DatasetCreator(
            lambda _: tf.data.Dataset.range(1).repeat()
        )


class Validate(tf.keras.callbacks.Callback):
    """Evaluates after each epoch in this process, on a copy of the model.

    Workers that read for themselves score large data; it is counted here, in order, so
    that each list counts once. Stands first: the other callbacks see its results as
    those of `model.fit`.

    Args:
      dispatcher: Hands out the steps.
      dataset: Validation data, or None.
      steps: Batches of it; None for all.
      measures: Callbacks that want to know when training ends and validation begins.
      make: Makes a batch of an element of the dataset, in a worker, which scores it;
        None if elements are batches.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        dataset: Any,
        steps: int | None,
        measures: Sequence[tf.keras.callbacks.Callback] = (),
        make: Callable[..., Any] | None = None,
    ):
        super().__init__()
        self._supports_tf_logs = True
        self._dispatcher, self._dataset, self._steps = dispatcher, dataset, steps
        self._measures, self._make = measures, make
        self._judge: Any = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self._dispatcher.settle()
        for callback in self._measures:
            callback.on_test_begin()
        # Those of the last step that was handed out lack what was under way then.
        logs.update(self._dispatcher.results(logs))
        twin = self._dispatcher.gather()
        if self._dataset is None:
            return
        make = self._make
        found = outside_scope(
            lambda: self._on_workers(twin, make) if make else self._here(twin)
        )
        logs.update({f"val_{name}": value for name, value in found.items()})

    def _here(self, twin: tf.keras.Model) -> dict[str, float]:
        found: dict[str, float] = twin.evaluate(
            self._dataset, steps=self._steps, return_dict=True, verbose=0
        )
        return found

    def _on_workers(
        self, twin: tf.keras.Model, make: Callable[..., Any]
    ) -> dict[str, float]:
        """Counts, in order, what workers have scored."""
        if self._judge is None:
            self._judge = tf.function(
                twin.judge, autograph=False, reduce_retracing=True
            )
        twin.reset_metrics()
        elements = self._dataset.take(-1 if self._steps is None else self._steps)
        for y, y_pred, weight in self._dispatcher.scored(elements, make):
            self._judge(y, y_pred, weight)
        return {metric.name: float(metric.result()) for metric in twin.metrics}


def _has_ended(value: Any) -> bool:
    return compat.is_ready(value)


def _gather_weights(model: tf.keras.Model, twin: tf.keras.Model) -> None:
    """Copies weights of servers, large ones in parts, to a model of this process."""
    parts = iter(model.weights)
    for weight in twin.weights:
        value = next(parts).numpy()
        while value.shape != weight.shape:
            value = np.concatenate([value, next(parts).numpy()])
        weight.assign(value)


def _spread_weights(twin: tf.keras.Model, model: tf.keras.Model) -> None:
    """Reverse of `_gather_weights`: parts get what the whole was initialised with."""
    parts = iter(model.weights)
    for weight in twin.weights:
        rest = weight.numpy()
        while (part := next(parts)).shape != rest.shape:
            part.assign(rest[: part.shape[0]])
            rest = rest[part.shape[0] :]
        part.assign(rest)
