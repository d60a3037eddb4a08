"""The article's network with batch norm, and its generator, in today's Keras; no torch.

    python scripts/keras_port.py DATA.npz BATCH EPOCHS SEED

trains on `images` uint8 `(N, 28, 28)` and `labels` `(N,)` of the file, and prints the accuracy on
its `val_images` and `val_labels`. scripts/benchmark.py calls it.
"""

import math
import os
import sys
from typing import Any

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from tensorflow import keras  # noqa: E402


def compiled_network() -> Any:
    """Return the network, to be trained with Adam."""
    layers = keras.layers
    network = keras.Sequential([keras.Input((28, 28, 1))])
    for block, channels in enumerate((32, 32, 64, 64)):
        network.add(layers.Conv2D(channels, 3))
        network.add(layers.BatchNormalization())
        network.add(layers.ReLU())
        if block % 2:
            network.add(layers.MaxPooling2D())
    network.add(layers.Flatten())
    network.add(layers.Dense(512))
    network.add(layers.BatchNormalization())
    network.add(layers.ReLU())
    network.add(layers.Dropout(0.2))
    network.add(layers.Dense(10, activation="softmax"))
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Turn uint8 `(N, 28, 28)` into float32 `(N, 28, 28, 1)` in [0, 1]."""
    return np.expand_dims(images, 3).astype(np.float32) / 255


def warped_batches(images: np.ndarray, labels: np.ndarray, batch: int) -> Any:
    """Return the generator's batches of uint8 images `(N, 28, 28)`."""
    generator = keras.preprocessing.image.ImageDataGenerator(
        rotation_range=8,
        width_shift_range=0.08,
        height_shift_range=0.08,
        shear_range=math.degrees(0.3),
        zoom_range=0.08,
    )
    return generator.flow(to_pixels(images), labels, batch_size=batch)


def main() -> None:
    """Train and validate."""
    data = np.load(sys.argv[1])
    batch, epochs, seed = map(int, sys.argv[2:])
    keras.utils.set_random_seed(seed)
    network = compiled_network()
    network.fit(warped_batches(data["images"], data["labels"], batch), epochs=epochs, verbose=0)
    values = network.evaluate(to_pixels(data["val_images"]), data["val_labels"], 1000, verbose=0)
    print(values[1])


if __name__ == "__main__":
    main()
