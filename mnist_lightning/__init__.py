"""MNIST in PyTorch Lightning: a small CNN, its data and its command line."""
