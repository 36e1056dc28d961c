"""The benchmark systems in PyTorch: the same networks, losses and updates as PyTorch users write them."""
