import numpy as np
import pytest
from scipy import ndimage

from mnist_lightning.reading.windows import dilate, erode


@pytest.mark.parametrize("shape", [(30, 41, 3), (1, 50, 1), (7, 2, 1)])
@pytest.mark.parametrize("lengths", [(1, 1), (3, 5), (4, 1), (1, 40), (63, 63)])
def test_windows_are_scipys(shape: tuple[int, ...], lengths: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for pixels in (values, values > 200):
        size = (*lengths, 1)
        assert (dilate(pixels, *lengths) == ndimage.maximum_filter(pixels, size)).all()
        assert (erode(pixels, *lengths) == ndimage.minimum_filter(pixels, size)).all()
