"""Starts the tasks of a distributed job and looks after them.

TensorFlow reads who is who out of TF_CONFIG; everything here only writes that variable
and supervises processes. No module of this package imports TensorFlow.
"""
