"""Gradients go with the graphs that they belong to, and no sooner."""

from __future__ import annotations

import gc
import threading
import weakref

from tfr_pipeline import gradients
from tfr_pipeline.compat import gradient_table, tf


def make_cube():
    """Returns a traced function whose gradient is of our own making: 7 x."""

    @tf.custom_gradient
    def cube(x):
        return x**3, lambda upstream: upstream * 7.0 * x

    @tf.function
    def traced(x):
        return cube(x)

    return traced, traced.get_concrete_function(tf.TensorSpec([], tf.float32))


def slope(function, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return float(tape.gradient(y, x))


def test_a_function_that_is_there_can_still_be_differentiated():
    function, _ = make_cube()
    gradients.forget_unused()
    gc.collect()
    assert slope(function, 2.0) == 14.0
    gradients.forget_unused()
    # Its graph as a part of another one, whose gradient is made only now.
    assert slope(tf.function(lambda x: 2.0 * function(x)), 2.0) == 28.0


def test_a_graph_that_nobody_has_goes_with_its_gradients():
    gradients.forget_unused()
    before = len(gradient_table())
    function, concrete = make_cube()
    assert slope(function, 1.0) == 7.0
    graph = weakref.ref(concrete.graph)
    assert len(gradient_table()) > before
    del function, concrete
    assert gradients.forget_unused() > 0
    assert graph() is None
    assert len(gradient_table()) == before


def test_a_loaded_model_can_be_differentiated_until_it_is_dropped(tmp_path):
    module = tf.Module()
    module.cube, _ = make_cube()
    tf.saved_model.save(module, str(tmp_path / "model"))
    gradients.forget_unused()
    before = len(gradient_table())
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    gradients.forget_unused()
    assert slope(loaded.cube, 2.0) == 14.0
    del loaded
    gradients.forget_unused()
    assert len(gradient_table()) == before


def test_a_graph_goes_although_another_thread_is_collecting_garbage():
    entered, released = threading.Event(), threading.Event()

    class Slow:
        def __del__(self):
            entered.set()
            released.wait(10)

    def collect():
        slow = Slow()
        slow.itself = slow
        del slow
        gc.collect()

    function, _ = make_cube()
    assert slope(function, 1.0) == 7.0
    thread = threading.Thread(target=collect)
    thread.start()
    assert entered.wait(10)
    assert gc.collect() == 0  # Python's answer while somebody else is at it
    timer = threading.Timer(0.2, released.set)
    timer.start()
    del function, _
    assert gradients.forget_unused() > 0
    timer.join()
    thread.join()
