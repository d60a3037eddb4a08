"""MNIST in PyTorch Lightning: a small CNN, its data and its command line."""

from mnist_lightning.checkpoint import load
from mnist_lightning.classifier import MNISTClassifier
from mnist_lightning.data import MNISTDataModule
from mnist_lightning.network import ConvNet

__all__ = ["ConvNet", "MNISTClassifier", "MNISTDataModule", "load"]
