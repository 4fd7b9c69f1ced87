"""What a run says in its beats while it trains."""

from __future__ import annotations

import pytest

from tests.pipeline.training_helpers import make_config
from tfr_pipeline.cluster import heartbeat
from tfr_pipeline.cluster.beat import BETWEEN, REST, SAVE, STEP
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline

HOOKS = [
    *("epoch_begin", "train_batch_begin", "train_batch_end", "test_begin"),
    *("test_batch_begin", "test_batch_end", "test_end", "epoch_end", "train_end"),
]


class Listen(tf.keras.callbacks.Callback):
    """Notes what a beat would say at each of Keras's hooks, and within the steps."""

    def __init__(self):
        super().__init__()
        self.heard, self.saving = [], []
        for hook in HOOKS:
            setattr(self, f"on_{hook}", lambda *_, hook=hook, **__: self.note(hook))
        # Keras looks whether the class has these.
        self._supports_tf_logs = True

    def note(self, hook):
        beat = heartbeat.now()
        self.heard.append((hook, beat.doing, beat.step))

    def _implements_train_batch_hooks(self):
        return True

    def _implements_test_batch_hooks(self):
        return True

    def on_train_begin(self, logs=None):
        function = self.model.make_train_function()
        write = tf.train.Checkpoint.write

        def within(iterator):
            self.note("within")
            return function(iterator)

        self.model.train_function = within

        def listening(checkpoint, *args, **kwargs):
            self.saving.append(heartbeat.now().doing)
            return write(checkpoint, *args, **kwargs)

        tf.train.Checkpoint.write = listening
        self.restore = lambda: setattr(tf.train.Checkpoint, "write", write)


@pytest.fixture(scope="module")
def listened(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pulse")
    config = make_config(data, folder / "run", num_epochs=2, checkpoint_every_steps=5)
    listen = Listen()
    pipeline = build_pipeline(config)
    theirs = pipeline.build_callbacks
    pipeline.build_callbacks = lambda: [*theirs()[:-1], listen, theirs()[-1]]
    pipeline.train()
    listen.restore()
    return listen, heartbeat.now()


def test_callbacks_are_between_steps_once_the_first_has_ended(listened):
    heard = listened[0].heard
    epochs = [i for i, (hook, *_) in enumerate(heard) if hook == "epoch_begin"]
    assert heard[: epochs[1]][:6] == [
        ("epoch_begin", REST, 0),
        ("train_batch_begin", REST, 0),
        ("within", REST, 0),  # it traces
        ("train_batch_end", BETWEEN, 5),
        ("train_batch_begin", BETWEEN, 5),
        ("within", STEP, 5),
    ]
    assert heard[epochs[1] :][:6] == [
        ("epoch_begin", REST, 10),
        ("train_batch_begin", REST, 10),
        ("within", STEP, 10),
        ("train_batch_end", BETWEEN, 15),
        ("train_batch_begin", BETWEEN, 15),
        ("within", STEP, 15),
    ]


def test_validation_and_the_ends_of_an_epoch_may_take_long(listened):
    heard = [(hook, doing) for hook, doing, _ in listened[0].heard]
    found = {doing for hook, doing in heard if "test" in hook or "_end" in hook}
    assert found == {REST, BETWEEN}
    for hook, doing in heard:
        if hook in ("test_begin", "test_end", "epoch_end", "train_end"):
            assert doing == REST


def test_saving_is_no_rest_and_the_last_checkpoint_is_told(listened):
    listen, last = listened
    assert set(listen.saving) == {SAVE}
    assert (last.doing, last.step, last.kept) == (REST, 20, 20)
