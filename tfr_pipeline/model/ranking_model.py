"""`RankingModel`: the Keras model with a training step made for ranking."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline import compat, global_batch
from tfr_pipeline.model.checks import check_features
from tfr_pipeline.model.encoded import Encoding, is_encoded
from tfr_pipeline.model.layers.lists import fixed_shapes
from tfr_pipeline.model.layers.members import averaged, members_of, repeated
from tfr_pipeline.model.prepared import Preparation, is_prepared

NON_FINITE_LOSS = "tfr_pipeline: the loss is not finite"


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class RankingModel(tf.keras.Model):
    """A functional Keras model whose training step stops before it does harm.

    Loss and gradient are checked before the gradient is applied, so that weights, what
    the optimizer remembers and the step count stay those of the last good step. Ranking
    metrics sort every list many times over; training steps leave them to validation
    unless `training_metrics` is set.

    Attributes:
      preparation: What of the preprocessing can be done before training, or None.
      prepared_call: Scores a batch whose features have been prepared; training and
        test steps take such batches as well as raw ones.
      position_bias: What a loss on clicks takes of positions, which then stand where
        weights do in batches, a `PositionBias`; or None. Metrics judge the scores
        without it.
      regularization: What adds to the loss of training steps beside the losses that
        the model is compiled with, a `regularization.step.Regularization`; or None.
      weight_averages: Averages of the weights that training steps keep, an
        `optimizers.averaging.Averages`; or None.
      gradient_norms: What gathers norms of gradients in training steps, a
        `gradient_norms.GradientNorms`; or None.
    """

    preparation: Preparation | None = None
    prepared_call: Callable[..., Any] | None = None
    _encoding: Encoding | None = None
    _encodes = True
    position_bias: Any = None
    regularization: Any = None
    weight_averages: Any = None
    gradient_norms: Any = None

    training_metrics = False
    # For how long training steps waited for batches; None where Keras drives them.
    input_seconds: float | None = None
    # XLA and TPU programs cannot stop in the middle.
    check_loss = True
    train_function: Any
    test_function: Any

    def make_train_function(self, force: bool = False) -> Any:
        """See `tf.keras.Model`."""
        if self.train_function is not None and not force:
            return self.train_function
        if type(self).train_step is not RankingModel.train_step or self._own_loop:
            return super().make_train_function(force)

        def results() -> dict[str, Any]:
            return self._training_logs()

        steps = self._many_steps(self._train, self._train_counter, results)
        self.input_seconds = 0.0

        def function(iterator: Any) -> dict[str, Any]:
            logs, seconds = steps(iterator)
            self.input_seconds = (self.input_seconds or 0.0) + float(seconds)
            return logs

        self.train_function, self.train_tf_function = function, steps
        return function

    def make_test_function(self, force: bool = False) -> Any:
        """See `tf.keras.Model`."""
        if self.test_function is not None and not force:
            return self.test_function
        if type(self).test_step is not RankingModel.test_step or self._own_loop:
            return super().make_test_function(force)

        def results() -> dict[str, Any]:
            return {metric.name: metric.result() for metric in self.metrics}

        steps = self._many_steps(self._test, self._test_counter, results)

        def function(iterator: Any) -> dict[str, Any]:
            return steps(iterator)[0]

        self.test_function = function
        return function

    @property
    def _own_loop(self) -> bool:
        """Whether Keras has to drive the steps in one of its other ways."""
        return bool(
            self._cluster_coordinator
            or self.run_eagerly
            or self.jit_compile
            or self._computes_metrics
        )

    @property
    def _computes_metrics(self) -> bool:
        """Whether a subclass says what a step reports."""
        return type(self).compute_metrics is not tf.keras.Model.compute_metrics

    def _many_steps(self, step: Any, counter: Any, results: Any) -> Any:
        """Returns a function of an iterator that takes `steps_per_execution` steps.

        Keras's carries what a step returns through the loop, and traces the step twice
        to learn its shape; this one looks at the metrics when the loop has ended. It
        also returns the seconds for which steps waited for their batches.
        """

        def one(data: Any) -> None:
            step(data)
            counter.assign_add(1)

        def many(iterator: Any) -> tuple[dict[str, Any], Any]:
            waited = tf.constant(0.0, tf.float64)
            for _ in tf.range(self._steps_per_execution):
                # Asks for a batch when the step before has ended, and looks at the
                # clock again when the batch is there.
                with tf.control_dependencies([waited]):
                    asked = tf.timestamp()
                with tf.control_dependencies([asked]):
                    data = next(iterator)
                with tf.control_dependencies(tf.nest.flatten(data, True)):
                    came = tf.timestamp()
                    waited += came - asked
                data = _after(came, data)
                graph = tf.compat.v1.get_default_graph()
                before = len(graph.get_operations())
                self.distribute_strategy.run(one, args=(data,))
                step_ends = graph.get_operations()[before:]
                with tf.control_dependencies(step_ends):
                    waited = tf.identity(waited)
            return results(), waited

        return tf.function(many, reduce_retracing=True)

    def train_step(self, data: Any) -> dict[str, Any]:
        """See `tf.keras.Model`."""
        found = self._train(data)
        if found is not None:
            return found
        return self._training_logs()

    def _training_logs(self) -> dict[str, Any]:
        metrics = self.metrics if self.training_metrics else self._loss_metrics()
        if self.regularization is not None:
            metrics = [*metrics, *self.regularization.metrics]
        return {metric.name: metric.result() for metric in metrics}

    def reset_metrics(self) -> None:
        """See `tf.keras.Model`."""
        super().reset_metrics()
        if self.regularization is not None:
            for metric in self.regularization.metrics:
                metric.reset_state()

    def test_step(self, data: Any) -> dict[str, Any]:
        """See `tf.keras.Model`."""
        found = self._test(data)
        return self.get_metrics_result() if found is None else found

    def _train(self, data: Any) -> dict[str, Any] | None:
        """Takes a step; to read metrics would be an exchange between replicas.

        Returns:
          What an overridden `compute_metrics` returns, else None.
        """
        x, y, sample_weight = tf.keras.utils.unpack_x_y_sample_weight(data)
        x, sizes = global_batch.take_sizes(x)
        batch = global_batch.of(y, sizes)
        added: Any = None
        with tf.GradientTape() as tape:
            if self.regularization is not None:
                y_pred, loss, added = self.regularization.losses(
                    self, x, y, sample_weight, batch
                )
            else:
                y_pred = self.scores(x, training=True)
                with global_batch.known(batch):
                    loss = self.member_loss(x, y, y_pred, sample_weight)
            if self.check_loss:
                loss = tf.debugging.check_numerics(loss, NON_FINITE_LOSS)
            # The metric of the loss is weighted by lists already, its gradient is not.
            if batch is not None and self.averages:
                share = tf.cast(batch.share, loss.dtype)
                penalty = self.penalty(loss.dtype)
                loss = (loss - penalty) * share + penalty
            if added is not None:
                if self.check_loss:
                    added = tf.debugging.check_numerics(added, NON_FINITE_LOSS)
                loss += added
        self._validate_target_and_loss(y, loss)
        # The step is not counted before its loss has been checked.
        with tf.control_dependencies([loss]):
            self._minimize(loss, tape)
            if self.weight_averages is not None:
                self.weight_averages.update(self.optimizer.iterations)
        if not self.training_metrics:
            return None
        with global_batch.known(batch):
            y_pred = averaged(y_pred, self.members)
            _, sample_weight = self._judged(y, y_pred, sample_weight, False)
            return self._update_metrics(x, y, y_pred, sample_weight)

    @property
    def members(self) -> int:
        """How many times its lists a batch has scores for in training."""
        return members_of(self)

    def member_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Returns the loss of what the model is trained on: of each member's scores.

        Args:
          x: Features.
          y: Labels.
          y_pred: Scores of the lists, once for each member.
          sample_weight: Weights, or None.
        """
        y, sample_weight = self.for_members((y, sample_weight))
        y_pred, sample_weight = self._judged(y, y_pred, sample_weight, True)
        return self.compute_loss(x, y, y_pred, sample_weight)

    def for_members(self, structure: Any) -> Any:
        """Returns labels and weights as they fit the scores of a training step."""
        return repeated(structure, self.members)

    def _minimize(self, loss: Any, tape: tf.GradientTape) -> None:
        """Applies a gradient whose squares are finite.

        Optimizers remember squares. An infinite one does no harm before the next step,
        whose batch would be blamed, and a checkpoint between the two is of no use.
        """
        optimizer, variables = self.optimizer, self.trainable_variables
        # These may make a gradient finite that is not.
        mends = all(
            any(getattr(one, key, None) for key in ("clipnorm", "clipvalue"))
            for one in (optimizer, *getattr(optimizer, "others", ()))
        )
        scales = isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
        base = tf.keras.optimizers.Optimizer
        own = scales or getattr(type(optimizer), "minimize", None) is not base.minimize
        checks = self.check_loss and not mends
        if own or not (checks or self.gradient_norms):
            optimizer.minimize(loss, variables, tape=tape)
            return
        gradients = optimizer.compute_gradients(loss, variables, tape)
        kwargs = {}
        if self.gradient_norms:
            gradients = optimizer.aggregate_gradients(gradients)
            self.gradient_norms.update(gradients)
            kwargs = {"skip_gradients_aggregation": True}
        squares = [
            # Sparse gradients have values.
            tf.cast(tf.nn.l2_loss(getattr(gradient, "values", gradient)), loss.dtype)
            for gradient, _ in gradients
            if gradient is not None and checks
        ]
        checked = []
        if squares:
            total = tf.add_n(squares)
            checked.append(tf.debugging.check_numerics(total, NON_FINITE_LOSS))
        with tf.control_dependencies(checked):
            optimizer.apply_gradients(gradients, **kwargs)

    def _test(self, data: Any) -> dict[str, Any] | None:
        """Evaluates a batch, as `_train` trains on one."""
        x, y, sample_weight = tf.keras.utils.unpack_x_y_sample_weight(data)
        x, sizes = global_batch.take_sizes(x)
        y_pred = self.scores(x, training=False)
        judged, sample_weight = self._judged(y, y_pred, sample_weight, False)
        with global_batch.known(global_batch.of(y, sizes)):
            self.compute_loss(x, y, judged, sample_weight)
            return self._update_metrics(x, y, y_pred, sample_weight)

    @property
    def can_judge(self) -> bool:
        """Whether `judge` does what `test_step` does; if not, something is overridden.

        Nor does it where losses are made of what is within the model.
        """
        own = type(self)
        return (
            own.test_step is RankingModel.test_step
            and own.compute_loss is tf.keras.Model.compute_loss
            and not self._computes_metrics
            and len(self.losses) == len(compat.weight_losses(self))
        )

    def judge(self, y: Any, y_pred: Any, sample_weight: Any) -> None:
        """Counts scores that somebody else has computed; see `scores`.

        Args:
          y: Labels, as in a batch.
          y_pred: Scores.
          sample_weight: Weights, or None.
        """
        judged, sample_weight = self._judged(y, y_pred, sample_weight, False)
        self.compute_loss(None, y, judged, sample_weight)
        self._update_metrics(None, y, y_pred, sample_weight)

    @property
    def trainable_weights(self) -> list[Any]:
        """See `tf.keras.Model`; what is learnt of positions is trained too.

        It is not among `weights`, which are what is exported.
        """
        found = super().trainable_weights
        if self.position_bias is None or not self.trainable:
            return found
        return [*found, *self.position_bias.trainable_weights]

    def _judged(
        self, y: Any, y_pred: Any, sample_weight: Any, training: bool
    ) -> tuple[Any, Any]:
        """Returns the scores and the weights that the loss is computed of."""
        if self.position_bias is None:
            return y_pred, sample_weight
        found: tuple[Any, Any] = self.position_bias.for_loss(
            y, y_pred, sample_weight, training
        )
        return found

    def _update_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any
    ) -> dict[str, Any] | None:
        if self._computes_metrics:
            return self.compute_metrics(x, y, y_pred, sample_weight)
        self.compiled_metrics.update_state(y, y_pred, sample_weight)
        return None

    def add_loss(self, losses: Any, **kwargs: Any) -> None:
        """See `tf.keras.Model`.

        A tensor that was made of a batch counts as a mean over its lists, as the loss
        itself does, however many replicas share them.
        """
        super().add_loss(losses, **kwargs)
        # The view behind the preparation is not made for this.
        self.preparation = self.prepared_call = None
        self._encodes = False

    @property
    def losses(self) -> list[Any]:
        """See `tf.keras.Model`; those of a replica without lists are 0."""
        return [global_batch.zero_without_lists(loss) for loss in super().losses]

    def penalty(self, dtype: Any) -> Any:
        """Returns what regularisation of weights adds to the loss of a replica."""
        losses = compat.weight_losses(self)
        total = sum(tf.cast(tf.reduce_sum(loss), dtype) for loss in losses)
        return total / tf.distribute.get_strategy().num_replicas_in_sync

    @property
    def encoding(self) -> Encoding | None:
        """What of the model can be encoded before training; None for nothing."""
        if self._encoding is None and self._encodes:
            self._encoding = Encoding(self)
            self._encodes = bool(self._encoding.calls)
        return self._encoding if self._encodes else None

    def scores(self, x: Any, training: bool) -> Any:
        """Returns the scores of the features of a batch, prepared, encoded or not."""
        if self.prepared_call is not None and is_prepared(x):
            return self.prepared_call(x, training=training)
        if self._encoding is not None and is_encoded(x):
            return self._encoding.scores(x, training)
        return self(x, training=training)

    def _loss_metrics(self) -> list[Any]:
        return self.compiled_loss.metrics

    @property
    def averages(self) -> bool:
        """Whether losses are means over lists; sums over replicas add up by themselves.

        Regularisation is the same on all replicas, whose shares have the mean 1.
        """
        losses = compat.losses_of(self)
        total = tf.keras.losses.Reduction.SUM
        return all(getattr(loss, "reduction", None) != total for loss in losses)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """See `tf.keras.Model`.

        Raises:
          DataError: A dict of features lacks one, or has one of another shape.
        """
        if isinstance(inputs, Mapping):
            inputs = check_features(self, inputs)
        with fixed_shapes() if self.jit_compile else contextlib.nullcontext():
            return super().__call__(inputs, *args, **kwargs)

    # Saving and loading

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """See `tf.keras.Model`.

        Keras makes a new optimizer when it loads a SavedModel, although what the old
        one had learnt is in it. Here the new one takes it over.
        """
        restored = self.optimizer if kwargs.get("from_serialized") else None
        super().compile(*args, **kwargs)
        if restored is None or self.optimizer is None:
            return
        self.optimizer.build(self.trainable_variables)
        old, new = restored.variables, self.optimizer.variables
        if [value.shape for value in old] == [value.shape for value in new]:
            for value, variable in zip(old, new, strict=True):
                variable.assign(value)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """See `tf.keras.Model`, which leaves out models with an own `compile`."""
        self.compile(**tf.keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.Model`."""
        return {
            **super().get_config(),
            "training_metrics": self.training_metrics,
            "check_loss": self.check_loss,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """See `tf.keras.Model`."""
        model = super().from_config(config, custom_objects)
        for name in ("training_metrics", "check_loss"):
            setattr(model, name, config.get(name, getattr(cls, name)))
        return model


def _after(moment: Any, data: Any) -> Any:
    """Returns the same data, but not before a moment has been taken.

    Where one thread does all, it may be well within a step before it reads the clock.
    """
    parts = []
    for part in tf.nest.flatten(data, expand_composites=True):
        with tf.control_dependencies([moment]), tf.device(part.device or None):
            parts.append(tf.identity(part))
    return tf.nest.pack_sequence_as(data, parts, expand_composites=True)
