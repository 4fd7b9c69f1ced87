"""What a training step adds to the loss: graph and adversarial regularisation."""
