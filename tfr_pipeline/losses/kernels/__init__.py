"""What losses are computed with: batches, blocks of pairs, gradients."""
