"""Training: abstract pipeline, `model.fit` pipeline, strategies, callbacks."""
